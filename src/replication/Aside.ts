/**
 * Files that others take first. Each waits a moment beside the queue, so that workers take others meanwhile, and then for
 * a worker again: not too often, not for long, and not too many at once.
 */
import { Clock, Effect, Option, Random, type Scope } from "effect"
import type { Registered } from "../ports/FileEntry.ts"
import type { OthersFirst } from "./crowds.ts"

/**
 * So long a file is left to others at most, since it first was, milliseconds, and for each of its bytes besides: 1 MiB/s.
 * Then it is asked for like any other.
 */
const longestMillis = 30_000
const longestMillisOfByte = 1000 / (1024 * 1024)
/** So many times without anybody who gave it, or was said to be about to have it. */
const mostVain = 5
/** So many wait at once. */
const most = 64

/** How long one waits for its next try, milliseconds: whatever a peer says at most. */
const longestPause = 5000
/** Behind the first try; it doubles. */
const firstPause = 100
const mostPause = 2000
/** The same where tries are vain. */
const vainPause = 200

export interface Aside<A> {
  /** Whether it may be left to others: whoever takes it now must take what the answer is, if not. */
  readonly mayWait: (item: A) => Effect.Effect<boolean>
  readonly add: (item: A, others: OthersFirst) => Effect.Effect<void>
  /** Gives whether it was there. */
  readonly remove: (item: A) => boolean
  /** Why it waits; `none` unless it does. */
  readonly why: (item: A) => Option.Option<string>
  readonly size: () => number
}

interface Left {
  readonly since: number
  readonly tries: number
  readonly vain: number
}

/** `back` is told of each that has waited. */
export const make = Effect.fnUntraced(function*<A extends { readonly file: Registered }>(
  back: (item: A) => void
): Effect.fn.Return<Aside<A>, never, Scope.Scope> {
  const scope = yield* Effect.scope
  const waiting = new Map<A, string>()
  // For as long as somebody knows the item.
  const before = new WeakMap<A, Left>()

  return {
    mayWait: (item) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        const { since, vain } = before.get(item) ?? { since: now, vain: 0 }
        const longest = longestMillis + item.file.entry.size_bytes * longestMillisOfByte
        // Begun later than now: the clock was set back.
        return waiting.size < most && vain < mostVain && since <= now && now - since < longest
      }),
    add: Effect.fnUntraced(function*(item, { message, retryAfterMillis, vain }) {
      const now = yield* Clock.currentTimeMillis
      const known = before.get(item) ?? { since: now, tries: 0, vain: 0 }
      const left = { since: known.since, tries: known.tries + 1, vain: known.vain + (vain ? 1 : 0) }
      before.set(item, left)
      waiting.set(item, message)
      const least = vain ? vainPause * 2 ** (left.vain - 1) : Math.min(mostPause, firstPause * 2 ** (left.tries - 1))
      const pause = Math.min(longestPause, Math.max(retryAfterMillis, least)) * (yield* Random.nextBetween(1, 1.2))
      yield* Effect.sleep(pause).pipe(
        Effect.andThen(Effect.sync(() => {
          if (waiting.delete(item)) back(item)
        })),
        Effect.forkIn(scope)
      )
    }),
    remove: (item) => waiting.delete(item),
    why: (item) => Option.fromUndefinedOr(waiting.get(item)),
    size: () => waiting.size
  }
})
