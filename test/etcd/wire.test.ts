import { assert, describe, it } from "@effect/vitest"
import * as Messages from "../../src/etcd/messages.ts"
import { data, flag, integer, Malformed, message, nested, Reader } from "../../src/etcd/wire.ts"

const read = (bytes: Uint8Array) => {
  const reader = new Reader(bytes)
  return { field: reader.next(), reader }
}

describe("etcd's wire format", () => {
  it("carries integers up to the last exact one, and identities of all 64 bits", () => {
    for (const value of [1, 127, 128, 2 ** 21, 2 ** 28 - 1, 2 ** 28, 2 ** 31, 2 ** 32, Number.MAX_SAFE_INTEGER]) {
      const { field, reader } = read(integer(3, value))
      assert.strictEqual(field, 3)
      assert.strictEqual(reader.integer(), value)
      assert.strictEqual(reader.next(), 0)
    }
    for (const value of [1n, 2n ** 63n, 2n ** 64n - 1n]) {
      assert.strictEqual(read(integer(1, value)).reader.identity(), value)
    }
  })

  it("refuses an integer that it could not hold exactly, instead of rounding it", () => {
    assert.throws(() => read(integer(1, 2n ** 53n)).reader.integer(), Malformed)
  })

  it("reads a negative number, as 64-bit counts may be", () => {
    assert.strictEqual(read(integer(1, -1)).reader.integer(), -1)
  })

  it("leaves out what is the default, but never a nested message", () => {
    assert.strictEqual(message(integer(1, 0), flag(2, false), data(3, "")).length, 0)
    assert.strictEqual(nested(1, message()).length, 2)
  })

  it("passes over fields that it doesn't know, of every kind", () => {
    const bytes = message(
      integer(90, 5),
      Uint8Array.from([(91 << 3 | 1) & 0x7f | 0x80, 91 >> 4, 1, 2, 3, 4, 5, 6, 7, 8]),
      data(92, "text"),
      Uint8Array.from([(93 << 3 | 5) & 0x7f | 0x80, 93 >> 4, 1, 2, 3, 4]),
      integer(4, 42)
    )
    assert.strictEqual(Messages.readRange(bytes).count, 42)
  })

  it("says that a message is malformed, wherever it is cut or bent", () => {
    const whole = message(
      nested(1, message(integer(1, 2n ** 64n - 1n), integer(3, 300))),
      nested(2, message(data(1, "key"), data(5, "value"))),
      integer(4, 1)
    )
    assert.strictEqual(Messages.readRange(whole).kvs[0]?.value.toString(), "value")
    for (let length = 1; length < whole.length; length++) {
      try {
        Messages.readRange(whole.subarray(0, length))
      } catch (cause) {
        assert.instanceOf(cause, Malformed)
      }
    }
    for (const bent of [[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], [0x07], [0x00, 1], [0x20, ...Array(10).fill(0xff), 1]]) {
      assert.throws(() => Messages.readRange(Uint8Array.from(bent)), Malformed)
    }
  })
})
