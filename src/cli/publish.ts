/** `file-replication publish`: files of this machine, published by this node. */
import { Console, Duration, Effect, Layer, Option, Runtime, Schema, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { basename } from "node:path"
import { CopiesOf, Registration } from "../http/answers.ts"
import * as ExactJson from "../ports/ExactJson.ts"
import type { Registered } from "../ports/FileEntry.ts"
import { Inventory } from "../ports/Inventory.ts"
import { Manifest } from "../ports/Manifest.ts"
import { layerGuestBackend, layerPorts, layerRoom, type StartError } from "../Replication.ts"
import * as Background from "../replication/Background.ts"
import * as Copies from "../replication/Copies.ts"
import * as PathLock from "../replication/PathLock.ts"
import * as Placement from "../replication/Placement.ts"
import * as Registrar from "../replication/Registrar.ts"
import * as WalkNote from "../replication/walkNote.ts"
import { folders, ReplicationConfig, type Settings } from "../ReplicationConfig.ts"
import * as FolderLock from "../sqlite/FolderLock.ts"
import { type Client, fileAddress, place } from "./client.ts"
import { json, nodeFlags } from "./flags.ts"
import { parsePath } from "./operator.ts"
import { printable } from "./printable.ts"
import { showing } from "./progress.ts"
import { type FileFailed, openFile } from "./userFiles.ts"

/** The arguments don't fit each other. */
export class Misused extends Schema.TaggedError<Misused>()("Misused", { detail: Schema.String }) {
  override readonly [Runtime.errorExitCode] = 2
  override get message(): string {
    return this.detail
  }
}

/** The files are published, and not on as many nodes as was asked for. */
export class TooFewCopies extends Schema.TaggedError<TooFewCopies>()("TooFewCopies", {
  wanted: Schema.Int,
  timeoutMillis: Schema.Int,
  files: Schema.Array(Schema.Struct({ path: Schema.String, sightings: Schema.Array(Copies.Sighting) }))
}) {
  override get message(): string {
    const lacks = ({ kind }: Copies.Sighting) => kind !== "Held"
    const files = this.files.slice(0, 20).map(({ path, sightings }) => {
      const who = sightings.filter(lacks).map(({ detail, node }) => `\n    ${node}: ${detail}`)
      const members = sightings.length < this.wanted ? `\n    there are only ${sightings.length} nodes` : ""
      return `  ${path}: ${Copies.held(sightings)} of ${this.wanted}${who.join("")}${members}`
    })
    const more = this.files.length > 20 ? [`  and ${this.files.length - 20} files more`] : []
    const within = Duration.format(Duration.millis(this.timeoutMillis))
    const what = this.files.length === 1 ? "a file is" : `${this.files.length} files are`
    return [`published, but ${what} not on ${this.wanted} nodes within ${within}:`, ...files, ...more].join("\n")
  }
}

/** Under which path each file goes: `--as` names the file, or with several files or a `/` behind it their folder. */
export const targets = (files: ReadonlyArray<string>, as: Option.Option<string>) =>
  files.map((file) => {
    if (Option.isNone(as)) return { file, path: basename(file) }
    const folder = files.length > 1 || as.value.endsWith("/")
    return { file, path: folder ? `${as.value.replace(/\/$/, "")}/${basename(file)}` : as.value }
  })

/**
 * The manifest's position behind what was published is kept: else nothing would tell of which history the revisions here
 * are before a node has followed it that far, and one that starts later would take what another history lacks for deleted.
 */
const keepPosition = Effect.gen(function*() {
  const manifest = yield* Manifest
  const inventory = yield* Inventory
  // What an earlier history knew must still be told from this one.
  const { cursor } = yield* inventory.progress
  for (const at of yield* WalkNote.positions(inventory, cursor)) {
    if (Option.contains(yield* manifest.lost(at), "EpochChanged")) return
  }
  yield* WalkNote.remember(inventory, yield* manifest.head)
})

/**
 * A registrar without a node around it: it writes into the node's data folder. Beside a running node it is a guest, and
 * leaves what the node has unfinished alone; without one it is the node for this moment, and finishes what is pending.
 */
export const layerRegistrar = (
  settings: Settings
): Layer.Layer<Registrar.Registrar | Copies.Copies, StartError, ReplicationConfig> =>
  Layer.unwrap(Effect.gen(function*() {
    const alone = yield* Effect.isSuccess(Effect.scoped(FolderLock.acquire(folders(settings).state)))
    const registrar = Registrar.layer({
      queueSize: settings.queueSize,
      drainMillis: Math.floor(settings.shutdownTimeoutMillis / 2),
      finishesPending: alone,
      reconcileIntervalMillis: 0
    })
    const position = Layer.effectDiscard(Effect.gen(function*() {
      const ports = yield* Effect.context<Inventory | Manifest>()
      const keep = Effect.provideContext(keepPosition, ports)
      yield* Effect.addFinalizer(() => Effect.ignore(Effect.timeoutOption(keep, "2 seconds")))
    }))
    return Layer.merge(registrar, Copies.layer).pipe(
      Layer.provide(position),
      Layer.provide(Placement.layer),
      Layer.provide(PathLock.layer),
      Layer.provide(layerRoom),
      Layer.provide(Background.layer),
      Layer.provide(alone ? layerPorts() : layerPorts({ backend: layerGuestBackend }))
    )
  }))

export interface PublishOptions {
  readonly as: Option.Option<string>
  /** How many nodes must hold each file, this one included. */
  readonly wait: Option.Option<number>
  readonly timeoutMillis: number
  readonly json: boolean
}

/** Asks who holds a file. */
type Find<E, R> = (file: Registered) => Effect.Effect<ReadonlyArray<Copies.Sighting>, E, R>

/** Waits until all of them are on so many nodes. */
const untilCopied = Effect.fnUntraced(function*<E, R>(
  files: ReadonlyArray<Registered>,
  wanted: number,
  millis: number,
  find: Find<E, R>
) {
  const waited = yield* Effect.forEach(files, (file) => Copies.until(find(file), wanted), { concurrency: 8 }).pipe(
    Effect.timeoutOption(Duration.millis(millis))
  )
  if (Option.isSome(waited)) return
  const left = yield* Effect.forEach(files, (file) =>
    Effect.map(find(file), (sightings) => ({
      path: file.entry.path,
      sightings
    })), { concurrency: 8 })
  const few = left.filter(({ sightings }) => Copies.held(sightings) < wanted)
  if (few.length > 0) return yield* new TooFewCopies({ wanted, timeoutMillis: millis, files: few })
})

const tell = ({ entry, revision }: Registered, json: boolean) =>
  Console.log(
    json
      ? ExactJson.stringify({ entry, revision })
      : `${printable(entry.path)}  ${entry.size_bytes} bytes  sha256 ${entry.sha256}  revision ${revision}`
  )

/** Publishes files, one after the other, and says each as soon as it is. */
const publish = Effect.fn("publish")(function*<E, R>(
  files: ReadonlyArray<string>,
  options: PublishOptions,
  put: (path: string, bytes: Stream.Stream<Uint8Array, FileFailed>, length: number | undefined) => Effect.Effect<
    Registered,
    E,
    R
  >
) {
  const published: Array<Registered> = []
  const all = targets(files, options.as)
  for (const { path } of all) yield* Effect.fromResult(parsePath(path))
  for (const { file, path } of all) {
    const registered = yield* Effect.scoped(Effect.gen(function*() {
      const { bytes, length } = yield* openFile(file)
      let done = 0
      const counted = Stream.tap(bytes, (chunk) => Effect.sync(() => (done += chunk.length)))
      return yield* showing(path, () => ({ done, total: length }), put(path, counted, length))
    }))
    published.push(registered)
    yield* tell(registered, options.json)
  }
  return published
})

const copied = Effect.fnUntraced(function*<E, R>(
  published: ReadonlyArray<Registered>,
  options: PublishOptions,
  find: Find<E, R>
) {
  if (Option.isNone(options.wait)) return
  yield* untilCopied(published, options.wait.value, options.timeoutMillis, find)
  if (!options.json) yield* Console.log(`on ${options.wait.value} nodes, verified`)
})

/** By a running node, over HTTP. */
const publishRunning = (client: Client, files: ReadonlyArray<string>, options: PublishOptions) =>
  publish(
    files,
    options,
    (path, bytes, length) => client.send("PUT", fileAddress("/api/v1/files", path), bytes, length, Registration)
  )

/** Beside a node that can't be asked, or without one. */
const publishBeside = (files: ReadonlyArray<string>, options: PublishOptions) =>
  Effect.gen(function*() {
    const registrar = yield* Registrar.Registrar
    const published = yield* publish(files, options, (path, bytes) => registrar.publish({ path }, bytes))
    yield* copied(published, options, (yield* Copies.Copies).find)
  })

const findAt = (client: Client) => ({ entry: { path } }: Registered) =>
  Effect.map(
    client.call("GET", fileAddress("/api/v1/cluster/copies", path), CopiesOf),
    ({ sightings }) => sightings
  )

const copies = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 10_000 }, { expected: "a number of nodes" }))
const seconds = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 86_400 }, { expected: "1 to 86400 seconds" }))

export const publishCommand = Command.make("publish", {
  ...nodeFlags,
  json,
  files: Argument.String("FILE").pipe(Argument.withDescription("A file to publish"), Argument.atLeast(1)),
  as: Flag.String("as").pipe(
    Flag.withDescription("The path to publish it under; for several files, the folder"),
    Flag.optional
  ),
  wait: Flag.Int("wait").pipe(
    Flag.withSchema(copies),
    Flag.withMetavar("N"),
    Flag.withDescription("Return only when N nodes hold each file, verified, this one included"),
    Flag.optional
  ),
  timeout: Flag.Int("timeout").pipe(
    Flag.withSchema(seconds),
    Flag.withMetavar("SECONDS"),
    Flag.withDescription("How long to wait for that; then it fails and says who does not hold them; else 60"),
    Flag.withDefault(60)
  )
}, ({ as, files, json, timeout, wait, ...flags }) =>
  Effect.gen(function*() {
    if (files.length === 0) return yield* new Misused({ detail: "name at least one file to publish" })
    const options = { as, json, wait, timeoutMillis: timeout * 1000 }
    const found = yield* place(flags)
    if (found._tag === "Files") {
      const config = Layer.succeed(ReplicationConfig, found.settings)
      return yield* Effect.provide(publishBeside(files, options), Layer.provide(layerRegistrar(found.settings), config))
    }
    const published = yield* publishRunning(found.client, files, options)
    yield* copied(published, options, findAt(found.client))
  })).pipe(Command.withDescription("Write files into this node and register them, so that every node pulls them"))
