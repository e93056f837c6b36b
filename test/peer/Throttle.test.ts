/** The limits of bytes per second: kept, shared, changed, and in which order. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Ref } from "effect"
import { TestClock } from "effect/testing"
import * as RateLimits from "../../src/peer/RateLimits.ts"
import * as Throttle from "../../src/peer/Throttle.ts"
import { allBytes, entryOf } from "./support/doubles.ts"
import { collector, makeClient, startServer } from "./support/nodes.ts"

const KiB = 1024
const MiB = 1024 * KiB

/** Bytes that `workers` move in so many seconds, each taking pieces of the size that `piece` says. */
const moved = Effect.fnUntraced(function*(
  throttle: Throttle.Throttle,
  workers: number,
  piece: number,
  seconds: number,
  lane: Throttle.Lane = "live"
) {
  const bytes = yield* Ref.make(0)
  const worker = throttle.take(piece, lane).pipe(
    Effect.andThen(Ref.update(bytes, (sum) => sum + piece)),
    Effect.forever
  )
  const fibers = yield* Effect.forEach(Array.from({ length: workers }), () => Effect.forkChild(worker))
  for (let tick = 0; tick < seconds * 100; tick++) yield* TestClock.adjust("10 millis")
  yield* Fiber.interruptAll(fibers)
  return yield* Ref.get(bytes)
})

const within = (actual: number, expected: number) => {
  assert.isAtLeast(actual, expected * 0.95)
  assert.isAtMost(actual, expected * 1.05)
}

describe("Throttle", () => {
  for (const rate of [64 * KiB, MiB, 100 * MiB]) {
    for (const piece of [KiB, 16 * KiB, 64 * KiB]) {
      // Too many turns of the loop for a test, and nothing that the others don't show.
      if (rate / piece > 20_000) continue
      it.effect(`keeps ${rate / KiB} KiB/s within a twentieth in pieces of ${piece / KiB} KiB`, () =>
        Effect.gen(function*() {
          const throttle = yield* Throttle.make(rate)
          const seconds = Math.max(3, (20 * piece) / rate)
          within(yield* moved(throttle, 8, piece, seconds), rate * seconds)
        }))
    }
  }

  it.effect("saves up no more than a tenth of a second, however long nothing moves", () =>
    Effect.gen(function*() {
      const throttle = yield* Throttle.make(MiB)
      yield* TestClock.adjust("1 hour")
      assert.isAtMost(yield* moved(throttle, 4, 16 * KiB, 2), 2.1 * MiB + 4 * 16 * KiB)
    }))

  it.effect("is changed while others wait, up, down, off and on again", () =>
    Effect.gen(function*() {
      const throttle = yield* Throttle.make(64 * KiB)
      yield* Effect.forkChild(throttle.take(10 * MiB, "live"))
      yield* TestClock.adjust("1 second")
      const waiting = yield* Effect.forkChild(throttle.take(KiB, "live"))
      yield* TestClock.adjust("10 seconds")
      assert.isUndefined(waiting.pollUnsafe())
      yield* throttle.set(10 * MiB)
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(waiting)
      within(yield* moved(throttle, 4, 64 * KiB, 2), 20 * MiB)
      yield* throttle.set(MiB)
      within(yield* moved(throttle, 4, 64 * KiB, 4), 4 * MiB)
      const stuck = yield* Effect.forkChild(Effect.andThen(throttle.take(100 * MiB, "live"), throttle.take(1, "live")))
      yield* TestClock.adjust("1 second")
      yield* throttle.set(0)
      yield* Fiber.join(stuck)
      assert.strictEqual(throttle.bytesPerSecond(), 0)
      yield* throttle.set(MiB)
      within(yield* moved(throttle, 4, 16 * KiB, 4), 4 * MiB)
    }))

  it.effect("lets live pulls go before late ones, and starves neither", () =>
    Effect.gen(function*() {
      const throttle = yield* Throttle.make(MiB)
      const counts = { live: 0, late: 0 }
      const worker = (lane: Throttle.Lane) =>
        throttle.take(16 * KiB, lane).pipe(Effect.andThen(Effect.sync(() => counts[lane]++)), Effect.forever)
      const fibers = yield* Effect.forEach(
        ["late", "live", "late", "live", "late", "live"] as const,
        (lane) => Effect.forkChild(worker(lane))
      )
      for (let tick = 0; tick < 800; tick++) yield* TestClock.adjust("10 millis")
      yield* Fiber.interruptAll(fibers)
      assert.isAbove(counts.live, 5 * counts.late)
      assert.isAbove(counts.late, 20)
    }))

  it.effect("loses nothing to those that are interrupted while they wait", () =>
    Effect.gen(function*() {
      const throttle = yield* Throttle.make(MiB)
      const fibers = yield* Effect.forEach(
        Array.from({ length: 50 }),
        () => Effect.forkChild(throttle.take(MiB, "live"))
      )
      yield* TestClock.adjust("10 millis")
      yield* Fiber.interruptAll(fibers)
      // One of them may have gone before the interruption.
      yield* TestClock.adjust("2 seconds")
      within(yield* moved(throttle, 4, 16 * KiB, 5), 5 * MiB)
    }))
})

describe("the limits of a node", () => {
  const limited = (pullBytesPerSecond: number, serveBytesPerSecond: number) =>
    Effect.flatMap(
      Layer.build(RateLimits.layer({ pullBytesPerSecond, serveBytesPerSecond })),
      (context) => Effect.provide(RateLimits.RateLimits, context)
    )
  const file = entryOf("db/m/a.parquet", MiB)

  for (const side of ["pull", "serve"] as const) {
    it.live(`hold for all of its connections together: ${side}`, () =>
      Effect.gen(function*() {
        const rate = 4 * MiB
        const limits = yield* limited(side === "pull" ? rate : 0, side === "serve" ? rate : 0)
        const peer = yield* startServer({ files: [{ entry: file }] }, {}, [], limits)
        const client = yield* makeClient({}, limits)
        const before = performance.now()
        yield* Effect.forEach(Array.from({ length: 8 }), () => {
          const sink = collector()
          return Effect.tap(client.fetch(peer, file, 0, sink), () =>
            Effect.sync(() => assert.isTrue(sink.bytes().equals(allBytes(MiB)))))
        }, { concurrency: 4 })
        const seconds = (performance.now() - before) / 1000
        // 8 MiB; the last piece on each connection may move before it is paid.
        assert.isAbove(seconds, 1.6)
        yield* limits[side].set(0)
        yield* client.fetch(peer, file, 0, collector())
      }))
  }

  it.effect("put a file that was just written before one that is caught up on", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(Date.parse("2026-04-11T14:00:30Z"))
      assert.strictEqual(yield* RateLimits.laneOf(file), "live")
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(yield* RateLimits.laneOf(file), "late")
      assert.strictEqual(yield* RateLimits.laneOf({ ...file, created_at: "some day" }), "late")
    }))

  it.effect("put no file before others whose writer's clock is far ahead", () =>
    Effect.gen(function*() {
      const created = Date.parse(file.created_at)
      yield* TestClock.setTime(created - 59_000)
      assert.strictEqual(yield* RateLimits.laneOf(file), "live")
      yield* TestClock.setTime(created - 61_000)
      assert.strictEqual(yield* RateLimits.laneOf(file), "late")
      yield* TestClock.setTime(created - 7_200_000)
      assert.strictEqual(yield* RateLimits.laneOf(file), "late")
    }))
})
