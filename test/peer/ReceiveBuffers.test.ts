import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import * as ReceiveBuffers from "../../src/peer/transport/ReceiveBuffers.ts"

/** A system that fills `room` by so many KiB, or (0) a reader that takes what there is. */
const Step = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1200 }))

describe("ReceiveBuffers", () => {
  it("pauses before it takes more than 4 MiB, and goes on when a part of it was read", () => {
    let resumed = 0
    const pool = ReceiveBuffers.makePool(8)
    let taken = 0
    const counting = {
      ...pool,
      take: () => {
        taken++
        return pool.take()
      }
    }
    const buffers = ReceiveBuffers.make(counting, () => {
      resumed++
    })
    let received = 0
    let more = true
    while (more) {
      const length = buffers.room().length
      buffers.filled(length)
      received += length
      more = buffers.advance()
      if (received > 8 << 20) assert.fail("it never pauses")
    }
    assert.strictEqual(taken, 4)
    buffers.take()
    assert.strictEqual(resumed, 0, "what is lent is not free")
    buffers.take()
    assert.strictEqual(resumed, 1)
    buffers.dispose()
  })

  it.prop("gives every byte once, in order, overwrites none that is lent, and never stops for good", [
    Schema.Array(Step)
  ], ([steps]) => {
    let paused = false
    const buffers = ReceiveBuffers.make(ReceiveBuffers.makePool(0), () => {
      paused = false
    })
    // The system asks for memory behind each piece, and fills it only later.
    let room = buffers.room()
    let written = 0
    let read = 0
    let lent: { readonly bytes: Uint8Array; readonly copy: Buffer } | undefined

    const fill = (length: number) => {
      for (let index = 0; index < length; index++) room[index] = (written + index) % 251
      written += length
      buffers.filled(length)
      paused = !buffers.advance()
      room = buffers.room()
      assert.isAbove(room.length, 0)
    }
    const take = () => {
      if (lent !== undefined) assert.isTrue(lent.copy.equals(lent.bytes), "lent bytes were overwritten")
      const bytes = buffers.take()
      if (bytes === undefined) assert.isFalse(paused, "nothing to read, and paused")
      lent = bytes === undefined ? undefined : { bytes, copy: Buffer.from(bytes) }
      for (const byte of bytes ?? []) {
        if (byte !== read++ % 251) assert.fail(`byte ${read - 1} is another`)
      }
      return bytes !== undefined
    }
    for (const step of steps) {
      if (step === 0) take()
      else if (!paused) fill(Math.min(step * 1024, room.length))
    }
    while (take());
    assert.strictEqual(read, written)
  }, { arbitrary: { runs: 60 } })
})
