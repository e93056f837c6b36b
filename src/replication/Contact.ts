/**
 * Whether the manifest answers, and since when this node has not taken what it told, asked from time to time: when nothing
 * changes, or nothing comes, nobody else would notice.
 */
import { Clock, Context, Duration, Effect, Layer, Option } from "effect"
import { Inventory } from "../ports/Inventory.ts"
import { type Cursor, Manifest, ManifestHealth } from "../ports/Manifest.ts"
import type { Trouble } from "../ports/Membership.ts"
import { Background } from "./Background.ts"

/** A position that was the newest once, and that this node has not reached; since when, milliseconds since 1970. */
export interface Gap {
  readonly at: Cursor
  readonly since: number
}

export interface ContactState {
  /** The newest position of the manifest, when it last answered. */
  readonly head: Option.Option<Cursor>
  /** When that was, or when this node has begun to ask; milliseconds since 1970. */
  readonly answered: number
  /** Since when it has not answered, or complains, and of what. */
  readonly trouble: Option.Option<Trouble>
  /** What had not been taken when the manifest last answered. */
  readonly gap: Option.Option<Gap>
}

/** Pure: whether a cursor is of the same history as a position, and not before it. */
const isReached = (at: Cursor, cursor: Option.Option<Cursor>): boolean =>
  Option.exists(cursor, ({ epoch, revision }) => epoch === at.epoch && revision >= at.revision)

/** Pure: the gap that is left where the events up to `cursor` have been taken. */
export const gapBehind = (gap: Option.Option<Gap>, cursor: Option.Option<Cursor>): Option.Option<Gap> =>
  Option.filter(gap, ({ at }) => !isReached(at, cursor))

/**
 * Pure: the position whose events are waited for. It stays until it is reached, so that its age is that of the gap,
 * however far the manifest goes on meanwhile. One that is not in the manifest's history any more is not waited for.
 */
export const nextGap = (
  gap: Option.Option<Gap>,
  head: Cursor,
  cursor: Option.Option<Cursor>,
  now: number
): Option.Option<Gap> =>
  Option.filter(gapBehind(gap, cursor), ({ at }) => isReached(at, Option.some(head))).pipe(
    // A clock that was set back made it young again for as long.
    Option.map(({ at, since }) => ({ at, since: Math.min(since, now) })),
    Option.orElse(() => gapBehind(Option.some({ at: head, since: now }), cursor))
  )

export class Contact extends Context.Service<Contact, {
  readonly state: Effect.Effect<ContactState>
}>()("file-replication/Contact") {}

/** Between two questions for the manifest's newest position. */
const interval = Duration.seconds(5)

/** One that has not answered by then does not answer. */
const patience = Duration.minutes(1)

export const layer: Layer.Layer<Contact, never, Background | Inventory | Manifest> = Layer.effect(
  Contact,
  Effect.gen(function*() {
    const inventory = yield* Inventory
    const manifest = yield* Manifest
    const background = yield* Background
    let state: ContactState = {
      head: Option.none(),
      answered: yield* Clock.currentTimeMillis,
      trouble: Option.none(),
      gap: Option.none()
    }
    const health = yield* Effect.serviceOption(ManifestHealth)
    const complaints = Option.match(health, {
      onNone: () => Effect.succeed<ReadonlyArray<string>>([]),
      onSome: ({ complaints }) => complaints
    })
    const troubled = Effect.fnUntraced(function*(detail: string) {
      const now = yield* Clock.currentTimeMillis
      const since = Option.match(state.trouble, { onNone: () => now, onSome: ({ since }) => since })
      state = { ...state, trouble: Option.some({ since, detail }) }
    })
    const ask = manifest.head.pipe(
      Effect.timeoutOrElse({ duration: patience, orElse: () => Effect.fail({ message: "it does not answer" }) }),
      Effect.flatMap(Effect.fnUntraced(function*(head) {
        const now = yield* Clock.currentTimeMillis
        state = { ...state, head: Option.some(head), answered: now }
        // While the inventory can't be read the gap stays what it was.
        const progress = yield* Effect.option(inventory.progress)
        if (Option.isSome(progress)) state = { ...state, gap: nextGap(state.gap, head, progress.value.cursor, now) }
        const all = yield* complaints
        if (all.length > 0) yield* troubled(all.join("; "))
        else state = { ...state, trouble: Option.none() }
      })),
      Effect.catch(({ message }) => troubled(message))
    )
    yield* background.run(
      "the question for the manifest's position",
      Effect.forever(Effect.andThen(ask, Effect.sleep(interval)))
    )
    return { state: Effect.sync(() => state) }
  })
)
