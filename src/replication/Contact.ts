/** Whether the manifest answers, asked from time to time: when nothing changes, nobody else would notice. */
import { Clock, Context, Duration, Effect, Layer, Option } from "effect"
import { type Cursor, Manifest, ManifestHealth } from "../ports/Manifest.ts"
import type { Trouble } from "../ports/Membership.ts"
import { Background } from "./Background.ts"

export interface ContactState {
  /** The newest position of the manifest, when it last answered. */
  readonly head: Option.Option<Cursor>
  /** When that was, or when this node has begun to ask; milliseconds since 1970. */
  readonly answered: number
  /** Since when it has not answered, or complains, and of what. */
  readonly trouble: Option.Option<Trouble>
}

export class Contact extends Context.Service<Contact, {
  readonly state: Effect.Effect<ContactState>
}>()("file-replication/Contact") {}

/** Between two questions for the manifest's newest position. */
const interval = Duration.seconds(5)

/** One that has not answered by then does not answer. */
const patience = Duration.minutes(1)

export const layer: Layer.Layer<Contact, never, Background | Manifest> = Layer.effect(
  Contact,
  Effect.gen(function*() {
    const manifest = yield* Manifest
    const background = yield* Background
    let state: ContactState = {
      head: Option.none(),
      answered: yield* Clock.currentTimeMillis,
      trouble: Option.none()
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
        state = { ...state, head: Option.some(head), answered: yield* Clock.currentTimeMillis }
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
