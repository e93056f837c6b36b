/**
 * The only way bytes move between ports.
 *
 * `chunk` is the sink's until the effect that `write` returns has ended; then its memory is reused. A sink that
 * needs bytes for longer copies them. It is not a `Stream`, because operators that buffer would hold memory that is
 * overwritten under them.
 */
import type { Effect } from "effect"

export interface ByteSink<E> {
  readonly write: (chunk: Uint8Array) => Effect.Effect<void, E>
}
