/** `file-replication manifest export | import`: the manifest as JSON lines, one entry each. */
import { Console, Effect, FileSystem, Layer, Option, Schema, Stdio, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { NotImported } from "../http/answers.ts"
import * as FileEntry from "../ports/FileEntry.ts"
import { layerManifest } from "../Replication.ts"
import { Files } from "../replication/FileList.ts"
import { exportLines, Imported, importLines, outcome } from "../replication/manifestLines.ts"
import { folders } from "../ReplicationConfig.ts"
import { type Client, named } from "./client.ts"
import { configured, json, layerConfig, nodeFlags } from "./flags.ts"
import { ranBefore } from "./operator.ts"
import { fileBytes, fileFailed, openFile, toStdout } from "./userFiles.ts"

/** Writes {@link exportLines} into a file. */
export const exportManifest = Effect.fn("exportManifest")(function*(to: string) {
  const fs = yield* FileSystem.FileSystem
  yield* exportLines.pipe(
    Stream.encodeText,
    Stream.run(fs.sink(to)),
    Effect.catchTag("PlatformError", (error) => fileFailed(to)(error))
  )
})

/** The file was not imported, or not all of it. */
export class ImportRefused extends Schema.TaggedError<ImportRefused>()("ImportRefused", {
  file: Schema.String,
  found: Imported
}) {
  override get message(): string {
    const { more, wrong } = this.found
    const shown = wrong.slice(0, 20).map(({ line, why }) => `  line ${line}: ${why}`)
    const rest = wrong.length + more - shown.length
    return [`${this.file}: ${outcome(this.found)}`, ...shown, ...(rest > 0 ? [`  and ${rest} more`] : [])].join("\n")
  }
}

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

/** The manifest is not one node's alone: without an address it is read and written itself. */
const itself = (config: Option.Option<string>) => layerManifest.pipe(Layer.provide(layerConfig(config)))

const manifestThere = Effect.fnUntraced(function*(config: Option.Option<string>) {
  const settings = yield* configured(config)
  if (settings.manifest === "sqlite") yield* ranBefore(folders(settings).manifest)
})

// It prints JSON in any case.
const manifestExport = Command.make("export", { ...nodeFlags, json }, (flags) =>
  Effect.gen(function*() {
    const { stdout } = yield* Stdio.Stdio
    const write = <E, R>(lines: Stream.Stream<string, E, R>) =>
      toStdout(Stream.run(lines, stdout({ endOnDone: false })))
    const client = yield* named(flags)
    yield* Option.isSome(client)
      ? write(exportFrom(client.value))
      : Effect.andThen(manifestThere(flags.config), Effect.provide(write(exportLines), itself(flags.config)))
  })).pipe(Command.withDescription("Print every entry as a line of JSON"))

const decodeNotImported = Schema.decodeOption(Schema.fromJsonString(NotImported))

/** By a running node, over HTTP. */
const importAt = Effect.fnUntraced(function*(client: Client, file: string, keepGoing: boolean) {
  const { bytes, length } = yield* openFile(file)
  return yield* client.send(
    "POST",
    `/api/v1/cluster/manifest?keep_going=${keepGoing}`,
    bytes,
    length,
    Imported
  ).pipe(Effect.catchTag("Refused", (refused) =>
    Option.match(decodeNotImported(refused.body), {
      onNone: () => Effect.fail(refused),
      onSome: (found) => Effect.succeed<Imported>(found)
    })))
}, Effect.scoped)

const manifestImport = Command.make("import", {
  ...nodeFlags,
  json,
  file: Argument.String("FILE").pipe(Argument.withDescription("Lines of JSON, one entry each")),
  keepGoing: Flag.Boolean("keep-going").pipe(
    Flag.withDescription("Import what is right even when a line is wrong"),
    Flag.withDefault(false)
  )
}, ({ file, json, keepGoing, ...flags }) =>
  Effect.gen(function*() {
    const client = yield* named(flags)
    const found = yield* Option.isSome(client)
      ? importAt(client.value, file, keepGoing)
      : Effect.provide(importLines(fileBytes(file), { keepGoing }), itself(flags.config))
    const { imported, more, wrong } = found
    if (json) yield* Console.log(JSON.stringify({ imported, wrong, more }))
    if (wrong.length > 0) return yield* new ImportRefused({ file, found })
    if (!json) yield* Console.log(`${imported} entries of ${file} are in the manifest`)
  })).pipe(Command.withDescription("Register every entry of a file; all of them or none"))

export const manifestCommand = Command.make("manifest").pipe(
  Command.withDescription("Move the manifest in and out"),
  Command.withSubcommands([manifestExport, manifestImport])
)
