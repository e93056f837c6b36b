/** The members as a stream: now, and whenever somebody came, moved, lapsed or left. */
import { Effect, Option, Stream } from "effect"
import type * as Bell from "../internal/Bell.ts"
import { addressText, type Member } from "../ports/Membership.ts"

/** What a change of is told; how far a member has got changes all the time, and is not. */
const shapeOf = (members: ReadonlyArray<Member>): string =>
  JSON.stringify(
    members.map(({ address, alive, draining, id, role, version }) => [
      id,
      role,
      Option.getOrNull(Option.map(address, addressText)),
      alive,
      draining,
      version
    ])
  )

/** Looks at each ring of the bell, and tells only of what differs from what was told last. */
export const changesOf = <E>(
  members: Effect.Effect<ReadonlyArray<Member>, E>,
  bell: Bell.Bell
): Stream.Stream<ReadonlyArray<Member>, E> =>
  Stream.unfold(
    "",
    Effect.fnUntraced(function*(told: string) {
      while (true) {
        const rung = yield* bell.next
        const now = yield* members
        const shape = shapeOf(now)
        if (shape !== told) return [now, shape] as const
        yield* rung
      }
    })
  )
