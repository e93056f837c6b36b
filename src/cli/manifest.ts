/** `file-replication manifest export | import`: the manifest as JSON lines, one entry each. */
import { Effect, FileSystem, Result, Schema, Stream } from "effect"
import * as FileEntry from "../ports/FileEntry.ts"
import { folders } from "../ports/FilePath.ts"
import { Conflict, Gone, Manifest } from "../ports/Manifest.ts"
import { fileBytes, fileFailed } from "./files.ts"

/** Every entry of the manifest, as text, one line each. */
export const exportLines = Stream.unwrap(Effect.gen(function*() {
  const manifest = yield* Manifest
  const { pages } = yield* manifest.snapshot(1000)
  return Stream.map(pages, (files) => files.map(({ entry }) => `${FileEntry.toJson(entry)}\n`).join(""))
}))

/** Writes {@link exportLines} into a file. */
export const exportManifest = Effect.fn("exportManifest")(function*(to: string) {
  const fs = yield* FileSystem.FileSystem
  yield* exportLines.pipe(
    Stream.encodeText,
    Stream.run(fs.sink(to)),
    Effect.catchTag("PlatformError", (error) => fileFailed(to)(error))
  )
})

/** A line that can't be imported. */
interface Wrong {
  /** Counted from 1. */
  readonly line: number
  readonly why: string
}

/** The file was not imported, or not all of it. */
export class ImportRefused extends Schema.TaggedError<ImportRefused>()("ImportRefused", {
  file: Schema.String,
  wrong: Schema.Array(Schema.Struct({ line: Schema.Int, why: Schema.String })),
  imported: Schema.Int
}) {
  override get message(): string {
    const shown = this.wrong.slice(0, 20).map(({ line, why }) => `  line ${line}: ${why}`)
    const more = this.wrong.length > shown.length ? [`  and ${this.wrong.length - shown.length} more`] : []
    const outcome = this.imported === 0 ? "nothing was imported" : `${this.imported} entries were imported`
    return [`${this.file}: ${this.wrong.length} lines are wrong; ${outcome}`, ...shown, ...more].join("\n")
  }
}

interface Line {
  readonly line: number
  readonly entry: FileEntry.FileEntry
}

/** Entries that are asked or registered together. */
const batchSize = 500

const lines = (file: string) =>
  fileBytes(file).pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.zipWithIndex,
    Stream.filter(([text]) => text.trim() !== ""),
    Stream.map(([text, index]) => ({ line: index + 1, entry: FileEntry.fromJson(text) }))
  )

const entries = (file: string) =>
  lines(file).pipe(
    Stream.filterMap(({ entry, line }) =>
      Result.isSuccess(entry) ? Result.succeed<Line>({ line, entry: entry.success }) : Result.failVoid
    )
  )

const refusals = (batch: ReadonlyArray<Line>, answers: ReadonlyArray<unknown>): Array<Wrong> =>
  batch.flatMap(({ line }, index) => {
    const answer = answers[index]
    return answer instanceof Conflict || answer instanceof Gone ? [{ line, why: answer.message }] : []
  })

/**
 * What is wrong with a file: lines that are no entries, entries that the manifest would refuse, and lines that
 * contradict each other. Remembers a digest for each path of the file.
 */
const inspect = Effect.fn("inspect")(function*(file: string) {
  const manifest = yield* Manifest
  const wrong: Array<Wrong> = []
  const seen = new Map<string, { readonly line: number; readonly sha256: string; readonly size: number }>()
  const aboveOthers = new Map<string, number>()
  yield* Stream.runForEach(lines(file), ({ entry, line }) =>
    Effect.sync(() => {
      if (Result.isFailure(entry)) return void wrong.push({ line, why: entry.failure })
      const { path, sha256, size_bytes: size } = entry.success
      const before = seen.get(path)
      if (before !== undefined && (before.sha256 !== sha256 || before.size !== size)) {
        wrong.push({ line, why: `${path} has other bytes here than in line ${before.line}` })
      }
      const above = folders(path)
      const file = above.find((folder) => seen.has(folder))
      const clash = aboveOthers.get(path) ?? (file === undefined ? undefined : seen.get(file)?.line)
      if (clash !== undefined) {
        wrong.push({ line, why: `${path} and line ${clash} would make one name a file and a folder` })
      }
      seen.set(path, before ?? { line, sha256, size })
      for (const folder of above) if (!aboveOthers.has(folder)) aboveOthers.set(folder, line)
    }))
  const known = new Set(wrong.map(({ line }) => line))
  yield* entries(file).pipe(
    Stream.filter(({ line }) => !known.has(line)),
    Stream.grouped(batchSize),
    Stream.runForEach((batch) =>
      Effect.map(manifest.check(batch.map(({ entry }) => entry)), (answers) => {
        wrong.push(...refusals(batch, answers))
      })
    )
  )
  return wrong.sort((a, b) => a.line - b.line)
})

/**
 * Registers every entry of a file; those that are registered already are fine. All or nothing: when a line is wrong
 * nothing is registered, unless `keepGoing`.
 */
export const importManifest = Effect.fn("importManifest")(function*(file: string, options: { keepGoing: boolean }) {
  const manifest = yield* Manifest
  const wrong = yield* inspect(file)
  if (wrong.length > 0 && !options.keepGoing) return yield* new ImportRefused({ file, wrong, imported: 0 })
  let imported = 0
  // Somebody else may have registered or deleted a path since it was inspected.
  const late: Array<Wrong> = []
  const refused = new Set(wrong.map(({ line }) => line))
  yield* entries(file).pipe(
    Stream.filter(({ line }) => !refused.has(line)),
    Stream.grouped(batchSize),
    Stream.runForEach((batch) =>
      Effect.map(manifest.registerAll(batch.map(({ entry }) => entry)), (answers) => {
        const now = refusals(batch, answers)
        late.push(...now)
        imported += batch.length - now.length
      })
    )
  )
  if (wrong.length + late.length > 0) return yield* new ImportRefused({ file, wrong: [...wrong, ...late], imported })
  return imported
})
