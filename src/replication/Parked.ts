/** What waits for room on the disk, each with the bytes it needs, in the order in which it came. */
import { Effect } from "effect"
import * as Bell from "../internal/Bell.ts"

export interface Parked<A> {
  readonly add: (item: A, bytes: number) => void
  /** Gives whether it was there. */
  readonly remove: (item: A) => boolean
  readonly has: (item: A) => boolean
  readonly size: () => number
  /** Waits until something is there. */
  readonly some: Effect.Effect<void>
  /** Takes out what fits into so many bytes together, as long as `accept` takes it. Gives whether anything fits. */
  readonly release: (bytes: number, accept: (item: A) => boolean) => boolean
}

export const make = <A>(): Parked<A> => {
  const items = new Map<A, number>()
  const came = Bell.make()
  return {
    add: (item, bytes) => {
      items.set(item, bytes)
      came.ring()
    },
    remove: (item) => items.delete(item),
    has: (item) => items.has(item),
    size: () => items.size,
    some: Effect.flatMap(came.next, (ring) => items.size > 0 ? Effect.void : ring),
    release: (bytes, accept) => {
      let left = bytes
      for (const [item, needed] of Array.from(items)) {
        if (needed > left) continue
        if (!accept(item)) return true
        items.delete(item)
        left -= needed
      }
      return left < bytes
    }
  }
}
