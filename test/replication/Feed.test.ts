/** What waits for a worker, and what the feed knows of it. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { Backend } from "../../src/ports/Backend.ts"
import type { Registered } from "../../src/ports/FileEntry.ts"
import { giantBytes } from "../../src/ports/giant.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { NoRoom } from "../../src/replication/attempt.ts"
import { Background } from "../../src/replication/Background.ts"
import * as Feed from "../../src/replication/Feed.ts"
import * as Pauses from "../../src/replication/Pauses.ts"
import { Puller } from "../../src/replication/Puller.ts"
import { Dials, fileOf, hold, nodeLayer, onNode, receiptsOf } from "./node.ts"

const dialled = Effect.map(Dials, ({ all }) => all.map(({ path }) => path))

const owe = (files: ReadonlyArray<Registered>, due = 0) =>
  Effect.flatMap(
    Inventory,
    (inventory) => inventory.apply(files.map((file) => ({ _tag: "Owe", file, reason: "", due })))
  )

const forget = (path: string) =>
  Effect.flatMap(Inventory, (inventory) => {
    const { entry, revision } = fileOf(path, 2)
    return inventory.apply([{ _tag: "Forget", path: entry.path, revision, due: 0 }])
  })

/** A feed without workers. */
const startFeed = Effect.fnUntraced(function*(queueSize: number) {
  const pauses = yield* Pauses.make(yield* Inventory, yield* Background)
  return yield* Feed.start(queueSize, pauses)
})

/** A node whose feed has read the first page of what is due, and goes on with it when it is told to. */
const onSlowPage = <A, E, R>(
  body: (page: { readonly read: Effect.Effect<void>; readonly give: Effect.Effect<void> }) => Effect.Effect<A, E, R>
) =>
  Effect.gen(function*() {
    const read = yield* Deferred.make<void>()
    const given = yield* Deferred.make<void>()
    const slow = Layer.effect(
      Backend,
      Effect.map(Backend, (backend) =>
        Backend.of({
          ...backend,
          absent: (paths) =>
            Effect.tap(
              backend.absent(paths),
              () => Effect.andThen(Deferred.succeed(read, undefined), Deferred.await(given))
            )
        }))
    )
    const page = { read: Deferred.await(read), give: Effect.asVoid(Deferred.succeed(given, undefined)) }
    return yield* Effect.provide(body(page), nodeLayer({ backend: slow, before: owe([fileOf("db/a")]) }))
  })

describe("the feed", () => {
  it.effect("rests while the queue is full, also behind the time at which something more is due", () =>
    Effect.gen(function*() {
      const giant = fileOf("db/giant")
      const [small, failed, later] = [fileOf("db/small"), fileOf("db/failed"), fileOf("db/later")]
      yield* owe([small, { ...giant, entry: { ...giant.entry, size_bytes: giantBytes } }, failed])
      yield* (yield* Inventory).postpone(failed, 0, "", [])
      yield* owe([later], 10_000)
      const clock = yield* Clock.Clock
      let looks = 0
      const counting = {
        ...clock,
        currentTimeMillis: Effect.suspend(() => {
          looks++
          return clock.currentTimeMillis
        })
      }
      const feed = yield* Effect.provideService(startFeed(1), Clock.Clock, counting)
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual(feed.stats().waiting, 3)
      // One that was in hand comes back, and is due while there is no room for it.
      const back = yield* feed.take(true)
      feed.postponed(back.file.entry.path, 9500)
      yield* owe([fileOf("db/new", 9)])
      yield* feed.enqueue(fileOf("db/new", 9))
      yield* feed.giveBack(back)
      const before = looks
      yield* TestClock.adjust("2 seconds")
      for (let n = 0; n < 1000; n++) yield* Effect.yieldNow
      assert.isAtMost(looks - before, 3)
      yield* feed.giveBack(yield* feed.take(true))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(feed.stats().enqueued, 5)
    }).pipe(Effect.scoped, Effect.provide(nodeLayer({ workers: 0 }))))

  for (const looksBetween of [false, true]) {
    const title = looksBetween ? ", also when it looked in between" : ""
    it.effect(`finds what became due before it was given back${title}`, () =>
      Effect.gen(function*() {
        const file = fileOf("db/a")
        yield* owe([file])
        const feed = yield* startFeed(4)
        yield* TestClock.adjust("1 second")
        const place = yield* feed.take(true)
        yield* (yield* Inventory).postpone(file, 1010, "", [])
        feed.postponed(file.entry.path, 1010)
        // Whoever has it is slow to give it back.
        yield* TestClock.adjust("20 millis")
        if (looksBetween) {
          feed.lookNow()
          yield* TestClock.adjust("1 millis")
        }
        yield* feed.giveBack(place)
        yield* TestClock.adjust("1 second")
        assert.strictEqual(feed.stats().enqueued, 2)
      }).pipe(Effect.scoped, Effect.provide(nodeLayer({ workers: 0 }))))
  }

  it.effect("does not take a file up by what it read of it before it arrived", () =>
    onSlowPage((page) =>
      Effect.gen(function*() {
        const receipts = yield* receiptsOf
        yield* page.read
        yield* (yield* Puller).enqueue(fileOf("db/a"))
        assert.strictEqual((yield* receipts)._tag, "Pulled")
        yield* page.give
        assert.strictEqual((yield* receipts)._tag, "Skipped")
        assert.deepStrictEqual(yield* dialled, ["db/a"])
      })
    ))

  it.effect("does not take a file up by what it read of it before it was deleted", () =>
    onSlowPage((page) =>
      Effect.gen(function*() {
        const receipts = yield* receiptsOf
        yield* page.read
        yield* forget("db/a")
        yield* (yield* Puller).withdraw(fileOf("db/a").entry.path)
        yield* page.give
        assert.strictEqual((yield* receipts)._tag, "Withdrawn")
        assert.deepStrictEqual(yield* dialled, [])
      })
    ))
})

describe("a file in the queue", () => {
  it.effect("that is offered again is looked up again before it is pulled", () =>
    Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      yield* puller.pause("operator")
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* puller.stats).queueDepth, 1)
      yield* hold(fileOf("db/a"))
      yield* puller.offer([{ file: fileOf("db/a") }])
      yield* puller.resume("operator")
      assert.strictEqual((yield* receipts)._tag, "Skipped")
      assert.deepStrictEqual(yield* dialled, [])
    }).pipe(onNode({ before: owe([fileOf("db/a")]) })))
})

describe("a place", () => {
  it.effect("is not freed by whoever had the file that was replaced", () =>
    Effect.gen(function*() {
      const feed = yield* startFeed(4)
      yield* feed.enqueue(fileOf("db/a"))
      const place = yield* feed.take(true)
      yield* feed.park(place, new NoRoom({ bytes: 1, reason: "full" }))
      assert.strictEqual(yield* feed.enqueue(fileOf("db/a", 2)), "Enqueued")
      yield* feed.giveBack(place)
      assert.strictEqual(yield* feed.enqueue(fileOf("db/a", 2)), "SkippedDuplicate")
      yield* feed.giveBack(yield* feed.take(true))
      assert.deepStrictEqual([feed.stats().waiting, feed.stats().places], [0, 0])
    }).pipe(Effect.scoped, Effect.provide(nodeLayer({ workers: 0 }))))
})
