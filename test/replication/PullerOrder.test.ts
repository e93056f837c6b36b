/** What is pulled first, and what never waits for what. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, type Layer } from "effect"
import { TestClock } from "effect/testing"
import type { Registered } from "../../src/ports/FileEntry.ts"
import { giantBytes } from "../../src/ports/giant.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Puller } from "../../src/replication/Puller.ts"
import { Dials, fileOf, honest, nodeLayer, type NodeOptions, receiptsOf, type Script, unreachable } from "./node.ts"

const giantOf = (path: string, revision: number): Registered => {
  const file = fileOf(path, revision)
  return { ...file, entry: { ...file.entry, size_bytes: giantBytes } }
}

/** What an earlier life has left owed. */
const owing = (files: ReadonlyArray<Registered>) =>
  Effect.flatMap(
    Inventory,
    (inventory) => inventory.apply(files.map((file) => ({ _tag: "Owe", file, reason: "", due: 0 })))
  )

const dialled = Effect.map(Dials, ({ all }) => all.map(({ path }) => path))

const on = (options: NodeOptions) => <A, E>(test: Effect.Effect<A, E, Layer.Success<ReturnType<typeof nodeLayer>>>) =>
  Effect.provide(test, nodeLayer(options))

describe("what is owed", () => {
  it.effect("is pulled newest first, beyond what the queue holds", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      for (let n = 0; n < 12; n++) yield* receipts
      const order = (yield* dialled).map((path) => Number(path.slice(3)))
      // A refill comes when half the queue is free, so that each is at most that far from its place.
      for (const [place, n] of order.entries()) assert.isAtMost(Math.abs(12 - n - place), 2, order.join(" "))
    }).pipe(
      Effect.scoped,
      on({
        workers: 1,
        queueSize: 4,
        before: owing(Array.from({ length: 12 }, (_, n) => fileOf(`db/${n + 1}`, n + 1)))
      })
    ))

  it.effect("waits for what has just been registered, however much of it there is", () => {
    // The first is in the air when the newer ones come.
    let first = true
    const script: Script = (peer, entry, offset, sink) => {
      const wait = first ? Effect.sleep("1 second") : Effect.void
      first = false
      return Effect.andThen(wait, honest(peer, entry, offset, sink))
    }
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Dials).next
      const live = [fileOf("live/1", 101), fileOf("live/2", 102)]
      yield* owing(live)
      yield* (yield* Puller).offer(live.map((file) => ({ file })))
      yield* TestClock.adjust("1 second")
      for (let n = 0; n < 42; n++) yield* receipts
      assert.deepStrictEqual((yield* dialled).slice(1, 3), ["live/2", "live/1"])
    }).pipe(
      Effect.scoped,
      on({
        workers: 1,
        queueSize: 8,
        script,
        before: owing(Array.from({ length: 40 }, (_, n) => fileOf(`db/${n}`, n + 1)))
      })
    )
  })

  it.effect("and small never waits behind giants, however many there are and however new they are", () => {
    const script: Script = (peer, entry, offset, sink) =>
      entry.size_bytes >= giantBytes ? Effect.never : honest(peer, entry, offset, sink)
    return Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      for (let n = 0; n < 2; n++) yield* (yield* Dials).next
      const small = Array.from({ length: 20 }, (_, n) => fileOf(`small/${n}`, n + 1))
      yield* owing(small)
      yield* puller.offer(small.map((file) => ({ file })))
      for (let n = 0; n < 20; n++) assert.strictEqual((yield* receipts)._tag, "Pulled")
      const { inFlight, pulled, queuedSmall } = yield* puller.stats
      assert.deepStrictEqual({ inFlight, pulled, queuedSmall }, { inFlight: 2, pulled: 20, queuedSmall: 0 })
    }).pipe(
      Effect.scoped,
      on({
        workers: 3,
        queueSize: 8,
        script,
        before: owing(Array.from({ length: 40 }, (_, n) => giantOf(`giant/${n}`, 1000 + n)))
      })
    )
  })
})

describe("a file that takes long to fail", () => {
  const slowToFail: Script = (peer, entry, offset, sink) =>
    entry.path.startsWith("bad/")
      ? Effect.andThen(Effect.sleep("1 minute"), unreachable(peer, entry, offset, sink))
      : honest(peer, entry, offset, sink)

  it.effect("gives its worker up behind the first attempt when others wait", () =>
    Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      yield* (yield* Dials).next
      const good = [fileOf("good/1", 1), fileOf("good/2", 2)]
      yield* owing(good)
      yield* puller.offer(good.map((file) => ({ file })))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* receipts)._tag, "Postponed")
      for (const _ of good) assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.strictEqual((yield* puller.stats).attempts, 3)
    }).pipe(Effect.scoped, on({ workers: 1, script: slowToFail, before: owing([fileOf("bad/1", 9)]) })))

  it.effect("keeps it for its round when nobody does", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      for (let n = 0; n < 3; n++) {
        yield* (yield* Dials).next
        yield* TestClock.adjust("1 minute")
        yield* TestClock.adjust("300 millis")
      }
      assert.strictEqual((yield* receipts)._tag, "Postponed")
      assert.strictEqual((yield* (yield* Puller).stats).attempts, 3)
    }).pipe(Effect.scoped, on({ workers: 1, script: slowToFail, before: owing([fileOf("bad/1", 9)]) })))

  it.effect("and has failed before never holds the last worker", () =>
    Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      yield* (yield* Dials).next
      yield* puller.enqueue(fileOf("good/1", 1))
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.strictEqual((yield* puller.stats).inFlight, 1)
    }).pipe(
      Effect.scoped,
      on({
        workers: 2,
        script: slowToFail,
        before: Effect.gen(function*() {
          const inventory = yield* Inventory
          const files = Array.from({ length: 8 }, (_, n) => fileOf(`bad/${n}`, n + 1))
          yield* owing(files)
          yield* Effect.forEach(files, (file) => inventory.postpone(file, 0, "", []))
        })
      })
    ))
})
