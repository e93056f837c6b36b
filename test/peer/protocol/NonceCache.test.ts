import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import * as NonceCache from "../../../src/peer/protocol/NonceCache.ts"

const windowSeconds = 300
const make = (limit = 1000) => NonceCache.make({ windowSeconds, limit })
const now = 1_800_000_000

describe("NonceCache", () => {
  it("knows a nonce again, and no other", () => {
    const cache = make()
    assert.strictEqual(cache.remember("a", now, now), "fresh")
    assert.strictEqual(cache.remember("a", now, now), "seen")
    assert.strictEqual(cache.remember("b", now, now), "fresh")
  })

  it("knows a nonce again under another timestamp", () => {
    const cache = make()
    cache.remember("a", now - 250, now)
    assert.strictEqual(cache.remember("a", now + 250, now), "seen")
  })

  it("remembers a request from the future until its timestamp is too old", () => {
    const cache = make()
    const timestamp = now + windowSeconds
    cache.remember("a", timestamp, now)
    for (let later = now; later <= timestamp + windowSeconds; later += 50) {
      assert.strictEqual(cache.remember("a", timestamp, later), "seen", `after ${later - now} s`)
    }
  })

  it("forgets nonces, and their memory, once their timestamps can't be accepted", () => {
    const cache = make(10)
    for (let index = 0; index < 10; index++) cache.remember(`${index}`, now, now)
    assert.strictEqual(cache.size(), 10)
    assert.isAbove(cache.bytes(), 0)
    assert.strictEqual(cache.remember("later", now + 1000, now + 1000), "fresh")
    assert.strictEqual(cache.size(), 1)
  })

  it("refuses what is new when it is full, and still knows what is not", () => {
    const cache = make(2)
    cache.remember("a", now, now)
    cache.remember("b", now, now)
    assert.strictEqual(cache.remember("c", now, now), "full")
    assert.strictEqual(cache.remember("c", now, now), "full")
    assert.strictEqual(cache.remember("a", now, now), "seen")
  })

  it("lets no replay pass when the clock is set back after its nonces were dropped", () => {
    const cache = make()
    cache.remember("a", now, now)
    cache.remember("b", now + 1000, now + 1000)
    assert.strictEqual(cache.remember("a", now, now), "seen")
  })

  it("holds many nonces exactly, at about 20 bytes each", () => {
    const cache = make(1_000_000)
    const count = 300_000
    for (let index = 0; index < count; index++) {
      if (cache.remember(`n${index}`, now - (index % 300), now) !== "fresh") assert.fail(`n${index} is not fresh`)
    }
    for (let index = 0; index < count; index++) {
      if (cache.remember(`n${index}`, now, now) !== "seen") assert.fail(`n${index} was forgotten`)
    }
    assert.strictEqual(cache.size(), count)
    assert.isBelow(cache.bytes() / count, 24)
  })

  const Step = Schema.Struct({
    nonce: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5 })),
    skew: Schema.Int.check(Schema.isBetween({ minimum: -300, maximum: 300 })),
    wait: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 200 }))
  })
  it.prop("never calls a nonce fresh twice while its timestamp could be accepted", [Schema.Array(Step)], ([steps]) => {
    const cache = make()
    const until = new Map<string, number>()
    let time = now
    for (const { nonce, skew, wait } of steps) {
      time += wait
      const name = `n${nonce}`
      const answer = cache.remember(name, time + skew, time)
      if ((until.get(name) ?? 0) >= time) assert.strictEqual(answer, "seen")
      if (answer === "fresh") until.set(name, time + skew + windowSeconds)
    }
  })
})
