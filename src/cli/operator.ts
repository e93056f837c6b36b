/** What the operator's questions have in common: they look at a node's files from beside it, running or not. */
import { Duration, Effect, FileSystem, Layer, Result, Runtime, Schema } from "effect"
import { FilePath, offence } from "../ports/FilePath.ts"
import { layerGuestBackend, layerPorts, type Ports, type StartError } from "../Replication.ts"
import { folders, ReplicationConfig, type Settings } from "../ReplicationConfig.ts"
import { printable } from "./printable.ts"

/** No node ever ran with this configuration. `missing`: the file that any would have made. */
export class NoNode extends Schema.TaggedError<NoNode>()("NoNode", { missing: Schema.String }) {
  override get message(): string {
    return `no node has run with this configuration: there is no ${this.missing}; name the node's own by --config`
  }
}

/** What was named is no path of a replicated file. */
export class NoPath extends Schema.TaggedError<NoPath>()("NoPath", { path: Schema.String, detail: Schema.String }) {
  override readonly [Runtime.errorExitCode] = 2
  override get message(): string {
    return `${this.path} is no path of a replicated file: ${this.detail}; it is relative to the data folder`
  }
}

/** Fails where there is no such file: to open it would make an empty one. */
export const ranBefore = Effect.fnUntraced(function*(missing: string) {
  const fs = yield* FileSystem.FileSystem
  const there = yield* Effect.orElseSucceed(fs.exists(missing), () => false)
  if (!there) return yield* new NoNode({ missing })
})

/** The ports of a node, for a process beside it. Makes no file where no node ever was. */
export const layerBeside = (
  settings: Settings
): Layer.Layer<Ports | ReplicationConfig, StartError | NoNode, FileSystem.FileSystem> =>
  Layer.unwrap(Effect.gen(function*() {
    yield* ranBefore(folders(settings).inventory)
    return layerPorts({ backend: layerGuestBackend }).pipe(
      Layer.provideMerge(Layer.succeed(ReplicationConfig, settings))
    )
  }))

export const parsePath = (text: string): Result.Result<FilePath, NoPath> => {
  const detail = offence(text)
  return detail === undefined ? Result.succeed(FilePath.make(text)) : Result.fail(new NoPath({ path: text, detail }))
}

/** `millis` since 1970 as people read it, beside `now`: `2026-04-11T14:00:00Z, 3m 20s ago`. */
export const moment = (millis: number, now: number): string => {
  const seconds = Math.round(Math.abs(now - millis) / 1000)
  const span = Duration.format(Duration.seconds(seconds))
  const distance = seconds === 0 ? "now" : millis > now ? `in ${span}` : `${span} ago`
  return `${new Date(millis).toISOString().replace(/\.\d+Z$/, "Z")}, ${distance}`
}

/** Lines of a name and what there is to say of it, the names padded. */
export const sheet = (lines: ReadonlyArray<readonly [string, string]>): string => {
  const width = Math.max(...lines.map(([name]) => name.length))
  return lines.map(([name, text]) => `  ${name.padEnd(width)}  ${printable(text)}`).join("\n")
}
