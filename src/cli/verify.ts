/** `file-replication verify`: every byte that this node calls verified, hashed again. */
import { Console, Effect, Layer, Schema } from "effect"
import { Command, Flag } from "effect/cli"
import { join } from "node:path"
import * as PathLock from "../replication/PathLock.ts"
import * as Scrub from "../replication/Scrub.ts"
import { folders, ReplicationConfig } from "../ReplicationConfig.ts"
import * as FolderLock from "../sqlite/FolderLock.ts"
import { size } from "./demo/display.ts"
import { beside, config, json } from "./flags.ts"

/** Something was damaged or missing. */
export class DamageFound extends Schema.TaggedError<DamageFound>()("DamageFound", {
  damaged: Schema.Natural,
  missing: Schema.Natural
}) {
  override get message(): string {
    return `${this.damaged} files were damaged and set aside, ${this.missing} were missing; they are owed again, and the `
      + "node pulls them from its peers as soon as it runs"
  }
}

export interface VerifyOptions {
  readonly json: boolean
  /** How fast files are read at most; 0: as fast as it goes. */
  readonly mebibytesPerSecond: number
}

export const verify = Effect.fn("verify")(function*(options: VerifyOptions) {
  const { state } = folders(yield* ReplicationConfig)
  // Two at once would share one position, and each would tell of half.
  yield* FolderLock.acquire(join(state, "verify"), "another verify reads these files; wait until it has ended")
  const report = yield* Effect.provide(
    Effect.flatMap(
      Scrub.Scrub,
      ({ verify }) => verify({ bytesPerSecond: options.mebibytesPerSecond * 1024 * 1024 })
    ),
    Layer.provide(Scrub.layerGuest, PathLock.layer)
  )
  const { bytes, checked, damaged, missing, started } = report
  const since = new Date(started).toISOString()
  yield* Console.log(
    options.json
      ? JSON.stringify({ checked, bytes, damaged, missing, since })
      : `${checked} files checked since ${since}, ${size(bytes)} read: ${damaged} damaged, ${missing} missing`
  )
  if (damaged + missing > 0) return yield* new DamageFound({ damaged, missing })
}, Effect.scoped)

export const verifyCommand = Command.make("verify", {
  config,
  json,
  rate: Flag.Int("rate").pipe(
    Flag.withDescription("Read at most so many MiB per second, 0: as fast as it goes"),
    Flag.withSchema(Schema.Natural),
    Flag.withDefault(128)
  )
}, ({ config, json, rate }) => beside(config, verify({ json, mebibytesPerSecond: rate }))).pipe(
  Command.withDescription("Hash every file of this node again; what is damaged is set aside and pulled again")
)
