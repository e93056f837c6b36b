/** Reads frames off a connection. */
import { Effect, Option } from "effect"
import * as Frame from "./protocol/Frame.ts"
import type { Connection, ConnectionLost } from "./transport/Connection.ts"

export interface FrameReader {
  /** The next frame; `none` once the other side has ended, in the middle of a frame too. */
  readonly next: Effect.Effect<Option.Option<Frame.Frame>, Frame.FrameError | ConnectionLost>
  /** What arrived behind the last frame. Lent until the connection is read again. */
  readonly rest: () => Uint8Array
}

const nothing = new Uint8Array(0)

export const makeFrameReader = (connection: Connection, limit: number): FrameReader => {
  const decoder = Frame.makeDecoder(limit)
  let rest: Uint8Array = nothing

  const push = Effect.fnUntraced(function*(chunk: Uint8Array) {
    const decoded = yield* Effect.fromResult(decoder.push(chunk))
    rest = Option.isSome(decoded) ? decoded.value.rest : nothing
    return Option.map(decoded, ({ frame }) => frame)
  })

  const next = Effect.gen(function*() {
    let frame = rest.length === 0 ? Option.none<Frame.Frame>() : yield* push(rest)
    while (Option.isNone(frame)) {
      const chunk = yield* connection.read()
      if (Option.isNone(chunk)) return Option.none<Frame.Frame>()
      frame = yield* push(chunk.value)
    }
    return frame
  })

  return { next, rest: () => rest }
}
