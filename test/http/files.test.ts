/** Files over HTTP, published to and read from a real node. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Option, Schedule, Stream } from "effect"
import { randomBytes } from "node:crypto"
import { appendFileSync, readdirSync, readFileSync, truncateSync } from "node:fs"
import { mkdir, writeFile } from "node:fs/promises"
import { connect, type Socket } from "node:net"
import { dirname, join } from "node:path"
import { makeClient } from "../../src/cli/client.ts"
import { openFile } from "../../src/cli/userFiles.ts"
import { Registration } from "../../src/http/answers.ts"
import { FileReport } from "../../src/replication/FileReport.ts"
import { temporaryFolder } from "../support/folder.ts"
import { ask, decode, json, Node, node, put, refused, sha256 } from "./node.ts"

/** What lies in the staging folder. */
const staged = Effect.map(
  Node,
  ({ data }) =>
    readdirSync(join(data, ".replication", "staging"), { recursive: true, withFileTypes: true }).filter((each) =>
      each.isFile()
    ).map(({ name }) => name)
)

layer(node, { timeout: 60_000, excludeTestServices: true })("files over HTTP", (it) => {
  describe("publishing", () => {
    it.effect("takes a body as a file: 201, the same again 200, other bytes 409", () =>
      Effect.gen(function*() {
        const bytes = randomBytes(3_000_000)
        const first = yield* ask(
          "PUT",
          "/api/v1/files/up/cpu/2026/04/11/14/a;b%20%C3%A4?tier=cold&lsn=18446744073709551615",
          {
            body: bytes
          }
        )
        assert.strictEqual(first.status, 201, first.text)
        const { entry } = yield* decode(Registration, first)
        assert.deepInclude<object>(entry, {
          path: "up/cpu/2026/04/11/14/a;b ä",
          sha256: sha256(bytes),
          size_bytes: 3_000_000,
          database: "up",
          measurement: "cpu",
          partition_time: "2026-04-11T14:00:00Z",
          tier: "cold",
          lsn: 18446744073709551615n
        })
        const { data } = yield* Node
        assert.isTrue(readFileSync(join(data, entry.path)).equals(bytes))
        const again = yield* ask("PUT", "/api/v1/files/up/cpu/2026/04/11/14/a;b%20%C3%A4", { body: bytes })
        assert.deepStrictEqual([again.status, again.headers["etag"]], [200, `"${sha256(bytes)}"`])
        yield* refused(yield* put("up/cpu/2026/04/11/14/a;b%20%C3%A4", "other"), 409, "Conflict")
        yield* refused(yield* put("up/cpu/2026/04/11/14/a;b%20%C3%A4/below", "other"), 409, "Conflict")
        assert.isTrue(readFileSync(join(data, entry.path)).equals(bytes))
        assert.strictEqual((yield* put("up/empty", "")).status, 201)
      }))

    it.effect("takes nothing of a file that changes while the command sends it, and all of it once it is whole", () =>
      Effect.gen(function*() {
        const file = join(yield* temporaryFolder, "file")
        const { url } = yield* Node
        const client = yield* makeClient(url, Option.none())
        const send = Effect.fnUntraced(function*(path: string, during: () => void) {
          const { bytes, length } = yield* openFile(file)
          const changing = Stream.onStart(bytes, Effect.sync(during))
          return yield* client.send("PUT", `/api/v1/files/${path}`, changing, length, Registration)
        }, Effect.scoped)
        for (const size of [1, 3_000_000]) {
          const path = `up/changing-${size}`
          yield* Effect.promise(() => writeFile(file, randomBytes(size)))
          for (const change of [() => appendFileSync(file, "more"), () => truncateSync(file, size - 1)]) {
            const error = yield* Effect.flip(send(path, change))
            assert.strictEqual(error.message, `${file}: it changed while it was read`)
            assert.strictEqual((yield* ask("GET", `/api/v1/files/${path}`)).status, 404)
          }
          const { entry } = yield* send(path, () => {})
          assert.strictEqual(entry.sha256, sha256(readFileSync(file)))
        }
        assert.deepStrictEqual(yield* staged, [])
      }).pipe(Effect.provide(NodeHttpClient.layerNodeHttp)))

    it.effect("refuses every path that could lead astray, and writes nothing", () =>
      Effect.gen(function*() {
        for (
          const path of [
            "../x",
            "a/../../x",
            "a/%2e%2e/x",
            "%2e%2e%2fx",
            "/etc/passwd",
            "a//b",
            "a/",
            ".",
            "a%00b",
            "a%5Cb",
            "C:/x",
            ".replication/x",
            "s3://x",
            "a%ff",
            "a%zz",
            "a%",
            "x".repeat(300),
            `${"d/".repeat(2100)}x`,
            ""
          ]
        ) yield* refused(yield* put(path, "x"), 400, "BadPath")
        assert.deepStrictEqual(yield* staged, [])
      }))

    it.effect("refuses a file that comes compressed, in parts, or does not fit on the disk, before a byte of it", () =>
      Effect.gen(function*() {
        const with_ = (headers: Record<string, string>) =>
          ask("PUT", "/api/v1/files/no/file", { headers: { ...headers, expect: "100-continue" } })
        assert.match(
          yield* refused(yield* with_({ "content-encoding": "gzip" }), 415, "WrongMediaType"),
          /without Content-Encoding: gzip$/
        )
        assert.match(
          yield* refused(yield* with_({ "transfer-encoding": "gzip, chunked" }), 415, "WrongMediaType"),
          /without Transfer-Encoding: gzip, chunked$/
        )
        yield* refused(yield* with_({ "content-range": "bytes 0-1/2" }), 400, "BadRequest")
        yield* refused(yield* with_({ "content-length": "9000000000000000" }), 507, "NoSpace")
        yield* refused(yield* with_({ "content-length": "9007199254740993" }), 413, "TooLarge")
        yield* refused(yield* ask("PUT", "/api/v1/files/no/file?partition_time=now", { body: "x" }), 400, "BadRequest")
      }))

    it.effect("takes no call without a body for an empty file, and an empty body for one", () =>
      Effect.gen(function*() {
        const { url } = yield* Node
        const { hostname, port } = new URL(url)
        // Written by hand: clients of Node.js always say a length.
        const say = (header: string) =>
          Effect.callback<string>((resume) => {
            let answer = ""
            const socket = connect(Number(port), hostname, () => {
              socket.write(
                `PUT /api/v1/files/no/body HTTP/1.1\r\nhost: localhost\r\n${header}connection: close\r\n\r\n`
              )
            })
            socket.on("data", (chunk) => (answer += chunk.toString()))
            socket.on("close", () => resume(Effect.succeed(answer)))
          })
        assert.match(yield* say(""), /^HTTP\/1\.1 411 [^]*"code":"LengthRequired"[^]*Content-Length: 0/)
        yield* refused(yield* ask("GET", "/api/v1/cluster/files/no/body"), 404, "NotFound")
        assert.match(yield* say("content-length: 0\r\n"), /^HTTP\/1\.1 201 /)
      }))

    it.effect("keeps nothing of a body that breaks off", () =>
      Effect.gen(function*() {
        const { url } = yield* Node
        const { hostname, port } = new URL(url)
        const head = "PUT /api/v1/files/broken/off HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n"
        yield* Effect.acquireUseRelease(
          Effect.sync(() => connect(Number(port), hostname)),
          (socket) =>
            Effect.gen(function*() {
              socket.write(head + "x".repeat(500_000))
              yield* Effect.repeat(staged, {
                until: (files) => files.length > 0,
                schedule: Schedule.spaced("10 millis")
              })
            }),
          (socket) => Effect.sync(() => socket.destroy())
        )
        yield* Effect.repeat(staged, { until: (files) => files.length === 0, schedule: Schedule.spaced("10 millis") })
        yield* refused(yield* ask("GET", "/api/v1/cluster/files/broken/off"), 404, "NotFound")
      }))

    it.effect("registers a file that lies in the data folder, where it lies", () =>
      Effect.gen(function*() {
        const { data } = yield* Node
        const lay = (path: string, content: string) =>
          Effect.promise(async () => {
            await mkdir(dirname(join(data, path)), { recursive: true })
            await writeFile(join(data, path), content)
          })
        yield* lay("laid/file", "some bytes")
        const first = yield* ask("POST", "/api/v1/cluster/files", json({ path: "laid/file", database: "other" }))
        assert.strictEqual(first.status, 201, first.text)
        const { entry } = yield* decode(Registration, first)
        assert.deepInclude<object>(entry, { sha256: sha256("some bytes"), size_bytes: 10, database: "other" })
        assert.strictEqual((yield* ask("POST", "/api/v1/cluster/files", json({ path: "laid/file" }))).status, 200)
        assert.strictEqual((yield* ask("GET", "/api/v1/files/laid/file")).text, "some bytes")
        const register = (body: unknown) => ask("POST", "/api/v1/cluster/files", json(body))
        yield* refused(yield* register({ path: "laid/nothing" }), 404, "NotFound")
        yield* refused(yield* register({ path: "../laid" }), 400, "BadPath")
        yield* refused(yield* register({ path: 1 }), 400, "BadRequest")
        yield* refused(yield* register({}), 400, "BadRequest")
        yield* refused(
          yield* ask("POST", "/api/v1/cluster/files", { headers: { "content-type": "text/plain" }, body: "{}" }),
          415,
          "WrongMediaType"
        )
        const broken = { ...json({}), body: "{" }
        yield* refused(yield* ask("POST", "/api/v1/cluster/files", broken), 400, "BadRequest")
        const long = { ...json({}), body: `"${"x".repeat(70_000)}"` }
        yield* refused(yield* ask("POST", "/api/v1/cluster/files", long), 413, "TooLarge")
      }))
  })

  describe("writing on a condition", () => {
    it.effect("does nothing when another file is registered than the call expects, or none", () =>
      Effect.gen(function*() {
        const path = "/api/v1/files/condition/file"
        const write = (headers: Record<string, string>) => ask("PUT", path, { headers, body: "x" })
        yield* refused(yield* write({ "if-match": "*" }), 412, "PreconditionFailed")
        const etag = `"${sha256("x")}"`
        assert.strictEqual((yield* write({ "if-none-match": "*" })).status, 201)
        for (const headers of [{ "if-none-match": "*" }, { "if-none-match": etag }, { "if-match": `W/${etag}` }]) {
          yield* refused(yield* write(headers), 412, "PreconditionFailed")
        }
        assert.strictEqual((yield* write({ "if-match": `"other", ${etag}`, "if-none-match": "\"other\"" })).status, 200)
        const remove = (tag: string) =>
          ask("DELETE", "/api/v1/cluster/files/condition/file", { headers: { "if-match": tag } })
        yield* refused(yield* remove("\"other\""), 412, "PreconditionFailed")
        assert.strictEqual((yield* remove(etag)).status, 200)
      }))
  })

  describe("reading", () => {
    it.effect("leaves room for others when one address takes many files and reads none of them", () =>
      Effect.gen(function*() {
        // More than all buffers on the way hold.
        yield* put("many/big", randomBytes(24_000_000))
        const { hostname, port } = new URL((yield* Node).url)
        const begin = Effect.acquireRelease(
          Effect.callback<Socket>((resume) => {
            const socket = connect({ host: hostname, port: Number(port) }, () => {
              socket.write("GET /api/v1/files/many/big HTTP/1.1\r\nHost: localhost\r\n\r\n")
            })
            socket.once("data", () => {
              socket.pause()
              resume(Effect.succeed(socket))
            })
          }),
          (socket) => Effect.sync(() => socket.destroy())
        )
        yield* Effect.forEach(Array.from({ length: 16 }), () => begin, { concurrency: 16 })
        const [from, elsewhere] = yield* Effect.all(
          ["127.0.0.1", "127.0.0.2"].map((localAddress) =>
            ask("GET", "/api/v1/files/many/big", { localAddress, headers: { range: "bytes=0-0" } })
          )
        )
        assert.deepStrictEqual([from?.status, elsewhere?.status], [503, 206])
      }).pipe(Effect.scoped))

    it.effect("sends the bytes with their hash as the tag, to HEAD without them, and 304 to who has them", () =>
      Effect.gen(function*() {
        const bytes = randomBytes(2_500_000)
        yield* put("read/big", bytes)
        const whole = yield* ask("GET", "/api/v1/files/read/big")
        assert.isTrue(whole.bytes.equals(bytes))
        const etag = `"${sha256(bytes)}"`
        assert.deepStrictEqual([whole.headers["etag"], whole.headers["accept-ranges"]], [etag, "bytes"])
        const head = yield* ask("HEAD", "/api/v1/files/read/big")
        assert.deepStrictEqual([head.status, head.headers["content-length"], head.bytes.length], [200, "2500000", 0])
        for (const tags of [etag, `W/${etag}`, `"x", ${etag}`, "*"]) {
          const known = yield* ask("GET", "/api/v1/files/read/big", { headers: { "if-none-match": tags } })
          assert.deepStrictEqual([known.status, known.bytes.length], [304, 0])
        }
        yield* put("read/empty", "")
        assert.deepInclude(yield* ask("GET", "/api/v1/files/read/empty"), { status: 200, text: "" })
      }))

    it.effect("sends one range, and refuses what is none", () =>
      Effect.gen(function*() {
        yield* put("read/ten", "0123456789")
        const part = (range: string, more: Record<string, string> = {}) =>
          ask("GET", "/api/v1/files/read/ten", { headers: { range, ...more } })
        for (
          const [range, text, content] of [
            ["bytes=0-0", "0", "bytes 0-0/10"],
            ["bytes=3-5", "345", "bytes 3-5/10"],
            ["bytes=8-", "89", "bytes 8-9/10"],
            ["bytes=8-99", "89", "bytes 8-9/10"],
            ["bytes=-3", "789", "bytes 7-9/10"],
            ["bytes=-99", "0123456789", "bytes 0-9/10"]
          ] as const
        ) {
          const answer = yield* part(range)
          assert.deepStrictEqual([answer.status, answer.text, answer.headers["content-range"]], [206, text, content])
        }
        for (const range of ["bytes=10-", "bytes=5-4", "bytes=-0", "bytes=", "bytes=-", "bytes=a-b", "bytes=0-1,3-4"]) {
          const answer = yield* part(range)
          yield* refused(answer, 416, "RangeNotSatisfiable")
          assert.strictEqual(answer.headers["content-range"], "bytes */10")
        }
        assert.strictEqual((yield* part("lines=1-2")).status, 200)
        assert.strictEqual((yield* part("bytes=0-1", { "if-range": `"${sha256("0123456789")}"` })).text, "01")
        assert.strictEqual((yield* part("bytes=0-1", { "if-range": "\"other\"" })).text, "0123456789")
      }))

    it.effect("sends no file that is not here, verified, and says why", () =>
      Effect.gen(function*() {
        const owed = yield* ask("GET", "/api/v1/files/lost/file")
        assert.match(yield* refused(owed, 503, "NotVerified"), /lost\/file is not here yet: ./)
        assert.strictEqual(owed.headers["retry-after"], "5")
        yield* refused(yield* ask("GET", "/api/v1/files/no/such"), 404, "NotFound")
        yield* refused(yield* ask("GET", "/api/v1/files/.replication/inventory.db"), 400, "BadPath")
      }))

    it.effect("sends no byte of a file that was changed on the disk, and owes it again", () =>
      Effect.gen(function*() {
        const { data } = yield* Node
        yield* put("read/changed", "0123456789")
        yield* Effect.promise(() => writeFile(join(data, "read/changed"), "x123456789"))
        const answer = yield* ask("GET", "/api/v1/files/read/changed")
        assert.match(yield* refused(answer, 503, "NotVerified"), /not on this disk as it was/)
        yield* Effect.repeat(
          Effect.flatMap(ask("GET", "/api/v1/cluster/files/read/changed"), (answer) => decode(FileReport, answer)),
          { until: ({ local }) => local.state === "owed", schedule: Schedule.spaced("20 millis") }
        )
      }))
  })
})
