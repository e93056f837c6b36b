/** `file-replication publish`: files of this machine, published by this node. */
import { Console, Effect, Layer, Option, Schema } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { basename } from "node:path"
import { layerGuestBackend, layerPorts, type StartError } from "../Replication.ts"
import * as Background from "../replication/Background.ts"
import * as PathLock from "../replication/PathLock.ts"
import * as Placement from "../replication/Placement.ts"
import * as Registrar from "../replication/Registrar.ts"
import { folders, ReplicationConfig, type Settings } from "../ReplicationConfig.ts"
import * as FolderLock from "../sqlite/FolderLock.ts"
import { config, configured } from "./flags.ts"
import { fileBytes } from "./userFiles.ts"

/** The arguments don't fit each other. */
export class Misused extends Schema.TaggedError<Misused>()("Misused", { detail: Schema.String }) {
  override get message(): string {
    return this.detail
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
 * A registrar without a node around it: it writes into the node's data folder. Beside a running node it is a guest, and
 * leaves what the node has unfinished alone; without one it is the node for this moment, and finishes what is pending.
 */
export const layerRegistrar = (
  settings: Settings
): Layer.Layer<Registrar.Registrar, StartError, ReplicationConfig> =>
  Layer.unwrap(Effect.gen(function*() {
    const alone = yield* Effect.isSuccess(Effect.scoped(FolderLock.acquire(folders(settings).state)))
    return Registrar.layer({
      queueSize: settings.queueSize,
      drainMillis: Math.floor(settings.shutdownTimeoutMillis / 2),
      finishesPending: alone,
      reconcileIntervalMillis: 0
    }).pipe(
      Layer.provide(Placement.layer),
      Layer.provide(PathLock.layer),
      Layer.provide(Background.layer),
      Layer.provide(alone ? layerPorts() : layerPorts({ backend: layerGuestBackend }))
    )
  }))

export const publish = Effect.fn("publish")(function*(files: ReadonlyArray<string>, as: Option.Option<string>) {
  const registrar = yield* Registrar.Registrar
  if (files.length === 0) return yield* new Misused({ detail: "name at least one file to publish" })
  for (const { file, path } of targets(files, as)) {
    const { entry, revision } = yield* registrar.publish({ path }, fileBytes(file))
    yield* Console.log(`${entry.path}  ${entry.size_bytes} bytes  sha256 ${entry.sha256}  revision ${revision}`)
  }
})

export const publishCommand = Command.make("publish", {
  config,
  files: Argument.String("FILE").pipe(Argument.withDescription("A file to publish"), Argument.atLeast(1)),
  as: Flag.String("as").pipe(
    Flag.withDescription("The path to publish it under; for several files, the folder"),
    Flag.optional
  )
}, ({ as, config, files }) =>
  Effect.gen(function*() {
    const settings = yield* configured(config)
    const layer = layerRegistrar(settings).pipe(Layer.provide(Layer.succeed(ReplicationConfig, settings)))
    yield* Effect.provide(publish(files, as), layer)
  })).pipe(Command.withDescription("Write files into this node and register them, so that every node pulls them"))
