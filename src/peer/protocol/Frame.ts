/**
 * Frames: `[u32 big-endian length][u8 type][payload]`, where `length` counts the type and the payload.
 *
 * Only the exchange of headers is framed. What follows a frame may be a file's raw bytes, so the decoder takes exactly
 * one frame and gives the rest back untouched.
 */
import { Option, Result, Schema } from "effect"

/** The type byte of each message. */
export const messageType = {
  heartbeat: 0x04,
  heartbeatAck: 0x05,
  leaveNotify: 0x06,
  fetchFile: 0x20,
  fetchFileAck: 0x21,
  // Ours. Far from what others number, and sent only to those who have said that they take it.
  fetchBundle: 0x70,
  fetchBundleAck: 0x71
} as const

/** The most that `length` may say, in bytes. */
export const maxLength = 1 << 20

/** The most that `length` may say in a frame from somebody who has not shown the secret yet. */
export const maxUntrustedLength = 64 * 1024

const headBytes = 4

export interface Frame {
  readonly type: number
  readonly payload: Uint8Array
}

/** A frame announces more bytes than are taken. None of them was kept. */
export class FrameTooLong extends Schema.TaggedError<FrameTooLong>()("FrameTooLong", {
  length: Schema.Natural,
  limit: Schema.Natural
}) {
  override get message(): string {
    return `a frame of ${this.length} bytes is over the limit of ${this.limit}`
  }
}

/** A frame announces a length of 0, which has no room for its type. */
export class FrameEmpty extends Schema.TaggedError<FrameEmpty>()("FrameEmpty", {}) {
  override get message(): string {
    return "a frame has the length 0"
  }
}

export type FrameError = FrameTooLong | FrameEmpty

/** Writes one frame. */
export const encode = (type: number, payload: Uint8Array): Result.Result<Uint8Array, FrameTooLong> => {
  const length = 1 + payload.length
  if (length > maxLength) return Result.fail(new FrameTooLong({ length, limit: maxLength }))
  const bytes = Buffer.allocUnsafe(headBytes + length)
  bytes.writeUInt32BE(length, 0)
  bytes.writeUInt8(type, headBytes)
  bytes.set(payload, headBytes + 1)
  return Result.succeed(bytes)
}

/** A whole frame and the bytes of the last chunk that lie behind it. */
export interface Decoded {
  readonly frame: Frame
  /** A view of the chunk that was pushed. */
  readonly rest: Uint8Array
}

export interface Decoder {
  /**
   * Takes the next chunk of the byte stream, cut anywhere. `none`: the frame is not whole yet, and all of the chunk was
   * copied. After a frame the decoder is ready for the next one, which begins with `rest`. After a failure it must not
   * be used again.
   */
  readonly push: (chunk: Uint8Array) => Result.Result<Option.Option<Decoded>, FrameError>
}

/** A decoder for one byte stream, with the most that a frame's `length` may say. */
export const makeDecoder = (limit: number): Decoder => {
  const head = Buffer.alloc(headBytes)
  let headFilled = 0
  let body: Buffer | undefined
  let bodyFilled = 0

  const push: Decoder["push"] = (chunk) => {
    let at = 0
    if (body === undefined) {
      const taken = chunk.subarray(0, headBytes - headFilled)
      head.set(taken, headFilled)
      headFilled += taken.length
      at = taken.length
      if (headFilled < headBytes) return Result.succeed(Option.none())
      const length = head.readUInt32BE(0)
      if (length === 0) return Result.fail(new FrameEmpty())
      if (length > limit) return Result.fail(new FrameTooLong({ length, limit }))
      body = Buffer.allocUnsafe(length)
      bodyFilled = 0
    }
    const taken = chunk.subarray(at, at + body.length - bodyFilled)
    body.set(taken, bodyFilled)
    bodyFilled += taken.length
    if (bodyFilled < body.length) return Result.succeed(Option.none())
    const frame: Frame = { type: body.readUInt8(0), payload: body.subarray(1) }
    headFilled = 0
    body = undefined
    return Result.succeed(Option.some({ frame, rest: chunk.subarray(at + taken.length) }))
  }

  return { push }
}
