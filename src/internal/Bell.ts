/**
 * Wakes whoever waits for a change, from anywhere, without a queue: rings that nobody waits for are one ring.
 *
 * Take `next` before looking; a change between the look and the wait has then rung it already.
 */
import { Deferred, Effect } from "effect"

export interface Bell {
  readonly ring: () => void
  /** Gives the coming ring, as an effect that waits for it. */
  readonly next: Effect.Effect<Effect.Effect<void>>
}

export const make = (): Bell => {
  let coming = Deferred.makeUnsafe<void>()
  return {
    ring: () => {
      const rung = coming
      coming = Deferred.makeUnsafe<void>()
      Deferred.doneUnsafe(rung, Effect.void)
    },
    next: Effect.sync(() => Deferred.await(coming))
  }
}
