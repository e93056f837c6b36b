/** Who may change something. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { lineOf, run, start } from "../cluster/command.ts"
import { configure } from "../cluster/configure.ts"
import { temporaryFolder } from "../support/folder.ts"
import { ask, Node, refused } from "./node.ts"

describe("the token", () => {
  it.live(
    "is asked of calls that change something, and of no other",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const token = join(folder, "token")
        yield* Effect.promise(() => writeFile(token, "a token of the tests\n"))
        const config = yield* configure(folder, "node")
        const environment = {
          ARC_SERVER_HOST: "0.0.0.0",
          ARC_SERVER_API_TOKEN_FILE: token,
          ARC_SERVER_MAX_FILE_BYTES: "1000"
        }
        const running = yield* start(["node", "--config", config], environment)
        const port = /http:\S+:(\d+)\/health/.exec(yield* lineOf(running, /it serves http/))?.[1] ?? ""
        const here = Layer.succeed(Node, { url: `http://127.0.0.1:${port}`, data: "" })
        const call = (method: string, path: string, authorization?: string) =>
          ask(method, path, authorization === undefined ? {} : { headers: { authorization } }).pipe(
            Effect.provide(here)
          )
        for (const wrong of [undefined, "", "Bearer", "Bearer ", "Bearer other", "Basic YTpi", "Bearer a token"]) {
          for (
            const [method, path] of [
              ["PUT", "/api/v1/files/a"],
              ["POST", "/api/v1/cluster/files"],
              ["DELETE", "/api/v1/cluster/files/a"],
              ["POST", "/api/v1/cluster/verify"],
              ["POST", "/api/v1/cluster/pause"],
              ["POST", "/api/v1/cluster/resume"],
              ["POST", "/api/v1/cluster/limits"],
              ["POST", "/api/v1/cluster/manifest"],
              ["POST", "/api/v1/cluster/forget"],
              ["GET", "/api/v1/cluster/copies/a"],
              ["DELETE", "/api/v1/cluster/members/a"]
            ] as const
          ) {
            const answer = yield* call(method, path, wrong)
            yield* refused(answer, 401, "Unauthorized")
            assert.strictEqual(answer.headers["www-authenticate"], "Bearer")
          }
        }
        assert.strictEqual((yield* call("PUT", "/api/v1/files/a", "Bearer a token of the tests")).status, 201)
        // With its length or without: no byte more than this node takes.
        for (const headers of [{}, { "transfer-encoding": "chunked" }]) {
          const authorization = "Bearer a token of the tests"
          const put = (path: string, length: number) =>
            ask("PUT", path, { headers: { ...headers, authorization }, body: "x".repeat(length) }).pipe(
              Effect.provide(here)
            )
          yield* refused(yield* put("/api/v1/files/long", 1001), 413, "TooLarge")
          assert.include([200, 201], (yield* put("/api/v1/files/longest", 1000)).status)
        }
        for (const path of ["/health", "/ready", "/api/v1/cluster", "/api/v1/cluster/files", "/api/v1/files/a"]) {
          assert.strictEqual((yield* call("GET", path)).status, 200)
        }
      }).pipe(Effect.scoped),
    60_000
  )

  it.live("must be set where others than this machine can reach the node", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const config = yield* configure(folder, "node")
      const { code, stderr } = yield* run(["node", "--config", config], { ARC_SERVER_HOST: "0.0.0.0" })
      assert.strictEqual(code, 2)
      assert.match(stderr, /server\.api_token is missing: server\.host is 0\.0\.0\.0/)
    }).pipe(Effect.scoped))
})
