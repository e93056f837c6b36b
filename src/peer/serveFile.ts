/** Serves one file that was granted: the answer, then the body. */
import { Effect, type Result } from "effect"
import { Backend, type BackendError } from "../ports/Backend.ts"
import type { ByteSink } from "../ports/ByteSink.ts"
import * as Metrics from "../telemetry/Metrics.ts"
import { acceptance, Refused, type Signer } from "./answers.ts"
import { throttled } from "./bodies.ts"
import type { Granted } from "./grants.ts"
import type * as Frame from "./protocol/Frame.ts"
import * as Messages from "./protocol/Messages.ts"
import { laneOf, RateLimits } from "./RateLimits.ts"
import { type Connection, ConnectionLost, makeProgress, pieceBytes, type Progress } from "./transport/Connection.ts"

/**
 * Sends an answer that no body follows. Whoever takes none for so many milliseconds would hold a place among the
 * connections for ever.
 */
export const replying = (millis: number) =>
  Effect.fnUntraced(function*(connection: Connection, encoded: Result.Result<Uint8Array, Frame.FrameTooLong>) {
    yield* connection.write(yield* Effect.fromResult(encoded)).pipe(
      Effect.timeoutOrElse({
        duration: millis,
        orElse: () => Effect.fail(new ConnectionLost({ detail: `it took no answer for ${millis} ms` }))
      })
    )
  })

export const make = Effect.fnUntraced(function*({ reply, serveTimeoutMillis, signer }: {
  readonly signer: Signer
  /** A body ends when so many milliseconds pass in which the peer takes less than 64 KiB. */
  readonly serveTimeoutMillis: number
  readonly reply: ReturnType<typeof replying>
}) {
  const backend = yield* Backend
  const limits = yield* RateLimits

  return {
    /**
     * Sends the answer and the body; `onSent` is told of its bytes once they have gone out. Nothing has been sent when it
     * fails with `Refused`.
     */
    serve: Effect.fnUntraced(
      function*(
        connection: Connection,
        request: Messages.FetchFile,
        granted: Granted,
        onSent: (bytes: number) => void
      ) {
        const { entry, length, offset } = granted
        const encoded = Messages.encodeFetchFileAck(acceptance(signer, request, {
          length,
          offset,
          sha256: entry.sha256,
          bundles: limits.serve.bytesPerSecond() === 0
        }))
        if (length === 0) return yield* reply(connection, encoded)

        const ack = yield* Effect.fromResult(encoded)
        const progress = yield* makeProgress(serveTimeoutMillis)
        const bodyProgress: Progress = {
          ...progress,
          end: (moved) => {
            progress.end(moved)
            onSent(moved)
          }
        }
        const body = throttled(limits.serve, yield* laneOf(entry), (chunk) => connection.write(chunk, bodyProgress))
        let begun = false
        // The answer goes out with the first bytes: a disk that fails before them still gives a clear refusal.
        const begin = (chunk: Uint8Array) => {
          begun = true
          return chunk.length <= pieceBytes && limits.serve.bytesPerSecond() === 0
            ? connection.write(Buffer.concat([ack, chunk]), bodyProgress)
            : Effect.andThen(connection.write(ack, progress), body(chunk))
        }
        const sink: ByteSink<ConnectionLost> = {
          write: (chunk) =>
            Effect.andThen(
              Effect.suspend(() => begun ? body(chunk) : begin(chunk)),
              Metrics.sent(request.node_id, chunk.length)
            )
        }
        const refuse = (error: BackendError): Effect.Effect<never, BackendError | Refused> =>
          begun
            ? Effect.fail(error)
            : Effect.fail(
              new Refused({ code: error.reason === "NotFound" ? "not_found" : "backend", reason: error.message })
            )
        yield* backend.read(entry.path, offset, length, sink).pipe(
          Effect.catchTag("BackendError", refuse),
          Effect.raceFirst(progress.watch)
        )
      }
    )
  }
})
