import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Duration, Effect } from "effect"
import { createHash } from "node:crypto"
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { vi } from "vitest"
import { defaultLimits, mergeParquet, query, writeParquet } from "../src/Duck.ts"
import { parse } from "../src/lineProtocol.ts"

let folder = ""
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "duck-"))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

const points = (lines: string) => parse(lines, "ns", 0n).points
const digest = async (file: string) => createHash("sha256").update(await readFile(file)).digest("hex")

describe("DuckDB", () => {
  it.live("writes the same points as the same bytes, and merges files of different columns", () =>
    Effect.gen(function*() {
      const [one, again, two, both] = ["one", "again", "two", "both"].map((name) => join(folder, `${name}.parquet`))
      assert(one !== undefined && again !== undefined && two !== undefined && both !== undefined)
      yield* writeParquet(points("m,host=b f=1.5,i=7i 2\nm,host=a f=2.5 1"), one)
      yield* writeParquet(points("m,host=b f=1.5,i=7i 2\nm,host=a f=2.5 1"), again)
      assert.strictEqual(yield* Effect.promise(() => digest(one)), yield* Effect.promise(() => digest(again)))
      yield* writeParquet(points("m,rack=r u=9u,ok=true 3"), two)
      yield* mergeParquet([one, two], both)
      const sql = "SELECT epoch_ns(time), host, rack, f, i, u, ok FROM m ORDER BY time"
      const { rows } = yield* query(new Map([["m", [both]]]), sql)
      assert.deepStrictEqual(rows, [
        ["1", "a", null, 2.5, null, null, null],
        ["2", "b", null, 1.5, "7", null, null],
        ["3", null, "r", null, null, "9", true]
      ])
    }))

  it.live("writes whatever a value may hold, and names that SQL gives a meaning", () =>
    Effect.gen(function*() {
      const file = join(folder, "odd.parquet")
      const text = "\0 ' \"\" 🐘 \u202e"
      yield* writeParquet(points(`m,select=' a"b="${text.replaceAll("\"", "\\\"")}",from=1,🐘=2 1`), file)
      const { columns, rows } = yield* query(new Map([["m\"x", [file]]]), "SELECT * FROM \"m\"\"x\"")
      assert.deepStrictEqual(columns, ["time", "select", "a\"b", "from", "🐘"])
      assert.deepStrictEqual(rows.map((row) => row.slice(1)), [["'", text, 1, 2]])
    }))

  it.live("answers nothing that reaches further than the files of the view, or changes anything", () =>
    Effect.gen(function*() {
      const file = join(folder, "own.parquet")
      const secret = join(folder, "secret.csv")
      yield* writeParquet(points("m f=1 1"), file)
      yield* Effect.promise(() => writeFile(secret, "a\n1\n"))
      const before = yield* Effect.promise(() => digest(file))
      const there = (yield* Effect.promise(() => readdir(folder))).sort()
      const tables = new Map([["m", [file]]])
      for (
        const sql of [
          `COPY (SELECT 1) TO '${file}' (FORMAT parquet)`,
          `COPY m TO '${join(folder, "out.csv")}'`,
          `SELECT * FROM '${secret}'`,
          `SELECT * FROM read_text('${secret}')`,
          `SELECT * FROM glob('${folder}/*')`,
          `ATTACH '${join(folder, "x.db")}'`,
          "SET memory_limit = '100GB'",
          "SET enable_external_access = true",
          "INSTALL httpfs",
          "SELECT * FROM read_parquet('https://example.com/a.parquet')",
          "DROP VIEW m",
          "CREATE TABLE t (i INTEGER)",
          "SELECT 1; SELECT 2",
          "",
          "SELEKT",
          // What has the process write files or to its output, as a statement, as a setting, and inside of a SELECT.
          `CALL enable_logging(storage = 'file', storage_config = {'path': '${folder}/logs'})`,
          `SELECT * FROM enable_logging(storage = 'file', storage_config = {'path': '${folder}/logs'})`,
          "FROM system.main.ENABLE_LOGGING(storage = 'stdout')",
          "SELECT (SELECT count(*) FROM (WITH x AS (FROM enable_logging(storage = 'stdout')) FROM x))",
          "PRAGMA enable_profiling",
          "SET enable_profiling = 'json'",
          `FROM enable_profiling(save_location = '${folder}/profile.json')`,
          `PRAGMA profiling_output = '${folder}/profile.json'`,
          `SET profiling_output = '${folder}/profile.json'`,
          `SET log_query_path = '${folder}/queries'`,
          `SET temp_directory = '${folder}/temporary'`,
          `SET secret_directory = '${folder}/secrets'`,
          "PRAGMA enable_checkpoint_on_shutdown",
          `EXPORT DATABASE '${folder}/export'`,
          "CREATE PERSISTENT SECRET s (TYPE http)",
          "FROM query('SELECT 1')",
          "FROM checkpoint()",
          `SELECT ${"(".repeat(50_000)}1${")".repeat(50_000)}`
        ]
      ) assert.strictEqual((yield* Effect.flip(query(tables, sql)))._tag, "BadQuery", sql.slice(0, 100))
      assert.strictEqual(yield* Effect.promise(() => digest(file)), before)
      assert.deepStrictEqual((yield* Effect.promise(() => readdir(folder))).sort(), there)
      const series = "SELECT count(*) FROM range(3), generate_series(1, 2), unnest([1, 2])"
      assert.deepStrictEqual((yield* query(tables, series)).rows, [["12"]])
      assert.deepStrictEqual((yield* query(tables, "WITH x AS (SELECT f FROM m) SELECT f FROM x")).rows, [[1]])
    }))

  it.live("cuts a query that takes too long, and one that takes too much", () =>
    Effect.gen(function*() {
      const slow = "SELECT count(*) FROM range(1000000) a, range(10000000) b WHERE a.range * b.range % 7 = 3"
      const limits = { ...defaultLimits, time: Duration.millis(300) }
      const error = yield* Effect.flip(query(new Map(), slow, limits))
      assert.include(error.message, "longer than 300 ms")
      const large = "SELECT len(list(range)) FROM range(200000000)"
      const refused = yield* Effect.flip(
        query(new Map(), large, { ...defaultLimits, time: Duration.minutes(1), memory: "64MB" })
      )
      assert.include(refused.message, "Out of Memory")
    }), 60_000)

  it.live("sends no answer of too many rows or bytes, and one that is just small enough", () =>
    Effect.gen(function*() {
      const limits = { ...defaultLimits, rows: 3000, bytes: 30_000 }
      const ask = (sql: string) => query(new Map(), sql, limits)
      const many = yield* Effect.flip(ask("SELECT 1 FROM range(3001)"))
      assert.strictEqual(many._tag, "AnswerTooLarge")
      assert.include(many.message, "more than 3000 rows")
      assert.strictEqual((yield* ask("SELECT 1 FROM range(3000)")).rows.length, 3000)
      const large = yield* Effect.flip(ask("SELECT repeat('é', 100) FROM range(150)"))
      assert.strictEqual(large._tag, "AnswerTooLarge")
      assert.include(large.message, "more than 30000 bytes")
      assert.strictEqual((yield* ask("SELECT repeat('é', 100) FROM range(140)")).rows.length, 140)
      const wide = (columns: number) => ask(`SELECT ${Array.from({ length: columns }, (_, n) => n).join(", ")}`)
      assert.include((yield* Effect.flip(wide(1001))).message, "more than 1000 columns")
      assert.strictEqual((yield* wide(1000)).columns.length, 1000)
      assert.include((yield* Effect.flip(ask(`SELECT 1 -- ${"x".repeat(65_536)}`))).message, "longer than 65536")
    }))

  it.live("sends no value that can hold others, and says how to ask instead", () =>
    Effect.gen(function*() {
      for (
        const [value, type] of [
          ["list(range)", "BIGINT[]"],
          ["[range, 1]::INTEGER[2]", "INTEGER[2]"],
          ["{'a': range}", "STRUCT(\"a\" BIGINT)"],
          ["MAP {'a': range}", "MAP(VARCHAR, BIGINT)"],
          ["union_value(a := range)", "UNION(\"a\" BIGINT)"],
          ["'101'::BIT", "BIT"],
          ["range::BIGNUM", "BIGNUM"]
        ] as const
      ) {
        const group = value.startsWith("list") ? "" : " LIMIT 1"
        const error = yield* Effect.flip(query(new Map(), `SELECT 1, ${value} AS x FROM range(3)${group}`))
        assert.strictEqual(error._tag, "BadQuery")
        assert.include(error.message, `the column "x" is of the type ${type}, which is not sent`)
        yield* query(new Map(), `SELECT (${value})::VARCHAR FROM range(3)${group}`)
      }
      const sql = "SELECT to_json([1, 2]), unnest([1, 2]), 'x'::ENUM ('x'), 1.5::DECIMAL(4, 2), NULL, 'ab'::BLOB, "
        + "DATE '2026-01-02', TIME '01:02:03', INTERVAL 1 DAY, 170141183460469231731687303715884105727"
      const [first] = (yield* query(new Map(), sql)).rows
      assert.deepStrictEqual(first?.slice(0, 8), ["[1,2]", 1, "x", "1.50", null, "ab", "2026-01-02", "01:02:03"])
    }))

  it.live("converts no text or blob that is too long, and knows what is none", () =>
    Effect.gen(function*() {
      const written = yield* Effect.acquireRelease(
        Effect.sync(() => vi.spyOn(JSON, "stringify")),
        (spy) => Effect.sync(() => spy.mockRestore())
      )
      const limits = { ...defaultLimits, bytes: 100_000 }
      for (const value of ["repeat('x', 100_001)", "repeat('x', 100_001)::BLOB", "list(range)::VARCHAR"]) {
        const error = yield* Effect.flip(
          query(new Map(), `SELECT 1, first(s) FROM (SELECT ${value} AS s FROM range(50000))`, limits)
        )
        assert.strictEqual(error._tag, "AnswerTooLarge", value)
      }
      assert.isBelow(Math.max(0, ...written.mock.results.map(({ value }) => String(value).length)), 100_000)
      const half = "SELECT CASE WHEN range % 2 = 1 THEN repeat('x', 20) END, 'y' FROM range(4000)"
      const { rows } = yield* query(new Map(), half, limits)
      assert.deepStrictEqual(rows.slice(-2), [[null, "y"], ["x".repeat(20), "y"]])
    }).pipe(Effect.scoped))
})
