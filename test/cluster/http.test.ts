/** What a running node serves over HTTP. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { writeFile } from "node:fs/promises"
import { connect, type Socket } from "node:net"
import { join } from "node:path"
import { Status } from "../../src/replication/Status.ts"
import { temporaryFolder } from "../support/folder.ts"
import { lineOf, run, type Running, start } from "./command.ts"
import { configure, list } from "./configure.ts"

/** The address that a node says it serves. */
const urlOf = (node: Running) =>
  Effect.map(lineOf(node, /it serves http/), (line) => /(http:\S+)\/health/.exec(line)?.[1] ?? "")

const get = (url: string) =>
  Effect.promise(async () => {
    const response = await fetch(url)
    return { code: response.status, headers: response.headers, body: await response.text() }
  })

const decodeStatus = Schema.decodeUnknownEffect(Schema.fromJsonString(Status))

/** A connection that sends some bytes and then nothing more, and reads nothing. */
const silent = (url: string, bytes: string) =>
  Effect.acquireRelease(
    Effect.callback<Socket>((resume) => {
      const { hostname, port } = new URL(url)
      const socket = connect(Number(port), hostname, () => {
        socket.write(bytes)
        resume(Effect.succeed(socket))
      })
      socket.on("error", () => undefined)
    }),
    (socket) => Effect.sync(() => socket.destroy())
  )

describe("a node's HTTP server", () => {
  it.live(
    "says 503 with the status and when to come back while something is owed and no peer is known, and 200 behind it",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const config = yield* configure(folder, "reader")
        yield* list(folder, config, "db/a", "some bytes")
        const reader = yield* start(["node", "--config", config, "--supervised"])
        const url = yield* urlOf(reader)
        yield* lineOf(reader, /no peer is known that could have them/)

        const health = yield* get(`${url}/health`)
        assert.strictEqual(health.code, 200)
        assert.include(health.body, "\"node\":\"reader\"")
        const refused = yield* get(`${url}/ready`)
        assert.strictEqual(refused.code, 503)
        assert.match(refused.headers.get("retry-after") ?? "", /^\d+$/)
        assert.strictEqual(refused.headers.get("cache-control"), "no-store")
        const status = yield* decodeStatus(refused.body)
        assert.deepStrictEqual([status.node, status.ready, status.owed.files], ["reader", false, 1])
        assert.strictEqual(status.reason, "1 file is owed, 10 bytes, and no peer is known that could have them")

        const source = join(folder, "source")
        yield* Effect.promise(() => writeFile(source, "some bytes"))
        const writer = yield* configure(folder, "writer")
        const published = yield* run(["publish", source, "--as", "db/a", "--config", writer])
        assert.strictEqual(published.code, 0, published.stderr)
        const serving = yield* start(["node", "--config", writer])
        yield* lineOf(serving, /listens on/)
        yield* lineOf(reader, /"ready":true/)
        const ready = yield* get(`${url}/ready`)
        assert.strictEqual(ready.code, 200)
        const complete = yield* decodeStatus(ready.body)
        assert.deepStrictEqual([complete.ready, complete.reason, complete.owed.files], [true, "", 0])
        assert.isNull(ready.headers.get("retry-after"))
        assert.strictEqual((yield* get(`${url}/nothing`)).code, 404)
      }),
    60_000
  )

  it.live("keeps no shutdown waiting for clients that are slow, silent or do not read", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      // Whoever needs longer ends with 1.
      const node = yield* start(["node", "--config", yield* configure(folder, "node")], {
        ARC_SERVER_SHUTDOWN_TIMEOUT_MS: "5000"
      })
      const url = yield* urlOf(node)
      yield* Effect.forEach(
        [
          "",
          "GET /ready HT",
          "GET /ready HTTP/1.1\r\nhost: a\r\n\r\n".repeat(2000),
          "POST /ready HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nx",
          "GET /ready HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        ],
        (bytes) => silent(url, bytes)
      )
      assert.strictEqual((yield* get(`${url}/health`)).code, 200)
      node.child.kill("SIGTERM")
      assert.strictEqual(yield* node.exit, 0)
    }), 60_000)

  it.live("says that a port is taken, and by which setting it is chosen", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const first = yield* start(["node", "--config", yield* configure(folder, "first")])
      const { port } = new URL(yield* urlOf(first))
      const { code, stderr } = yield* run(["node", "--config", yield* configure(folder, "second")], {
        ARC_SERVER_PORT: port
      })
      assert.strictEqual(code, 1)
      assert.match(
        stderr,
        new RegExp(`file-replication: can't serve HTTP on 127\\.0\\.0\\.1 port ${port}: .*server\\.port`)
      )
      assert.notMatch(stderr, /\n\s+at /)
    }), 60_000)

  it.live("is not there when server.enabled is false", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const config = yield* configure(folder, "node")
      const node = yield* start(["node", "--config", config, "--supervised"], { ARC_SERVER_ENABLED: "false" })
      yield* lineOf(node, /"ready":true/)
      assert.notInclude(node.output().stderr, "it serves")
      node.child.kill("SIGTERM")
      assert.strictEqual(yield* node.exit, 0)
    }), 60_000)
})
