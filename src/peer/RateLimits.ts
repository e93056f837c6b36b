/** How many bytes a second this node takes from its peers and gives to them, over all connections together. */
import { Clock, Context, Effect, Layer } from "effect"
import { type FileEntry, isLive } from "../ports/FileEntry.ts"
import * as Throttle from "./Throttle.ts"

export class RateLimits extends Context.Service<RateLimits, {
  readonly pull: Throttle.Throttle
  readonly serve: Throttle.Throttle
}>()("file-replication/RateLimits") {}

/** The limits at the start, bytes per second; 0: none. They can be changed while the node runs. */
export interface RateLimitOptions {
  readonly pullBytesPerSecond: number
  readonly serveBytesPerSecond: number
}

export const layer = (options: RateLimitOptions): Layer.Layer<RateLimits> =>
  Layer.effect(
    RateLimits,
    Effect.all({
      pull: Throttle.make(options.pullBytesPerSecond),
      serve: Throttle.make(options.serveBytesPerSecond)
    })
  )

export const laneOf = (entry: FileEntry): Effect.Effect<Throttle.Lane> =>
  Effect.map(Clock.currentTimeMillis, (now) => isLive(entry, now) ? "live" : "late")
