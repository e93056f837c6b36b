/** `file-replication verify`: every byte that this node calls verified, hashed again. */
import { Console, Duration, Effect, Layer, Schedule, Schema } from "effect"
import { Command, Flag } from "effect/cli"
import { NodeStatus, Verification } from "../http/answers.ts"
import { filesWere } from "../internal/files.ts"
import { Inventory } from "../ports/Inventory.ts"
import * as PathLock from "../replication/PathLock.ts"
import * as Scrub from "../replication/Scrub.ts"
import { folders, ReplicationConfig } from "../ReplicationConfig.ts"
import { verifyLock } from "../sqlite/FolderLock.ts"
import { type Client, place } from "./client.ts"
import { size } from "./demo/display.ts"
import { json, nodeFlags } from "./flags.ts"
import { layerBeside } from "./operator.ts"
import { showing } from "./progress.ts"

/** Something was damaged or missing. */
export class DamageFound extends Schema.TaggedError<DamageFound>()("DamageFound", {
  damaged: Schema.Natural,
  missing: Schema.Natural
}) {
  override get message(): string {
    const damaged = `${filesWere(this.damaged)} damaged and set aside`
    return `${damaged}, ${
      filesWere(this.missing)
    } missing; what was is owed again, and the node pulls it from its peers `
      + "while it runs"
  }
}

/** The verification ended before its end. */
export class VerifyFailed extends Schema.TaggedError<VerifyFailed>()("VerifyFailed", { detail: Schema.String }) {
  override get message(): string {
    return `the verification ended before its end: ${this.detail}; say it again to go on with it`
  }
}

interface VerifyOptions {
  readonly json: boolean
  /** How fast files are read at most; 0: as fast as it goes. */
  readonly mebibytesPerSecond: number
}

type Found = Pick<Scrub.ScrubReport, "started" | "checked" | "bytes" | "damaged" | "missing">

const tell = Effect.fnUntraced(function*({ bytes, checked, damaged, missing, started }: Found, json: boolean) {
  const since = new Date(started).toISOString()
  yield* Console.log(
    json
      ? JSON.stringify({ checked, bytes, damaged, missing, since })
      : `${checked} files checked since ${since}, ${size(bytes)} read: ${damaged} damaged, ${missing} missing`
  )
  if (damaged + missing > 0) return yield* new DamageFound({ damaged, missing })
})

/** Beside a node, or without one. */
const verify = Effect.fn("verify")(function*({ json, mebibytesPerSecond }: VerifyOptions) {
  const { state } = folders(yield* ReplicationConfig)
  yield* verifyLock(state)
  const { verified } = yield* (yield* Inventory).progress
  let done = 0
  const work = Effect.flatMap(Scrub.Scrub, ({ verify }) =>
    verify({
      bytesPerSecond: mebibytesPerSecond * 1024 * 1024,
      onProgress: ({ bytes }) => (done = bytes)
    })).pipe(Effect.provide(Layer.provide(Scrub.layerGuest, PathLock.layer)))
  yield* tell(yield* showing("verifying", () => ({ done, total: verified.bytes }), work), json)
}, Effect.scoped)

/** Between two looks at how it goes. */
const interval = Duration.millis(200)

/** By a running node. */
const verifyRunning = Effect.fn("verify")(function*(client: Client, { json, mebibytesPerSecond }: VerifyOptions) {
  yield* client.call("POST", `/api/v1/cluster/verify?rate=${mebibytesPerSecond}`, Verification)
  let done = 0
  let total: number | undefined
  const look = client.call("GET", "/api/v1/cluster/status", NodeStatus).pipe(
    Effect.tap(({ status, verification }) =>
      Effect.sync(() => {
        done = verification?.bytes ?? 0
        total = status.verified.bytes
      })
    ),
    Effect.repeat({
      until: ({ verification }) => verification?.running !== true,
      schedule: Schedule.spaced(interval)
    })
  )
  const { verification } = yield* showing("verifying", () => ({ done, total }), look)
  if (verification === null) return yield* new VerifyFailed({ detail: "the node was started anew meanwhile" })
  if (verification.error !== null) return yield* new VerifyFailed({ detail: verification.error })
  yield* tell({ ...verification, started: verification.started_ms }, json)
})

export const verifyCommand = Command.make("verify", {
  ...nodeFlags,
  json,
  rate: Flag.Int("rate").pipe(
    Flag.withDescription("Read at most so many MiB per second, 0: as fast as it goes; else 128"),
    Flag.withSchema(Schema.Natural),
    Flag.withDefault(128)
  )
}, ({ json, rate, ...flags }) =>
  Effect.gen(function*() {
    const options = { json, mebibytesPerSecond: rate }
    const found = yield* place(flags)
    yield* found._tag === "Running"
      ? verifyRunning(found.client, options)
      : Effect.provide(verify(options), layerBeside(found.settings))
  })).pipe(
    Command.withDescription("Hash every file of this node again; what is damaged is set aside and pulled again")
  )
