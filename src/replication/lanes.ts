/**
 * A bounded queue of three lanes. Small files and giants that wait for the first time go newest first, and before what
 * has failed before, so that files that nobody can deliver never keep others from a worker. A full lane of these gives
 * its oldest away for a newer one; what has failed before waits in the order in which it came.
 *
 * A quick worker takes small files only: there is always one soon that no giant holds, and nothing that has failed.
 *
 * Small files that may go together with others wait for whoever lets them, not for a worker; those that it leaves wait for
 * one, and while some do it is given only what is newer.
 */
import { Effect } from "effect"
import type { Registered } from "../ports/FileEntry.ts"
import { isGiant } from "../ports/giant.ts"

export const lanes = ["small", "giant", "again"] as const
export type Lane = (typeof lanes)[number]

/** Where something waits: the small ones that may go together, and those that were left, share the lane of the small ones. */
export type List = Lane | "together" | "left"
const listsOf: Readonly<Record<Lane, ReadonlyArray<List>>> = {
  small: ["small", "left", "together"],
  giant: ["giant"],
  again: ["again"]
}

/** `rounds`: how many rounds of attempts have ended without the file. */
export const laneOf = ({ entry }: Registered, rounds: number): Lane =>
  rounds > 0 ? "again" : isGiant(entry.size_bytes) ? "giant" : "small"

export interface Lanes<A> {
  /** Gives what found no room: nothing, the item itself, or an older one that gave way to it. */
  readonly offer: (item: A, lane: Lane, list?: List) => A | undefined
  /** Waits for the next, for a quick worker or for any other. */
  readonly take: (quick: boolean) => Effect.Effect<A>
  /**
   * Waits for small ones that may go together, and until none that is newer and was left of such waits for a worker. Gives
   * the newest, at most so many.
   */
  readonly takeTogether: (most: number) => Effect.Effect<ReadonlyArray<A>>
  /** How many a lane can still take. */
  readonly room: (lane: Lane) => number
  /** Whether something waits for a worker that has not failed before. */
  readonly hasNew: () => boolean
}

/** Of so many that workers take, the quick ones aside, one may have failed before while others are new. */
const share = 8

/** Who takes: workers, or whoever lets small files go together. */
type Taker = "quick" | "any" | "together"

/** `capacity`: of each lane. `age`: the larger, the newer. */
export const make = <A>(capacity: number, age: (item: A) => number): Lanes<A> => {
  // The newest of all but `again`, and the first of that, is the last of its list, which costs least to take.
  const waiting: Record<List, Array<A>> = { small: [], left: [], together: [], giant: [], again: [] }
  // Those who wait, the first first; a ring tells one of them to look.
  const waiters: Record<Taker, Set<() => void>> = { quick: new Set(), any: new Set(), together: new Set() }

  const inLane = (lane: Lane): number => listsOf[lane].reduce((sum, list) => sum + waiting[list].length, 0)

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

  /** From where on those that may go together are newer than all that were left of such. */
  const newer = (): number => {
    const left = waiting.left.at(-1)
    return left === undefined ? 0 : placeOf(waiting.together, left)
  }

  const hasFor = (taker: Taker): boolean => {
    const { again, giant, left, small, together } = waiting
    if (taker === "together") return together.length > newer()
    return small.length + left.length > 0 || (taker === "any" && giant.length + again.length > 0)
  }

  /** Tells whoever lets files go together to look, and one worker for whom there is something. */
  const ring = (): void => {
    if (hasFor("together")) { for (const look of waiters.together) look() }
    const [first] = hasFor("quick") && waiters.quick.size > 0 ? waiters.quick : hasFor("any") ? waiters.any : []
    first?.()
  }

  const rung = (taker: Taker): Effect.Effect<void> =>
    Effect.callback((resume) => {
      // Something may have come since this one looked.
      if (hasFor(taker)) return resume(Effect.void)
      const mine = waiters[taker]
      const look = () => {
        mine.delete(look)
        resume(Effect.void)
      }
      mine.add(look)
      return Effect.sync(() => mine.delete(look))
    })

  const oldest = (lists: ReadonlyArray<List>): A | undefined => {
    const ages = lists.map((list) => waiting[list][0]).map((first) => first === undefined ? Infinity : age(first))
    const list = lists[ages.indexOf(Math.min(...ages))]
    return list === undefined ? undefined : waiting[list].shift()
  }

  const newest = (lists: ReadonlyArray<List>): A | undefined => {
    const ages = lists.map((list) => waiting[list].at(-1)).map((last) => last === undefined ? -Infinity : age(last))
    const list = lists[ages.indexOf(Math.max(...ages))]
    return list === undefined ? undefined : waiting[list].pop()
  }

  const enter = (item: A, lane: Lane, list: List): A | undefined => {
    if (lane === "again") {
      if (waiting.again.length >= capacity) return item
      waiting.again.unshift(item)
      return undefined
    }
    waiting[list].splice(placeOf(waiting[list], item), 0, item)
    return inLane(lane) > capacity ? oldest(listsOf[lane]) : undefined
  }

  let picks = 0
  const pick = (quick: boolean): A | undefined => {
    // One in so many is for what has failed before, or a long catch-up would never come to it.
    if (!quick && ++picks % share === 0 && waiting.again.length > 0) return waiting.again.pop()
    return newest(quick ? ["small", "left"] : ["small", "left", "giant"]) ?? (quick ? undefined : waiting.again.pop())
  }

  return {
    offer: (item, lane, list = lane) => {
      const left = enter(item, lane, list)
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
        yield* Effect.andThen(rung(quick ? "quick" : "any"), Effect.yieldNow)
      }
    }),
    takeTogether: Effect.fnUntraced(function*(most) {
      while (!hasFor("together")) yield* Effect.andThen(rung("together"), Effect.yieldNow)
      return waiting.together.splice(Math.max(newer(), waiting.together.length - most)).reverse()
    }),
    room: (lane) => capacity - inLane(lane),
    hasNew: () => waiting.small.length + waiting.left.length + waiting.giant.length > 0
  }
}
