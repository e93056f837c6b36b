/** One writer, in this process, on a real disk: its HTTP API and the merging of its files. */
import { assert, describe, layer } from "@effect/vitest"
import { Context, Duration, Effect, Layer, Redacted } from "effect"
import { FileEntry } from "effect-file-replication"
import { HttpServer } from "effect/http"
import { mkdtemp, readdir, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import * as App from "../src/app.ts"
import { post } from "../src/demo/nodes.ts"

class Writer extends Context.Service<Writer, { readonly url: string; readonly folder: string }>()("test/Writer") {}

const writer = Layer.effect(
  Writer,
  Effect.gen(function*() {
    const folder = yield* Effect.acquireRelease(
      Effect.promise(() => mkdtemp(join(tmpdir(), "app-"))),
      (folder) => Effect.promise(() => rm(folder, { recursive: true, force: true }))
    )
    const context = yield* Layer.build(App.layer({
      id: FileEntry.NodeId.make("rack.writer"),
      role: "writer",
      folder,
      manifest: join(folder, "manifest.db"),
      secret: Redacted.make("a secret of the tests"),
      port: 0,
      flushPoints: 1000,
      flushBytes: 10_000_000,
      flushMillis: 3_600_000,
      queries: { parallel: 1, patience: Duration.millis(100) }
    }))
    return Writer.of({ folder, url: HttpServer.formatAddress(Context.get(context, HttpServer.HttpServer).address) })
  })
)

const send = (path: string, body: string | Uint8Array<ArrayBuffer>, headers?: Record<string, string>) =>
  Effect.flatMap(Writer, ({ url }) => Effect.promise(() => post(`${url}${path}`, body, headers)))
const ask = (sql: string, more: object = {}) => send("/query", JSON.stringify({ db: "db", sql, ...more }))
const field = (body: unknown, name: string): unknown => Reflect.get(Object(body), name)
/** Asks until the node is ready and has what was flushed. */
const answered = Effect.fnUntraced(function*(sql: string, flushed: unknown) {
  for (;;) {
    const { body, status } = yield* ask(sql, {
      min_revision: field(flushed, "revision"),
      epoch: field(flushed, "epoch")
    })
    if (status !== 503) return field(body, "rows")
    yield* Effect.sleep(20)
  }
})

layer(writer, { excludeTestServices: true })("a writer", (it) => {
  describe("POST /write", () => {
    it.effect("takes lines, plain or gzip, under both APIs, and says what is wrong with others", () =>
      Effect.gen(function*() {
        const line = "cpu,host=a f=1 1"
        assert.strictEqual((yield* send("/write?db=db", line)).status, 204)
        const zipped = { "content-encoding": "gzip" }
        const gzip = new Uint8Array(gzipSync("cpu,host=b f=2 2"))
        assert.strictEqual((yield* send("/api/v2/write?org=o&bucket=db&precision=ms", gzip, zipped)).status, 204)
        for (
          const [path, body, headers, status, message] of [
            ["/write?db=db", `${line}\ncpu f=`, {}, 400, "line 2: the value of the field"],
            ["/write?db=db", "cpu f=true 1", {}, 400, "is BOOLEAN, and was DOUBLE before"],
            ["/write", line, {}, 400, "db must be 1 to 64"],
            ["/write?db=../x", line, {}, 400, "db must be 1 to 64"],
            ["/api/v2/write?db=db", line, {}, 400, "bucket must be"],
            ["/write?db=db&precision=week", line, {}, 400, "precision must be"],
            ["/write?db=db", line, { "content-encoding": "br" }, 400, "the encoding br is not known"],
            ["/write?db=db", line, zipped, 400, "no valid gzip"],
            ["/write?db=db", new Uint8Array([0xff]), {}, 400, "not UTF-8"],
            ["/write?db=db", new Uint8Array(17 * 1024 * 1024), {}, 413, "split it"],
            ["/write?db=db", new Uint8Array(gzipSync(new Uint8Array(17 * 1024 * 1024))), zipped, 413, "split it"],
            ["/write?db=db", "cpu f=1\n".repeat(4001), {}, 413, "at most"]
          ] as const
        ) {
          const refused = yield* send(path, body, headers)
          assert.strictEqual(refused.status, status, message)
          assert.include(String(field(refused.body, "message")), message === "at most" ? "4000 points" : message)
        }
        const flushed = (yield* send("/flush", "")).body
        assert.strictEqual(field(flushed, "files"), 1)
        const sql = "SELECT host, f, epoch_ns(time) FROM cpu ORDER BY time"
        assert.deepStrictEqual(yield* answered(sql, flushed), [["a", 1, "1"], ["b", 2, "2000000"]])
      }))
  })

  describe("POST /query", () => {
    it.effect("says why it does not answer", () =>
      Effect.gen(function*() {
        const flushed = (yield* send("/flush", "")).body
        assert.deepStrictEqual(yield* answered("SELECT 1", flushed), [[1]])
        for (
          const [sql, more, status, message] of [
            [
              "SELECT 1",
              { min_revision: Number(field(flushed, "revision")) + 1 },
              503,
              "has everything up to revision"
            ],
            ["SELECT 1", { epoch: "another" }, 503, "not in another"],
            ["SELECT 1", { min_revision: -1 }, 400, "min_revision"],
            ["SELECT 1", { db: "../x" }, 400, "db"],
            ["", {}, 400, "sql"],
            ["SELECT * FROM nothing", {}, 400, "nothing does not exist"],
            ["DROP VIEW cpu", {}, 400, "Only SELECT"],
            ["SELECT * FROM range(10001)", {}, 413, "more than 10000 rows"]
          ] as const
        ) {
          const refused = yield* ask(sql, more)
          assert.strictEqual(refused.status, status, message)
          assert.include(String(field(refused.body, "message")), message)
        }
        const { url } = yield* Writer
        const response = yield* Effect.promise(() =>
          fetch(`${url}/query`, { method: "POST", body: JSON.stringify({ db: "db", sql: "SELECT 1", epoch: "x" }) })
        )
        assert.strictEqual(response.headers.get("retry-after"), "1")
      }))

    it.effect("has no more queries run at once than may, and gives the turn of one that was given up to the next", () =>
      Effect.gen(function*() {
        const { url } = yield* Writer
        const slow = "SELECT count(*) FROM range(1000000) a, range(10000000) b WHERE a.range * b.range % 7 = 3"
        const leaving = new AbortController()
        const running = fetch(`${url}/query`, {
          method: "POST",
          body: JSON.stringify({ db: "db", sql: slow }),
          signal: leaving.signal
        }).catch(() => undefined)
        // It is refused as soon as the slow one runs.
        let refused = yield* ask("SELECT 1")
        while (refused.status !== 503) refused = yield* ask("SELECT 1")
        assert.include(String(field(refused.body, "message")), "as many queries run as may")
        leaving.abort()
        yield* Effect.promise(() => running)
        while (refused.status === 503) refused = yield* ask("SELECT 42")
        assert.deepStrictEqual(field(refused.body, "rows"), [[42]])
      }))
  })

  describe("POST /compact", () => {
    it.effect("merges each hour's files into one that has all their rows and columns, and leaves single ones alone", () =>
      Effect.gen(function*() {
        const { folder } = yield* Writer
        const kept = Effect.map(
          Effect.promise(() => readdir(join(folder, "data/merge/m"), { recursive: true })),
          (names) => names.filter((name) => name.endsWith(".parquet")).sort()
        )
        yield* send("/compact", "")
        const hour = 3_600_000_000_000
        for (const lines of [`m,host=a f=1 1\nm f=5 ${hour}`, "m,host=b g=2i 2", "m,rack=r f=3 3"]) {
          yield* send("/write?db=merge", lines)
          yield* send("/flush", "")
        }
        const all = JSON.stringify({ db: "merge", sql: "SELECT f, g, host, rack FROM m ORDER BY time" })
        const rows = [[1, null, "a", null], [null, "2", "b", null], [3, null, null, "r"], [5, null, null, null]]
        for (const [hours, merged] of [[1, 3], [0, 0]]) {
          const { body, status } = yield* send("/compact", "")
          assert.deepStrictEqual([status, field(body, "hours"), field(body, "merged")], [200, hours, merged])
          yield* answered("SELECT 1", body)
          assert.deepStrictEqual(field((yield* send("/query", all)).body, "rows"), rows)
        }
        // The small ones leave the disk when the last query that has them open has ended.
        while ((yield* kept).length > 2) yield* Effect.sleep(20)
        assert.match((yield* kept).join(" "), /^\S+\/00\/merged-\S+\.parquet \S+\/01\/\S+\.parquet$/)
        // What was made on the way is gone.
        const work = yield* Effect.promise(() => readdir(join(folder, "work")))
        assert.deepStrictEqual(work.filter((name) => !/\.wal$|^columns\.json$/.test(name)), [])
      }))
  })
})
