/** `file-replication verify`: every byte that this node calls verified, hashed again. */
import { Console, Effect, Layer, Schema } from "effect"
import * as PathLock from "../replication/PathLock.ts"
import * as Scrub from "../replication/Scrub.ts"
import { size } from "./demo/display.ts"

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
  const scrub = Scrub.layerGuest({ bytesPerSecond: options.mebibytesPerSecond * 1024 * 1024 })
  const report = yield* Effect.provide(
    Effect.flatMap(Scrub.Scrub, ({ verify }) => verify),
    scrub.pipe(Layer.provide(PathLock.layer))
  )
  const { bytes, checked, damaged, missing, started } = report
  const since = new Date(started).toISOString()
  yield* Console.log(
    options.json
      ? JSON.stringify({ checked, bytes, damaged, missing, since })
      : `${checked} files checked since ${since}, ${size(bytes)} read: ${damaged} damaged, ${missing} missing`
  )
  if (damaged + missing > 0) return yield* new DamageFound({ damaged, missing })
})
