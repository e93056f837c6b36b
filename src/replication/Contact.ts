/** Whether the manifest answers, asked from time to time: when nothing changes, nobody else would notice. */
import { Clock, Context, Duration, Effect, Layer, Option } from "effect"
import { type Cursor, Manifest } from "../ports/Manifest.ts"
import type { Trouble } from "../ports/Membership.ts"
import { Background } from "./Background.ts"

export interface ContactState {
  /** The newest position of the manifest, when it last answered. */
  readonly head: Option.Option<Cursor>
  /** When that was, or when this node has begun to ask; milliseconds since 1970. */
  readonly answered: number
  /** Since when it has not answered, and why. */
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
    const failed = Effect.fnUntraced(function*(detail: string) {
      const now = yield* Clock.currentTimeMillis
      const since = Option.match(state.trouble, { onNone: () => now, onSome: ({ since }) => since })
      state = { ...state, trouble: Option.some({ since, detail }) }
    })
    const ask = manifest.head.pipe(
      Effect.timeoutOrElse({ duration: patience, orElse: () => Effect.fail({ message: "it does not answer" }) }),
      Effect.flatMap((head) =>
        Effect.map(Clock.currentTimeMillis, (answered) => {
          state = { head: Option.some(head), answered, trouble: Option.none() }
        })
      ),
      Effect.catch(({ message }) => failed(message))
    )
    yield* background.run(
      "the question for the manifest's position",
      Effect.forever(Effect.andThen(ask, Effect.sleep(interval)))
    )
    return { state: Effect.sync(() => state) }
  })
)
