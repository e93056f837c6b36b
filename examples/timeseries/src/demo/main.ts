/**
 * A writer and two readers, written to by InfluxDB's own client, killed, compacted, and asked all the while. Everything
 * that is said here is checked; it ends with 0 when all of it holds.
 */
import { DuckDBInstance } from "@duckdb/node-api"
import { InfluxDB, Point } from "@influxdata/influxdb-client"
import { deepStrictEqual as same, match, ok } from "node:assert/strict"
import { mkdtemp, readdir, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { ask, type Node, post, reached, rows, start, stop, until } from "./nodes.ts"

const say = (text: string) => process.stdout.write(`${text}\n`)
const began = performance.now()
const done = (what: string) => say(`${((performance.now() - began) / 1000).toFixed(1).padStart(6)} s  ${what}`)

const folder = await mkdtemp(join(tmpdir(), "timeseries-"))
const nodes = new Map<string, Node>()
const run = async (id: string, role: "writer" | "reader") => {
  const node = await start(folder, id, role)
  nodes.set(id, node)
  return node
}

const cpu = "SELECT host, usage, cores, active FROM cpu ORDER BY time, host"
const mem = "SELECT host, used, note FROM mem ORDER BY time, host"
const counts = "SELECT (SELECT count(*) FROM cpu), (SELECT count(*) FROM mem)"
const hour = Date.parse("2026-04-11T14:00:00Z")

/** Through the client that others use; its buffer is sent when it is closed. */
const write = async (writer: Node, points: ReadonlyArray<Point>) => {
  const api = new InfluxDB({ url: writer.url, token: "none" }).getWriteApi("org", "metrics", "ms", { maxRetries: 0 })
  api.writePoints([...points])
  await api.close()
}
const cpuPoint = (host: string, minute: number, usage: number) =>
  new Point("cpu").tag("host", host).floatField("usage", usage).intField("cores", 8).booleanField("active", true)
    .timestamp(hour + minute * 60_000)

const parquet = async (node: Node) =>
  (await readdir(join(node.folder, "data"), { recursive: true })).filter((name) => name.endsWith(".parquet"))

try {
  let writer = await run("rack-a.writer", "writer")
  const [near, far] = await Promise.all([run("rack-a.reader-1", "reader"), run("rack-b.reader-2", "reader")])
  const readers = [near, far]
  done("a writer and two readers run, each a process of its own")

  await write(writer, [cpuPoint("a", 0, 0.5), cpuPoint("b", 0, 1.5), cpuPoint("a", 1, 2.5)])
  const memLines = `mem,host=a used=123i,note="with \\"quotes\\", a comma" ${hour}\nmem,host=b\\ c used=18i ${hour}\n`
  const sent = await post(`${writer.url}/write?db=metrics&precision=ms`, new Uint8Array(gzipSync(memLines)), {
    "content-encoding": "gzip"
  })
  same(sent.status, 204)
  let revision = await reached(writer, "flush")
  for (const reader of readers) {
    same(await rows(reader, counts, revision), [["3", "2"]])
    same(await rows(reader, cpu), [["a", 0.5, "8", true], ["b", 1.5, "8", true], ["a", 2.5, "8", true]])
    same(await rows(reader, "SELECT host, note FROM mem ORDER BY host"), [["a", "with \"quotes\", a comma"], [
      "b c",
      null
    ]])
  }
  done("InfluxDB's client wrote 3 rows of cpu, a gzip body 2 of mem; both readers answer with them")

  const bad = await post(`${writer.url}/write?db=metrics`, "cpu,host=x usage=1\ncpu,host=x usage=\n")
  same(bad.status, 400)
  match(JSON.stringify(bad.body), /line 2: the value of the field .*usage.* is missing/)
  const bomb = new Uint8Array(gzipSync(new Uint8Array(64 * 1024 * 1024)))
  const zipped = { "content-encoding": "gzip" }
  same((await post(`${writer.url}/write?db=metrics`, bomb, zipped)).status, 413)
  same((await post(`${writer.url}/write?db=metrics`, new Uint8Array(17 * 1024 * 1024))).status, 413)
  same((await post(`${writer.url}/write?db=metrics`, "no gzip", zipped)).status, 400)
  await reached(writer, "flush")
  same(await rows(writer, counts), [["3", "2"]])
  const ahead = await ask(near, counts, revision + 1000)
  same(ahead.status, 503)
  for (
    const sql of [
      `COPY (SELECT 1) TO '${join(near.folder, "data/x.parquet")}'`,
      "SELECT * FROM read_csv('/etc/passwd')",
      "SET enable_external_access = true",
      "SELECT 1; SELECT 2"
    ]
  ) same((await ask(near, sql)).status, 400, sql)
  done("a bad line is refused by its number with all of its request; so are large bodies, and SQL that reaches out")

  await write(writer, [cpuPoint("c", 2, 3.5)])
  await stop(writer, "SIGKILL")
  writer = await run("rack-a.writer", "writer")
  revision = await reached(writer, "flush")
  for (const reader of readers) same(await rows(reader, counts, revision), [["4", "2"]])
  done("the writer was killed behind an acknowledged row, and has it")

  await stop(far, "SIGKILL")
  await write(writer, [cpuPoint("c", 3, 4.5), cpuPoint("a", 4, 5.5)])
  revision = await reached(writer, "flush")
  same(await rows(near, counts, revision), [["6", "2"]])
  const back = await run("rack-b.reader-2", "reader")
  same(await rows(back, counts, revision), [["6", "2"]])
  done("a reader was killed, more was written, and it is back and right")

  // Written, merged and asked at once: no answer ever has less than one before it, or a row twice.
  const watching = new AbortController()
  let asked = 0
  const watch = async (reader: Node) => {
    let last = 6
    while (!watching.signal.aborted) {
      const [[all, distinct] = []] = await rows(reader, "SELECT count(*), count(DISTINCT (time, host)) FROM cpu")
      same(all, distinct, "a row is counted twice")
      ok(Number(all) >= last, `${all} rows behind ${last}: there is a gap`)
      last = Number(all)
      asked++
    }
  }
  const merge = async () => {
    for (let round = 0; round < 6; round++) {
      await write(writer, [cpuPoint("d", 10 + round, round)])
      await reached(writer, "flush")
      if (round % 2 === 1) await reached(writer, "compact")
    }
    revision = await reached(writer, "compact")
    for (const reader of [near, back]) same(await rows(reader, counts, revision), [["12", "2"]])
    await until(
      "the small files are gone",
      async () => (await Promise.all([near, back, writer].map(parquet))).every(({ length }) => length === 2)
    )
    watching.abort()
  }
  await Promise.all([merge(), watch(near), watch(back)])
  ok(asked > 10)
  done(`6 more rows were written, and merged again and again; ${asked} queries meanwhile, each of them right`)

  const table: Array<ReadonlyArray<string>> = []
  for (const node of nodes.values()) {
    const instance = await DuckDBInstance.create(":memory:")
    const connection = await instance.connect()
    for (const [measurement, sql] of Object.entries({ cpu, mem })) {
      const all = join(node.folder, `data/metrics/${measurement}/**/*.parquet`)
      const direct = await connection.runAndReadAll(
        sql.replace(`FROM ${measurement}`, `FROM read_parquet('${all}', union_by_name = true)`)
      )
      same(await rows(node, sql, revision), direct.getRowsJson())
    }
    connection.closeSync()
    const [[cpuRows, memRows] = []] = await rows(node, counts, revision)
    table.push([node.id, String(cpuRows), String(memRows), String((await parquet(node)).length), String(revision)])
  }
  done("every node answers as DuckDB does that reads its files directly")

  say("")
  const head = ["node", "cpu rows", "mem rows", "files", "revision"]
  const line = ([id = "", ...cells]: ReadonlyArray<string>) =>
    id.padEnd(18) + cells.map((cell) => cell.padStart(10)).join("")
  say(line(head))
  say("-".repeat(58))
  for (const row of table) say(line(row))
} finally {
  await Promise.all(Array.from(nodes.values(), (node) => stop(node, "SIGTERM")))
  await rm(folder, { recursive: true, force: true })
}
