/** `file-replication manifest export | import`: the manifest as JSON lines, one entry each. */
import { Console, Effect, FileSystem, Layer, Option, Result, Schema, Stdio, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import * as FileEntry from "../ports/FileEntry.ts"
import { Conflict, EntryRefused, Gone, Manifest, type Refusal } from "../ports/Manifest.ts"
import { layerManifest } from "../Replication.ts"
import { Files } from "../replication/FileList.ts"
import { type Client, makeClient, urlOf } from "./client.ts"
import { config, json, layerConfig, nodeFlags } from "./flags.ts"
import { fileBytes, fileFailed, toStdout } from "./userFiles.ts"

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

/** Every line of a file, read once; a pipe will do. */
const read = Effect.fn("read")(function*(file: string) {
  const right: Array<Line> = []
  const wrong: Array<Wrong> = []
  yield* fileBytes(file).pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.zipWithIndex,
    Stream.filter(([text]) => text.trim() !== ""),
    Stream.runForEach(([text, index]) =>
      Effect.sync(() => {
        const entry = FileEntry.fromJson(text)
        if (Result.isSuccess(entry)) right.push({ line: index + 1, entry: entry.success })
        else wrong.push({ line: index + 1, why: entry.failure })
      })
    )
  )
  return { right, wrong }
})

/** Why a line is refused; a line that stands in the way of another is named by its number. */
const explain = (lines: ReadonlyArray<Line>) => {
  const byPath = new Map<string, Line>()
  for (const each of lines) if (!byPath.has(each.entry.path)) byPath.set(each.entry.path, each)
  return ({ entry, line }: Line, refusal: Refusal): Wrong => {
    const other = refusal._tag === "Conflict" ? byPath.get(refusal.standing.path) : undefined
    if (refusal._tag !== "Conflict" || other === undefined || !FileEntry.sameBytes(other.entry, refusal.standing)) {
      return { line, why: refusal.message }
    }
    return refusal.kind === "OtherBytes"
      ? { line, why: `${entry.path} has other bytes here than in line ${other.line}` }
      : { line, why: `${entry.path} and line ${other.line} would make one name a file and a folder` }
  }
}

/**
 * Registers every entry of a file; those that are registered already are fine. All or nothing: when a line is wrong or
 * refused nothing is registered, unless `keepGoing`. Holds the whole file in memory.
 */
export const importManifest = Effect.fn("importManifest")(function*(file: string, options: { keepGoing: boolean }) {
  const manifest = yield* Manifest
  const { right, wrong } = yield* read(file)
  const entries = right.map(({ entry }) => entry)
  const answers = yield* wrong.length > 0 && !options.keepGoing
    ? manifest.check(entries)
    : options.keepGoing
    ? manifest.registerAll(entries)
    : manifest.registerTogether(entries)
  const why = explain(right)
  const refused = right.flatMap((each, index) => {
    const answer = answers[index]
    const isRefusal = answer instanceof Conflict || answer instanceof Gone || answer instanceof EntryRefused
    return isRefusal ? [why(each, answer)] : []
  })
  const all = [...wrong, ...refused].sort((a, b) => a.line - b.line)
  if (all.length === 0) return entries.length
  return yield* new ImportRefused({
    file,
    wrong: all,
    imported: options.keepGoing ? entries.length - refused.length : 0
  })
})

/** The same from a running node: page by page, so that what is registered meanwhile may be in it or not. */
const exportFrom = (client: Client) =>
  Stream.paginate("", (cursor) =>
    Effect.map(
      client.call(
        "GET",
        `/api/v1/cluster/files?limit=1000${cursor === "" ? "" : `&cursor=${encodeURIComponent(cursor)}`}`,
        Files
      ),
      ({ files, next }) => [files.map(({ entry }) => `${FileEntry.toJson(entry)}\n`), Option.fromNullOr(next)] as const
    ))

const manifestExport = Command.make("export", nodeFlags, (flags) =>
  Effect.gen(function*() {
    const { stdout } = yield* Stdio.Stdio
    const write = <E, R>(lines: Stream.Stream<string, E, R>) =>
      toStdout(Stream.run(lines, stdout({ endOnDone: false })))
    const url = urlOf(flags)
    // The manifest is not this node's alone: without an address it is read itself.
    if (Option.isSome(url)) return yield* write(exportFrom(yield* makeClient(url.value, flags.token)))
    yield* Effect.provide(write(exportLines), layerManifest.pipe(Layer.provide(layerConfig(flags.config))))
  })).pipe(Command.withDescription("Print every entry as a line of JSON"))

const manifestImport = Command.make("import", {
  config,
  json,
  file: Argument.String("FILE").pipe(Argument.withDescription("Lines of JSON, one entry each")),
  keepGoing: Flag.Boolean("keep-going").pipe(
    Flag.withDescription("Import what is right even when a line is wrong"),
    Flag.withDefault(false)
  )
}, ({ config, file, json, keepGoing }) =>
  importManifest(file, { keepGoing }).pipe(
    Effect.tapErrorTag("ImportRefused", ({ imported, wrong }) =>
      json ? Console.log(JSON.stringify({ imported, wrong })) : Effect.void),
    Effect.flatMap((imported) =>
      Console.log(json ? JSON.stringify({ imported, wrong: [] }) : `${imported} entries of ${file} are in the manifest`)
    ),
    Effect.provide(layerManifest.pipe(Layer.provide(layerConfig(config))))
  )).pipe(Command.withDescription("Register every entry of a file; all of them or none"))

export const manifestCommand = Command.make("manifest").pipe(
  Command.withDescription("Move the manifest in and out"),
  Command.withSubcommands([manifestExport, manifestImport])
)
