/** What the demo publishes: every file of a folder, or real Parquet that DuckDB writes. */
import { Effect, FileSystem, Schema, Stream } from "effect"
import { join } from "node:path"
import { offence } from "../../ports/FilePath.ts"
import { fileFailed } from "../userFiles.ts"

export interface SourceFile {
  /** Where it lies on this machine. */
  readonly file: string
  /** The path to publish it under. */
  readonly as: string
}

/** There is nothing to publish, or nothing that can be. */
export class SourceFailed extends Schema.TaggedError<SourceFailed>()("SourceFailed", { detail: Schema.String }) {
  override get message(): string {
    return this.detail
  }
}

/** Every file of a folder, under its path relative to it. */
export const fromFolder = Effect.fn("fromFolder")(function*(folder: string) {
  const fs = yield* FileSystem.FileSystem
  const found = yield* fs.readDirectory(folder, { recursive: true }).pipe(Effect.mapError(fileFailed(folder)))
  const files: Array<SourceFile> = []
  for (const name of found.sort()) {
    const file = join(folder, name)
    const { type } = yield* fs.stat(file)
    if (type !== "File") continue
    const why = offence(name)
    if (why !== undefined) return yield* new SourceFailed({ detail: `${file} can't be published: ${why}` })
    files.push({ file, as: name })
  }
  if (files.length === 0) return yield* new SourceFailed({ detail: `${folder} holds no file to publish` })
  return files
})

/** A day of two measurements, an hour a file; the first hour of `cpu` is the large one, over 100 MB. */
const hours = Array.from({ length: 24 }, (_, hour) => hour)
const measurements = [
  { name: "cpu", columns: "random() * 100 AS usage_user, random() * 100 AS usage_system" },
  { name: "mem", columns: "(random() * 68719476736)::BIGINT AS used, random() * 100 AS used_percent" }
]
const rows = (measurement: string, hour: number) => (measurement === "cpu" && hour === 0 ? 8_000_000 : 40_000)

/** Writes the demo's Parquet files one after another, each as soon as somebody asks for it. */
export const generate = (folder: string) =>
  Stream.unwrap(Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const { query } = yield* openDuckDb
    const plan = measurements.flatMap(({ columns, name }) => hours.map((hour) => ({ columns, name, hour })))
    return Stream.fromIterable(plan).pipe(
      Stream.mapEffect(Effect.fnUntraced(function*({ columns, hour, name }) {
        const hh = String(hour).padStart(2, "0")
        const as = `demo/${name}/2026/04/11/${hh}/${name}_20260411_${hh}0000.parquet`
        const file = join(folder, as.replaceAll("/", "_"))
        yield* fs.makeDirectory(folder, { recursive: true })
        yield* query(`
          COPY (
            SELECT TIMESTAMP '2026-04-11 ${hh}:00:00' + to_microseconds((i * 3600000000 // ${
          rows(name, hour)
        })::BIGINT) AS time,
                   'host-' || (i % 40)::VARCHAR AS host, ${columns}
            FROM range(${rows(name, hour)}) t(i)
          ) TO '${file.replaceAll("'", "''")}' (FORMAT parquet, COMPRESSION zstd)`)
        return { file, as } satisfies SourceFile
      }))
    )
  }))

export const generatedFiles = measurements.length * hours.length

/** DuckDB in this process, closed with the scope. */
export const openDuckDb = Effect.gen(function*() {
  const duckdb = yield* Effect.tryPromise({
    try: () => import("@duckdb/node-api"),
    catch: () =>
      new SourceFailed({
        detail: "the demo writes and reads Parquet with DuckDB, and @duckdb/node-api is not installed: "
          + "npm install @duckdb/node-api, or name a folder of files of your own"
      })
  })
  const failed = (cause: unknown) =>
    new SourceFailed({ detail: `DuckDB failed: ${cause instanceof Error ? cause.message : String(cause)}` })
  const connection = yield* Effect.acquireRelease(
    Effect.tryPromise({
      try: async () => {
        const instance = await duckdb.DuckDBInstance.create(":memory:", { threads: "2" })
        return await instance.connect()
      },
      catch: failed
    }),
    (connection) => Effect.sync(() => connection.closeSync())
  )
  // A connection that is closed, or a process that exits, while a query runs may hang for ever: it is interrupted and
  // waited for.
  const query = (sql: string) =>
    Effect.callback<ReadonlyArray<ReadonlyArray<unknown>>, SourceFailed>((resume) => {
      const running = connection.runAndReadAll(sql).then(
        (reader) => resume(Effect.succeed(reader.getRowsJson())),
        (cause) => resume(Effect.fail(failed(cause)))
      )
      return Effect.promise(() => {
        connection.interrupt()
        return running
      })
    })
  return { query }
})
