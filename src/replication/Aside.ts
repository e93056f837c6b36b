/**
 * Files that others take first. Each waits a moment beside the queue, so that workers take others meanwhile, and then for
 * a worker again: not too often, not for long, and not too many at once.
 */
import { Clock, Effect, Option, Random, type Scope } from "effect"
import type { OthersFirst } from "./crowds.ts"

/** So long a file is left to others at most, since it first was, milliseconds; then it is asked for like any other. */
const longestMillis = 30_000
/** So many times without anybody who gave it, or was said to be about to have it. */
const mostVain = 5
/** So many wait at once. */
const most = 64

/** How long one waits for its next try, milliseconds: at least, and whatever a peer says at most. */
const shortestPause = 50
const longestPause = 5000
/** Behind the first vain try; it doubles. */
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
  readonly vain: number
}

/** `back` is told of each that has waited. */
export const make = Effect.fnUntraced(function*<A extends object>(
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
        return waiting.size < most && vain < mostVain && now - since < longestMillis
      }),
    add: Effect.fnUntraced(function*(item, { message, retryAfterMillis, vain }) {
      const now = yield* Clock.currentTimeMillis
      const known = before.get(item) ?? { since: now, vain: 0 }
      const left = { since: known.since, vain: known.vain + (vain ? 1 : 0) }
      before.set(item, left)
      waiting.set(item, message)
      const wished = Math.max(retryAfterMillis, vain ? vainPause * 2 ** (left.vain - 1) : shortestPause)
      const pause = Math.min(longestPause, wished) * (yield* Random.nextBetween(1, 1.2))
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
