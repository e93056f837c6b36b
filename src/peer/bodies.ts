/** Sends bytes to a peer within the limit of what this node gives. */
import { Effect } from "effect"
import type { RateLimits } from "./RateLimits.ts"
import type * as Throttle from "./Throttle.ts"
import { type Connection, type ConnectionLost, pieceBytes, type Progress } from "./transport/Connection.ts"

/** Gives what sends a body, a chunk at a time, as `Connection.write` does. */
export const throttled = (
  { serve }: RateLimits["Service"],
  lane: Throttle.Lane,
  connection: Connection,
  progress: Progress
) => {
  const send = (chunk: Uint8Array): Effect.Effect<void, ConnectionLost> => {
    if (serve.bytesPerSecond() === 0) return connection.write(chunk, progress)
    const piece = chunk.subarray(0, pieceBytes)
    const written = Effect.andThen(serve.take(piece.length, lane), connection.write(piece, progress))
    return piece.length === chunk.length
      ? written
      : Effect.flatMap(written, () => send(chunk.subarray(pieceBytes)))
  }
  return send
}
