/**
 * Keeps what is left over on the disk within its caps: tries to pull that nobody goes on with, and files that were set
 * aside. At the start, and from time to time.
 */
import { Duration, Effect, Layer } from "effect"
import { Backend, type Cap, type Dropped } from "../ports/Backend.ts"
import { Background } from "./Background.ts"

export interface LeftoversOptions {
  readonly partials: Cap
  readonly quarantined: Cap
  /** Between two looks, milliseconds; 0: only at the start. */
  readonly intervalMillis: number
}

export const layer = (options: LeftoversOptions): Layer.Layer<never, never, Background | Backend> =>
  Layer.effectDiscard(Effect.gen(function*() {
    const backend = yield* Backend
    const background = yield* Background

    const told = ({ bytes, files }: Dropped, what: string) =>
      files === 0 ? Effect.void : Effect.logWarning(`dropped ${files} ${what}, ${bytes} bytes`)

    const trim = backend.trim(options).pipe(
      Effect.flatMap(({ partials, quarantined }) =>
        Effect.andThen(
          told(partials, "unfinished pulls (storage.max_partial_bytes, storage.max_partial_age_ms)"),
          told(quarantined, "files from quarantine (storage.max_quarantine_bytes, storage.max_quarantine_age_ms)")
        )
      ),
      Effect.catchTag("BackendError", (error) => Effect.logWarning(`leftovers are not dropped: ${error.message}`))
    )
    const rest = options.intervalMillis === 0 ? Effect.never : Effect.sleep(Duration.millis(options.intervalMillis))
    yield* background.run("the caps of what is left over", Effect.forever(Effect.andThen(trim, rest)))
  }))
