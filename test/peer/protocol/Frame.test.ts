import { assert, describe, it } from "@effect/vitest"
import { Option, Result, Schema } from "effect"
import * as Frame from "../../../src/peer/protocol/Frame.ts"

const SmallFrame = Schema.Struct({
  type: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 })),
  payload: Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 })))
})
const Cuts = Schema.NonEmptyArray(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 9 })))

const encoded = (type: number, payload: Uint8Array) => Result.getOrThrow(Frame.encode(type, payload))

/** Pushes a stream cut into pieces of these lengths, over and over; gives the frames and how the decoder ended. */
const decodeAll = (bytes: Uint8Array, cuts: ReadonlyArray<number>) => {
  const decoder = Frame.makeDecoder(Frame.maxLength)
  const frames: Array<{ readonly type: number; readonly payload: ReadonlyArray<number> }> = []
  let cut = 0
  for (let at = 0; at < bytes.length;) {
    const length = cuts[cut++ % cuts.length] ?? 1
    let chunk = bytes.subarray(at, at + length)
    at += length
    while (chunk.length > 0) {
      const decoded = Result.getOrThrow(decoder.push(chunk))
      if (Option.isNone(decoded)) break
      const { frame, rest } = decoded.value
      frames.push({ type: frame.type, payload: [...frame.payload] })
      chunk = rest
    }
  }
  return frames
}

describe("Frame", () => {
  it.prop(
    "gives the same frames however the stream is cut",
    [Schema.Array(SmallFrame), Cuts],
    ([frames, cuts]) => {
      const bytes = Buffer.concat(frames.map(({ payload, type }) => encoded(type, Uint8Array.from(payload))))
      assert.deepStrictEqual(decodeAll(bytes, cuts), frames.map(({ payload, type }) => ({ type, payload })))
    }
  )

  it("gives the bytes behind a frame back untouched", () => {
    const bytes = Buffer.concat([encoded(0x21, Buffer.from("{}")), Buffer.from("body")])
    const decoded = Option.getOrThrow(Result.getOrThrow(Frame.makeDecoder(Frame.maxLength).push(bytes)))
    assert.strictEqual(Buffer.from(decoded.rest).toString(), "body")
    assert.strictEqual(decoded.rest.buffer, bytes.buffer)
  })

  it("keeps no view of a chunk whose memory is used again", () => {
    const decoder = Frame.makeDecoder(Frame.maxLength)
    const chunk = Buffer.from(encoded(0x20, Buffer.from("abcdef")))
    const first = Result.getOrThrow(decoder.push(chunk.subarray(0, 8)))
    assert.isTrue(Option.isNone(first))
    chunk.fill(0, 0, 8)
    const { frame } = Option.getOrThrow(Result.getOrThrow(decoder.push(chunk.subarray(8))))
    chunk.fill(0)
    assert.strictEqual(Buffer.from(frame.payload).toString(), "abcdef")
  })

  it("refuses a length of 0 as soon as it is read", () => {
    const failure = Result.getOrThrow(Result.flip(Frame.makeDecoder(Frame.maxLength).push(Buffer.from([0, 0, 0, 0]))))
    assert.strictEqual(failure._tag, "FrameEmpty")
  })

  it("refuses a length over the limit before any of it arrives, and takes the limit itself", () => {
    const head = (length: number) => {
      const bytes = Buffer.alloc(4)
      bytes.writeUInt32BE(length)
      return bytes
    }
    for (const limit of [Frame.maxLength, Frame.maxUntrustedLength]) {
      assert.isTrue(Result.isSuccess(Frame.makeDecoder(limit).push(head(limit))))
      const failure = Result.getOrThrow(Result.flip(Frame.makeDecoder(limit).push(head(limit + 1))))
      assert.deepStrictEqual(failure, new Frame.FrameTooLong({ length: limit + 1, limit }))
    }
  })

  it("writes no frame over the limit", () => {
    assert.isTrue(Result.isSuccess(Frame.encode(1, new Uint8Array(Frame.maxLength - 1))))
    assert.isTrue(Result.isFailure(Frame.encode(1, new Uint8Array(Frame.maxLength))))
  })
})
