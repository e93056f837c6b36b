/** What waits for room on the disk, each with the bytes it needs, in the order in which it came. */
import { type Effect, Latch } from "effect"

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
  const some = Latch.makeUnsafe(false)
  const remove = (item: A): boolean => {
    const was = items.delete(item)
    if (items.size === 0) some.closeUnsafe()
    return was
  }
  return {
    add: (item, bytes) => {
      items.set(item, bytes)
      some.openUnsafe()
    },
    remove,
    has: (item) => items.has(item),
    size: () => items.size,
    some: some.await,
    release: (bytes, accept) => {
      let left = bytes
      for (const [item, needed] of Array.from(items)) {
        if (needed > left) continue
        if (!accept(item)) return true
        remove(item)
        left -= needed
      }
      return left < bytes
    }
  }
}
