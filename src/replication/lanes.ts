/**
 * A bounded queue of two lanes: what waits for the first time goes before what has failed before, so that files that
 * nobody can deliver never keep others from a worker.
 */
import { Effect, Queue } from "effect"

export type Lane = "first" | "again"

export interface Lanes<A> {
  /** Gives `false`, and takes nothing, when the lane is full. */
  readonly offer: (item: A, lane: Lane) => boolean
  /** Waits for the next. */
  readonly take: Effect.Effect<A>
  /** How many a lane can still take. */
  readonly room: (lane: Lane) => number
}

/** `capacity`: of each lane. */
export const make = Effect.fnUntraced(function*<A>(capacity: number): Effect.fn.Return<Lanes<A>> {
  const lanes = { first: yield* Queue.dropping<A>(capacity), again: yield* Queue.dropping<A>(capacity) }
  // One for each that waits, in whichever lane.
  const tickets = yield* Queue.unbounded<void>()
  const take: Effect.Effect<A> = Effect.flatMap(
    Queue.take(tickets),
    () => Queue.takeUnsafe(lanes.first) ?? Queue.takeUnsafe(lanes.again) ?? take
  )
  return {
    offer: (item, lane) => Queue.offerUnsafe(lanes[lane], item) && Queue.offerUnsafe(tickets, undefined),
    take,
    room: (lane) => capacity - Queue.sizeUnsafe(lanes[lane])
  }
})
