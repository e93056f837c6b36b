/** Keeps what is wrong with a membership, since when, and says it once in the log. */
import { Clock, Effect, Option } from "effect"
import type { Trouble } from "../ports/Membership.ts"

export interface Troubles {
  readonly current: Effect.Effect<Option.Option<Trouble>>
  /** What went wrong; said again in the log only when it is something else than before. */
  readonly note: (detail: string) => Effect.Effect<void>
  readonly clear: Effect.Effect<void>
}

/** `what` works again once the trouble is over. */
export const make = (what: string): Troubles => {
  let trouble = Option.none<Trouble>()
  return {
    current: Effect.sync(() => trouble),
    note: Effect.fnUntraced(function*(detail) {
      const before = trouble
      const now = yield* Clock.currentTimeMillis
      trouble = Option.some({
        since: Option.match(before, { onNone: () => now, onSome: ({ since }) => since }),
        detail
      })
      if (!Option.exists(before, (known) => known.detail === detail)) yield* Effect.logWarning(detail)
    }),
    clear: Effect.suspend(() => {
      const was = Option.isSome(trouble)
      trouble = Option.none()
      return was ? Effect.logInfo(`${what} works again`) : Effect.void
    })
  }
}
