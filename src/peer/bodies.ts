/** Moves the bytes of a body within a limit, out of this node or into it. */
import { Effect } from "effect"
import type * as Throttle from "./Throttle.ts"
import { pieceBytes } from "./transport/Connection.ts"

/**
 * Gives what moves a chunk as `move` does: in small pieces while there is a limit, so that what was registered just now
 * waits behind one piece of another file at most.
 */
export const throttled = <E>(
  throttle: Throttle.Throttle,
  lane: Throttle.Lane,
  move: (chunk: Uint8Array) => Effect.Effect<void, E>
) => {
  const next = (chunk: Uint8Array): Effect.Effect<void, E> => {
    if (throttle.bytesPerSecond() === 0) return move(chunk)
    const piece = chunk.subarray(0, pieceBytes)
    const moved = Effect.andThen(throttle.take(piece.length, lane), move(piece))
    return piece.length === chunk.length ? moved : Effect.flatMap(moved, () => next(chunk.subarray(pieceBytes)))
  }
  return next
}
