/**
 * What keeps new pulls from beginning. A pull that is in flight goes on: its bytes are paid for already. Nothing that
 * waits is lost or counts as a failure.
 *
 * An operator's pause outlives this process, so that a node that was paused before an upgrade is paused behind it.
 */
import { Clock, Effect, Latch, Option, Queue, Schema, type Scope } from "effect"
import { doubled } from "../internal/rests.ts"
import type { Inventory, InventoryError } from "../ports/Inventory.ts"
import type { Background } from "./Background.ts"

/**
 * `operator`: somebody has said so. `disk`: what is owed finds no room. `inventory`: it can't be written, so nothing
 * that arrives could be recorded.
 */
export const PauseReason = Schema.Literals(["operator", "disk", "inventory"])
export type PauseReason = typeof PauseReason.Type

export interface Pauses {
  /** What holds pulls now; empty: nothing does. */
  readonly reasons: Effect.Effect<ReadonlyArray<PauseReason>>
  /** Waits until nothing holds new pulls. */
  readonly open: Effect.Effect<void>
  readonly hold: (reason: PauseReason) => void
  readonly release: (reason: PauseReason) => void
  /** Holds at once. `InventoryError`: it holds, but the next start will not know. */
  readonly pause: (reason: "operator") => Effect.Effect<void, InventoryError>
  /** `InventoryError`: it could not be recorded, and goes on holding. */
  readonly resume: (reason: "operator") => Effect.Effect<void, InventoryError>
  /** Holds until the inventory can be written again. */
  readonly unwritable: (error: InventoryError) => Effect.Effect<void>
  /** Waits until it can be. */
  readonly writable: Effect.Effect<void>
}

/** The name under which the inventory keeps an operator's pause. */
const pausedNote = "paused"

/** The name under which it is tried whether the inventory can be written. */
const probeNote = "probe"

/** Before the inventory is tried again, milliseconds: at first, and at most, when it refuses again and again. */
const firstRest = 200
const longestRest = 5000
/** One that has refused nothing for so long begins anew with that, milliseconds. */
const steady = 60_000

export const make = Effect.fnUntraced(function*(
  inventory: Inventory["Service"],
  background: Background["Service"]
): Effect.fn.Return<Pauses, never, Scope.Scope> {
  const held = new Set<PauseReason>()
  const latch = Latch.makeUnsafe(true)
  const writable = Latch.makeUnsafe(true)
  const failed = yield* Queue.sliding<void>(1)

  const hold = (reason: PauseReason): void => {
    held.add(reason)
    latch.closeUnsafe()
  }
  const release = (reason: PauseReason): void => {
    held.delete(reason)
    if (held.size === 0) latch.openUnsafe()
  }

  const unwritable = Effect.fnUntraced(function*(error: InventoryError) {
    if (!held.has("inventory")) yield* Effect.logError(`pulling pauses: ${error.message}`)
    hold("inventory")
    writable.closeUnsafe()
    yield* Queue.offer(failed, undefined)
  })

  const restore = Effect.map(inventory.recall(pausedNote), (note) => {
    if (Option.isSome(note)) hold("operator")
  })

  const probe = inventory.remember(probeNote, Option.some("written")).pipe(
    Effect.andThen(restore),
    Effect.andThen(Effect.sync(() => {
      release("inventory")
      writable.openUnsafe()
    })),
    Effect.andThen(Effect.logInfo("the inventory can be written again; pulling goes on")),
    Effect.catchTag("InventoryError", () => Queue.offer(failed, undefined))
  )

  yield* Effect.catchTag(restore, "InventoryError", unwritable)
  if (held.has("operator")) yield* Effect.logWarning("pulling is paused by the operator, since before this start")
  const probing = Effect.gen(function*() {
    let rest = 0
    let tried = -Infinity
    while (true) {
      yield* Queue.take(failed)
      rest = (yield* Clock.currentTimeMillis) - tried < steady ? doubled(rest, firstRest, longestRest) : firstRest
      yield* Effect.sleep(rest)
      // Who has been refused meanwhile waits for the same try.
      yield* Queue.clear(failed)
      yield* probe
      tried = yield* Clock.currentTimeMillis
    }
  })
  yield* background.run("the pauses of the puller", probing)

  return {
    reasons: Effect.sync(() => Array.from(held)),
    open: latch.await,
    hold,
    release,
    pause: Effect.fnUntraced(function*(reason) {
      hold(reason)
      yield* inventory.remember(pausedNote, Option.some(reason))
    }),
    resume: Effect.fnUntraced(function*(reason) {
      yield* inventory.remember(pausedNote, Option.none())
      release(reason)
    }),
    unwritable,
    writable: writable.await
  }
})
