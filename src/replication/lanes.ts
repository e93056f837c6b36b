/**
 * A bounded queue of three lanes. Small files and giants that wait for the first time go newest first, and before what
 * has failed before, so that files that nobody can deliver never keep others from a worker. A full lane of these gives
 * its oldest away for a newer one; what has failed before waits in the order in which it came.
 *
 * A quick worker takes small files only: there is always one soon that no giant holds, and nothing that has failed.
 */
import { Effect } from "effect"
import type { Registered } from "../ports/FileEntry.ts"
import { isGiant } from "../ports/giant.ts"

export const lanes = ["small", "giant", "again"] as const
export type Lane = (typeof lanes)[number]

/** `rounds`: how many rounds of attempts have ended without the file. */
export const laneOf = ({ entry }: Registered, rounds: number): Lane =>
  rounds > 0 ? "again" : isGiant(entry.size_bytes) ? "giant" : "small"

export interface Lanes<A> {
  /** Gives what found no room: nothing, the item itself, or an older one that gave way to it. */
  readonly offer: (item: A, lane: Lane) => A | undefined
  /** Waits for the next, for a quick worker or for any other. */
  readonly take: (quick: boolean) => Effect.Effect<A>
  /** How many a lane can still take. */
  readonly room: (lane: Lane) => number
  /** Whether something waits that has not failed before. */
  readonly hasNew: () => boolean
}

/** Of so many that workers take, the quick ones aside, one may have failed before while others are new. */
const share = 8

/** `capacity`: of each lane. `age`: the larger, the newer. */
export const make = <A>(capacity: number, age: (item: A) => number): Lanes<A> => {
  // The newest of `small` and `giant` and the first of `again` is the last of its list, which costs least to take.
  const waiting: Record<Lane, Array<A>> = { small: [], giant: [], again: [] }
  // Those who wait, the first first; a ring tells one of them to look.
  const waiters: Record<"quick" | "any", Set<() => void>> = { quick: new Set(), any: new Set() }

  const hasFor = (quick: boolean): boolean =>
    waiting.small.length > 0 || (!quick && waiting.giant.length + waiting.again.length > 0)

  /** Tells one to look for whom there is something. */
  const ring = (): void => {
    const [first] = hasFor(true) && waiters.quick.size > 0 ? waiters.quick : hasFor(false) ? waiters.any : []
    first?.()
  }

  const rung = (quick: boolean): Effect.Effect<void> =>
    Effect.callback((resume) => {
      // Something may have come since this one looked.
      if (hasFor(quick)) return resume(Effect.void)
      const mine = waiters[quick ? "quick" : "any"]
      const look = () => {
        mine.delete(look)
        resume(Effect.void)
      }
      mine.add(look)
      return Effect.sync(() => mine.delete(look))
    })

  /** Behind all that are older, before all that are as old: those came first and are taken first. */
  const placeOf = (lane: ReadonlyArray<A>, item: A): number => {
    const own = age(item)
    let low = 0
    let high = lane.length
    while (low < high) {
      const middle = (low + high) >>> 1
      const there = lane[middle]
      if (there !== undefined && age(there) < own) low = middle + 1
      else high = middle
    }
    return low
  }

  const enter = (item: A, name: Lane): A | undefined => {
    const lane = waiting[name]
    if (name === "again") {
      if (lane.length >= capacity) return item
      lane.unshift(item)
      return undefined
    }
    const place = placeOf(lane, item)
    if (lane.length < capacity) {
      lane.splice(place, 0, item)
      return undefined
    }
    if (place === 0) return item
    lane.splice(place, 0, item)
    return lane.shift()
  }

  let picks = 0
  const pick = (quick: boolean): A | undefined => {
    // One in so many is for what has failed before, or a long catch-up would never come to it.
    if (!quick && ++picks % share === 0 && waiting.again.length > 0) return waiting.again.pop()
    const small = waiting.small.at(-1)
    const giant = waiting.giant.at(-1)
    if (quick || (small !== undefined && (giant === undefined || age(giant) <= age(small)))) return waiting.small.pop()
    return giant === undefined ? waiting.again.pop() : waiting.giant.pop()
  }

  return {
    offer: (item, lane) => {
      const left = enter(item, lane)
      if (left !== item) ring()
      return left
    },
    take: Effect.fnUntraced(function*(quick) {
      while (true) {
        const item = pick(quick)
        if (item !== undefined) {
          // Another ring may have been for what is left.
          ring()
          return item
        }
        // Whoever offers goes on first.
        yield* Effect.andThen(rung(quick), Effect.yieldNow)
      }
    }),
    room: (lane) => capacity - waiting[lane].length,
    hasNew: () => waiting.small.length + waiting.giant.length > 0
  }
}
