/** The body of a request as a stream: what it may be, how long, and how slowly it may come. */
import { Clock, Duration, Effect, Stream } from "effect"
import { type HttpServerRequest } from "effect/http"
import { left, type Pace } from "./pace.ts"
import { type Refusal, refuse } from "./refusals.ts"

/** A body may rest for so long. */
const longestRest = Duration.seconds(25)

const tooSlow = refuse("TooSlow", "the body came too slowly")

/** Pure: why a body is refused before it is read; `undefined` when it is not. */
export const encodingRefusal = (
  { headers }: HttpServerRequest.HttpServerRequest
): Refusal<"WrongMediaType"> | undefined => {
  const content = headers["content-encoding"] ?? "identity"
  if (content !== "identity") {
    return refuse("WrongMediaType", `send it as it is, without Content-Encoding: ${content}`)
  }
  // Node.js takes off the chunks and nothing else: what is left of `gzip, chunked` is compressed.
  const transfer = headers["transfer-encoding"] ?? "chunked"
  return transfer.toLowerCase() === "chunked"
    ? undefined
    : refuse("WrongMediaType", `send it as it is, without Transfer-Encoding: ${transfer}`)
}

export interface BodyOptions {
  readonly pace: Pace
  /** How many bytes it may have. */
  readonly limit: number
  /** What is said of one that is longer. */
  readonly tooLarge: Refusal<"TooLarge">
}

/** The bytes of a body, as they come. */
export const bodyOf = (
  request: HttpServerRequest.HttpServerRequest,
  { limit, pace, tooLarge }: BodyOptions
): Stream.Stream<Uint8Array, Refusal<"BadRequest" | "TooSlow" | "TooLarge">> =>
  Stream.unwrap(Effect.map(Clock.currentTimeMillis, (began) => {
    let bytes = 0
    return request.stream.pipe(
      Stream.mapError(() => refuse("BadRequest", "the body ended too early")),
      Stream.timeoutOrElse({ duration: longestRest, orElse: () => Stream.fail(tooSlow) }),
      Stream.tap((chunk): Effect.Effect<void, Refusal<"TooSlow" | "TooLarge">> => {
        bytes += chunk.length
        if (bytes > limit) return Effect.fail(tooLarge)
        return Effect.flatMap(
          Clock.currentTimeMillis,
          (now) => left(pace, now - began, bytes) < 0 ? Effect.fail(tooSlow) : Effect.void
        )
      })
    )
  }))
