/** Every endpoint but those for files' bytes, asked of a real node. */
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Option, Schedule } from "effect"
import { connect } from "node:net"
import { join } from "node:path"
import { Cluster, CopiesOf, Forgetting, NodeStatus, NotImported } from "../../src/http/answers.ts"
import { DrainStatus } from "../../src/replication/Drain.ts"
import { Files, Owed } from "../../src/replication/FileList.ts"
import { FileReport } from "../../src/replication/FileReport.ts"
import { verifyLock } from "../../src/sqlite/FolderLock.ts"
import { entryLine } from "../cluster/configure.ts"
import { ask, decode, json, Node, node, put, refused } from "./node.ts"

layer(node, { timeout: 60_000, excludeTestServices: true })("the HTTP API", (it) => {
  describe("cluster", () => {
    it.effect("lists the members", () =>
      Effect.gen(function*() {
        const { members } = yield* decode(Cluster, yield* ask("GET", "/api/v1/cluster"))
        assert.deepStrictEqual(members.map(({ alive, id, self }) => ({ alive, id: String(id), self })), [
          { alive: true, id: "node", self: true }
        ])
      }))

    it.effect("says where the node stands, and what it owes and why", () =>
      Effect.gen(function*() {
        const status = yield* Effect.repeat(
          Effect.flatMap(ask("GET", "/api/v1/cluster/status"), (answer) => decode(NodeStatus, answer)),
          { until: ({ status }) => status.owed.files === 1, schedule: Schedule.spaced("20 millis") }
        )
        assert.deepStrictEqual([String(status.node), status.status.ready], ["node", false])
        const owed = yield* decode(Owed, yield* ask("GET", "/api/v1/cluster/owed"))
        assert.deepStrictEqual([owed.total, owed.bytes], [1, 4])
        assert.deepStrictEqual(owed.files.map(({ path }) => String(path)), ["lost/file"])
        assert.isNotEmpty(owed.files[0]?.reason)
      }))

    it.effect("gives the manifest in pages, and those with a prefix only", () =>
      Effect.gen(function*() {
        for (const path of ["pages/a", "pages/b", "pages/b-c", "pages/c/d", "pagesx"]) yield* put(path, path)
        const walk = Effect.fnUntraced(function*(prefix: string, limit: number) {
          const paths: Array<string> = []
          let cursor: string | null = ""
          while (cursor !== null) {
            const query = new URLSearchParams({ prefix, limit: String(limit), ...(cursor === "" ? {} : { cursor }) })
            const page: typeof Files.Type = yield* decode(Files, yield* ask("GET", `/api/v1/cluster/files?${query}`))
            assert.isAtMost(page.files.length, limit)
            for (const { entry, local } of page.files) paths.push(`${entry.path} ${local.state}`)
            cursor = page.next
          }
          return paths
        })
        const all = ["pages/a verified", "pages/b verified", "pages/b-c verified", "pages/c/d verified"]
        assert.deepStrictEqual(yield* walk("pages/", 1), all)
        assert.deepStrictEqual(yield* walk("pages/", 1000), all)
        assert.deepStrictEqual(yield* walk("pages/c/", 2), ["pages/c/d verified"])
        assert.deepStrictEqual(yield* walk("pages/b", 1), all.slice(1, 3))
        assert.deepStrictEqual(yield* walk("pages/z", 2), [])
        assert.deepStrictEqual(yield* walk("lost", 2), ["lost/file owed"])
      }))

    it.effect("refuses limits and cursors that are none", () =>
      Effect.gen(function*() {
        for (
          const query of [
            "limit=0",
            "limit=1001",
            "limit=-1",
            "limit=1e99",
            "limit=x",
            "limit=1&limit=2",
            "cursor=../a",
            "cursor="
          ]
        ) yield* refused(yield* ask("GET", `/api/v1/cluster/files?${query}`), 400, "BadRequest")
      }))

    it.effect("tells all that is known of a file", () =>
      Effect.gen(function*() {
        const lost = yield* decode(FileReport, yield* ask("GET", "/api/v1/cluster/files/lost/file"))
        assert.deepStrictEqual([lost.manifest.state, lost.local.state, lost.on_disk], ["listed", "owed", null])
        yield* put("told/file", "bytes")
        const here = yield* decode(FileReport, yield* ask("GET", "/api/v1/cluster/files/told%2Ffile"))
        assert.deepStrictEqual([here.local.state, here.on_disk?.size_bytes], ["verified", 5])
        yield* refused(yield* ask("GET", "/api/v1/cluster/files/no/such"), 404, "NotFound")
        yield* refused(yield* ask("GET", "/api/v1/cluster/files/no/../such"), 400, "BadPath")
      }))
  })

  describe("operation", () => {
    it.effect("deletes a file for good, with a reason", () =>
      Effect.gen(function*() {
        yield* put("gone/file", "x")
        const deleted = yield* ask("DELETE", "/api/v1/cluster/files/gone/file?reason=no%20more%20needed")
        assert.strictEqual(deleted.status, 200, deleted.text)
        // It stays as long as this node has not heard of it.
        const answer = yield* Effect.repeat(ask("GET", "/api/v1/files/gone/file"), {
          until: ({ status }) => status !== 200,
          schedule: Schedule.spaced("20 millis")
        })
        assert.match(yield* refused(answer, 410, "Gone"), /no more needed/)
        yield* refused(yield* ask("DELETE", "/api/v1/cluster/files/gone/file"), 410, "Gone")
        yield* refused(yield* put("gone/file", "x"), 410, "Gone")
        yield* refused(yield* ask("DELETE", "/api/v1/cluster/files/no/such"), 404, "NotFound")
        yield* refused(yield* ask("DELETE", "/api/v1/cluster/files/no/such?reason="), 400, "BadRequest")
      }))

    it.effect("verifies on demand, and says how it went", () =>
      Effect.gen(function*() {
        yield* put("verify/file", "x")
        assert.strictEqual((yield* ask("POST", "/api/v1/cluster/verify?rate=0")).status, 202)
        const { verification } = yield* Effect.repeat(
          Effect.flatMap(ask("GET", "/api/v1/cluster/status"), (answer) => decode(NodeStatus, answer)),
          { until: ({ verification }) => verification?.running === false, schedule: Schedule.spaced("20 millis") }
        )
        assert.isAbove(verification?.checked ?? 0, 0)
        assert.isNull(verification?.error)
        yield* refused(yield* ask("POST", "/api/v1/cluster/verify?rate=-1"), 400, "BadRequest")
      }))

    it.effect("verifies nothing while a verify beside it does", () =>
      Effect.gen(function*() {
        yield* verifyLock(join((yield* Node).data, ".replication"))
        yield* ask("POST", "/api/v1/cluster/verify?rate=0")
        const { verification } = yield* Effect.repeat(
          Effect.flatMap(ask("GET", "/api/v1/cluster/status"), (answer) => decode(NodeStatus, answer)),
          { until: ({ verification }) => verification?.running === false, schedule: Schedule.spaced("20 millis") }
        )
        assert.include(verification?.error, "another verify reads these files")
      }).pipe(Effect.scoped))

    it.effect("drains, names what no other node holds, and stays after all", () =>
      Effect.gen(function*() {
        yield* put("drained/file", "x")
        assert.strictEqual((yield* ask("POST", "/api/v1/cluster/drain")).status, 200)
        const status = yield* Effect.repeat(
          Effect.flatMap(ask("GET", "/api/v1/cluster/drain"), (answer) => decode(DrainStatus, answer)),
          { until: ({ looked }) => Option.isSome(looked), schedule: Schedule.spaced("20 millis") }
        )
        assert.isFalse(status.done)
        assert.include(status.examples.map(({ path }) => String(path)), "drained/file")
        const { members } = yield* decode(Cluster, yield* ask("GET", "/api/v1/cluster"))
        assert.isTrue(members[0]?.draining)
        const stays = yield* decode(DrainStatus, yield* ask("DELETE", "/api/v1/cluster/drain"))
        assert.deepStrictEqual(stays.since, Option.none())
      }))

    it.effect("says on which nodes a file is", () =>
      Effect.gen(function*() {
        yield* put("copied/file", "bytes")
        const copies = yield* decode(CopiesOf, yield* ask("GET", "/api/v1/cluster/copies/copied/file"))
        assert.deepStrictEqual([copies.held, copies.sightings.map(({ kind }) => kind)], [1, ["Held"]])
        const lost = yield* decode(CopiesOf, yield* ask("GET", "/api/v1/cluster/copies/lost/file"))
        assert.deepStrictEqual([lost.held, lost.sightings.map(({ kind }) => kind)], [0, ["Absent"]])
        yield* refused(yield* ask("GET", "/api/v1/cluster/copies/no/such"), 404, "NotFound")
        yield* refused(yield* ask("GET", "/api/v1/cluster/copies/../x"), 400, "BadPath")
      }))

    it.effect("forgets only what is told twice, and what no node may still have", () =>
      Effect.gen(function*() {
        yield* put("forget/held", "bytes")
        const forget = (body: object) => ask("POST", "/api/v1/cluster/forget", json(body))
        const looked = yield* decode(Forgetting, yield* forget({ path: "forget/held" }))
        assert.deepStrictEqual([looked.forgotten, looked.objection], [
          null,
          "it is not lost: node may still have it"
        ])
        yield* refused(yield* forget({ path: "forget/held", confirmed: true }), 409, "NotLost")
        assert.strictEqual((yield* ask("GET", "/api/v1/files/forget/held")).status, 200)
        const { forgotten } = yield* decode(
          Forgetting,
          yield* forget({ path: "forget/held", confirmed: true, force: true })
        )
        assert.match(forgotten?.reason ?? "", /^lost: .*although it is not lost/)
        yield* refused(yield* forget({ path: "forget/held" }), 410, "Gone")
        yield* refused(yield* forget({ path: "forget/no" }), 404, "NotFound")
        yield* refused(yield* forget({ path: "../x" }), 400, "BadPath")
        yield* refused(yield* forget({ path: "forget/held", force: "yes" }), 400, "BadRequest")
      }))

    it.effect("imports lines, and says of each that is wrong why", () =>
      Effect.gen(function*() {
        const importing = (body: string | Buffer, query = "", headers = {}) =>
          ask("POST", `/api/v1/cluster/manifest${query}`, { body, headers })
        const lines = `${entryLine("import/a", "a")}\n\n${entryLine("import/b", "b")}\r\nnonsense`
        const none = yield* importing(lines)
        assert.match(
          yield* refused(none, 409, "NotImported"),
          /^1 line is wrong; nothing was imported; line 4: .*JSON/
        )
        const { imported, more, wrong } = yield* decode(NotImported, none)
        assert.deepStrictEqual([imported, wrong.map(({ line }) => line), more], [0, [4], 0])
        yield* refused(yield* ask("GET", "/api/v1/cluster/files/import/a"), 404, "NotFound")
        const some = yield* decode(NotImported, yield* importing(lines, "?keep_going=true"))
        assert.strictEqual(some.imported, 2)
        assert.strictEqual((yield* ask("GET", "/api/v1/cluster/files/import/b")).status, 200)
        assert.strictEqual(
          (yield* importing(entryLine("import/a", "a"))).text,
          "{\"imported\":1,\"wrong\":[],\"more\":0}"
        )
        yield* refused(yield* importing(lines, "?keep_going=maybe"), 400, "BadRequest")
        yield* refused(yield* importing(lines, "", { "content-encoding": "gzip" }), 415, "WrongMediaType")
        yield* refused(yield* importing(Buffer.alloc(16 * 1024 * 1024 + 1, "\n")), 413, "TooLarge")
      }))

    it.effect("imports an entry as it shows one, and says how long a file may be", () =>
      Effect.gen(function*() {
        const importing = (body: string) => ask("POST", "/api/v1/cluster/manifest", { body })
        const lsn = "18446744073709551615"
        const line = entryLine("import/lsn", "lsn").replace("\"lsn\":7", `"lsn":${lsn}`)
        assert.strictEqual((yield* importing(line)).status, 200)
        const { text } = yield* ask("GET", "/api/v1/cluster/files?prefix=import/lsn")
        const shown = /"entry":(\{[^}]*\})/.exec(text)?.[1] ?? ""
        assert.include(shown, `"lsn":"${lsn}"`)
        const again = shown.replace("import/lsn", "import/lsn-again")
        assert.strictEqual((yield* importing(again)).text, "{\"imported\":1,\"wrong\":[],\"more\":0}")
        const page = yield* decode(Files, yield* ask("GET", "/api/v1/cluster/files?prefix=import/lsn-again"))
        assert.deepStrictEqual(page.files.map(({ entry }) => entry.lsn), [BigInt(lsn)])
        const beyond = yield* importing(again.replace(`"lsn":"${lsn}"`, `"lsn":"${BigInt(lsn) + 1n}"`))
        assert.match(yield* refused(beyond, 409, "NotImported"), /lsn: an integer from 0 to 18446744073709551615$/)
        const long = yield* importing(again.replace(/"size_bytes":\d+/, `"size_bytes":${2 ** 53}`))
        assert.match(
          yield* refused(long, 409, "NotImported"),
          /size_bytes: Expected an integer from 0 to 9007199254740991$/
        )
      }))

    it.effect("removes no member that is alive, and none that there is not", () =>
      Effect.gen(function*() {
        assert.match(
          yield* refused(yield* ask("DELETE", "/api/v1/cluster/members/node"), 409, "NotRemoved"),
          /it is alive/
        )
        assert.match(
          yield* refused(yield* ask("DELETE", "/api/v1/cluster/members/nobody"), 409, "NotRemoved"),
          /no member goes by this id/
        )
        yield* refused(yield* ask("DELETE", "/api/v1/cluster/members/a%20b"), 400, "BadRequest")
      }))

    it.effect("pauses and resumes pulling", () =>
      Effect.gen(function*() {
        assert.strictEqual((yield* ask("POST", "/api/v1/cluster/pause")).text, "{\"paused\":[\"operator\"]}")
        const status = yield* decode(NodeStatus, yield* ask("GET", "/api/v1/cluster/status"))
        assert.deepStrictEqual(status.status.paused, ["operator"])
        assert.strictEqual((yield* ask("POST", "/api/v1/cluster/resume")).text, "{\"paused\":[]}")
      }))

    it.effect("changes the limits of a running node, and leaves what is not given", () =>
      Effect.gen(function*() {
        const limits = (body: object) =>
          ask("POST", "/api/v1/cluster/limits", {
            headers: { "content-type": "application/json" },
            body: JSON.stringify(body)
          })
        const said = (pull: number, serve: number) =>
          JSON.stringify({ pull_bytes_per_second: pull, serve_bytes_per_second: serve })
        assert.strictEqual((yield* limits({})).text, said(0, 0))
        assert.strictEqual((yield* limits({ pull_bytes_per_second: 100_000_000 })).text, said(100_000_000, 0))
        assert.strictEqual((yield* limits({ serve_bytes_per_second: 65_536 })).text, said(100_000_000, 65_536))
        yield* refused(yield* limits({ pull_bytes_per_second: 65_535 }), 400, "BadRequest")
        yield* refused(yield* limits({ pull_bytes_per_second: "fast" }), 400, "BadRequest")
        const off = yield* limits({ pull_bytes_per_second: 0, serve_bytes_per_second: 0 })
        assert.strictEqual(off.text, said(0, 0))
      }))

    it.effect("refuses calls that may come from a web page of another site", () =>
      Effect.gen(function*() {
        const pause = (headers: Record<string, string>) => ask("POST", "/api/v1/cluster/resume", { headers })
        for (
          const headers of [
            { origin: "http://evil.example" },
            { origin: "null" },
            { host: "evil.example" },
            { host: "127.0.0.1.evil.example:80" },
            { "sec-fetch-site": "cross-site" },
            { host: "localhost:1", origin: "http://localhost:2" }
          ]
        ) yield* refused(yield* pause(headers), 403, "ForeignOrigin")
        for (const headers of [{}, { host: "localhost:1", origin: "http://localhost:1" }, { host: "[::1]:80" }]) {
          assert.strictEqual((yield* pause(headers)).status, 200)
        }
        const upload = yield* ask("PUT", "/api/v1/files/evil/file", {
          headers: { origin: "http://evil.example" },
          body: "x"
        })
        yield* refused(upload, 403, "ForeignOrigin")
        // A name that was made to lead here reads nothing either.
        for (const path of ["/", "/metrics", "/openapi.json", "/api/v1/cluster/files", "/api/v1/files/a", "/none"]) {
          const read = (host: string) => ask("GET", path, { headers: { host } })
          yield* refused(yield* read("evil.example:8000"), 403, "ForeignOrigin")
          assert.notStrictEqual((yield* read("LOCALHOST:8000")).status, 403)
        }
      }))
  })

  describe("the rest", () => {
    it.effect("refuses unknown addresses and wrong methods in the same shape", () =>
      Effect.gen(function*() {
        for (
          const path of ["/nothing", "/api", "/api/v1", "/API/v1/cluster", "/health/", "//health", "/api/v2/cluster"]
        ) {
          yield* refused(yield* ask("GET", path), 404, "NoSuchEndpoint")
        }
        const wrong = yield* ask("PATCH", "/api/v1/files/a")
        yield* refused(wrong, 405, "MethodNotAllowed")
        assert.strictEqual(wrong.headers["allow"], "GET, PUT, HEAD")
        yield* refused(yield* ask("POST", "/health"), 405, "MethodNotAllowed")
        yield* refused(yield* ask("TRACE", "/docs"), 405, "MethodNotAllowed")
      }))

    it.effect("refuses what is no HTTP, and headers without end, in the same shape", () =>
      Effect.gen(function*() {
        const { url } = yield* Node
        const { hostname, port } = new URL(url)
        const say = (text: string) =>
          Effect.callback<string>((resume) => {
            let answer = ""
            const socket = connect(Number(port), hostname, () => socket.write(text))
            socket.on("data", (chunk) => (answer += chunk.toString()))
            socket.on("error", () => undefined)
            socket.on("close", () => resume(Effect.succeed(answer)))
          })
        assert.match(yield* say("nonsense\r\n\r\n"), /^HTTP\/1\.1 400 [^]*"code":"BadRequest"/)
        const headers = `GET /health HTTP/1.1\r\nhost: a\r\nx: ${"y".repeat(20_000)}\r\n\r\n`
        assert.match(yield* say(headers), /^HTTP\/1\.1 431 [^]*"code":"TooLarge"/)
      }))

    it.effect("describes itself for programs and for people, and loads nothing from elsewhere", () =>
      Effect.gen(function*() {
        const described: unknown = JSON.parse((yield* ask("GET", "/openapi.json")).text)
        assert.nestedProperty(described, "paths./api/v1/files/{path}.put.responses.409")
        assert.nestedProperty(described, "paths./api/v1/files/{path}.get.responses.416")
        const docs = yield* ask("GET", "/docs")
        assert.strictEqual(docs.status, 200)
        assert.notMatch(docs.text, /<(?:script|link|img)[^>]+(?:src|href)=/)
        assert.strictEqual((yield* ask("HEAD", "/docs")).status, 200)
      }))
  })
})
