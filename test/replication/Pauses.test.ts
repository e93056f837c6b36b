import { assert, describe, it } from "@effect/vitest"
import { Effect, Option } from "effect"
import { TestClock } from "effect/testing"
import * as InventoryMemory from "../../src/inventory/InventoryMemory.ts"
import { Inventory, InventoryError } from "../../src/ports/Inventory.ts"
import { Puller } from "../../src/replication/Puller.ts"
import { Readiness } from "../../src/replication/Readiness.ts"
import { clusterLayer, Dials, fileOf, makeGate, nodeLayer, onNode, receiptsOf, textUnder } from "./node.ts"

const asked = Effect.map(Dials, ({ all }) => all.map(({ path }) => path))

describe("an operator's pause", () => {
  it.effect("lets no new pull begin, loses nothing, counts no failure, and everything arrives when it ends", () =>
    Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      yield* puller.pause("operator")
      const names = Array.from({ length: 9 }, (_, n) => `db/${n}`)
      for (const name of names) yield* puller.enqueue(fileOf(name))
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* asked, [])
      const { failed, inFlight } = yield* puller.stats
      assert.deepStrictEqual({ failed, inFlight }, { failed: 0, inFlight: 0 })
      assert.deepStrictEqual(yield* puller.paused, ["operator"])
      yield* puller.resume("operator")
      for (const _ of names) assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.deepStrictEqual(yield* puller.paused, [])
      assert.strictEqual((yield* (yield* Inventory).progress).owed.files, 0)
    }).pipe(onNode({})))

  it.effect("lets a pull in flight end", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const receipts = yield* receiptsOf
        yield* puller.enqueue(fileOf("db/a"))
        yield* (yield* Dials).next
        yield* puller.pause("operator")
        yield* puller.enqueue(fileOf("db/b"))
        yield* gate.open
        assert.strictEqual((yield* receipts)._tag, "Pulled")
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* asked, ["db/a"])
        assert.deepStrictEqual(yield* textUnder("db/b"), Option.none())
      }).pipe(onNode({ script: gate.script }))
    }))

  it.effect("outlives the process, and so does its end", () =>
    Effect.gen(function*() {
      const inventory = yield* Inventory
      const life = <A, E>(body: Effect.Effect<A, E, Puller>) => Effect.provide(body, nodeLayer({ inventory }))
      yield* life(Effect.flatMap(Puller, ({ pause }) => pause("operator")))
      yield* life(Effect.gen(function*() {
        const puller = yield* Puller
        assert.deepStrictEqual(yield* puller.paused, ["operator"])
        yield* puller.resume("operator")
      }))
      assert.deepStrictEqual(yield* life(Effect.flatMap(Puller, ({ paused }) => paused)), [])
    }).pipe(Effect.provide(InventoryMemory.layer)))

  it.effect("is said by the status while something is owed, and beside it while nothing is", () =>
    Effect.gen(function*() {
      const puller = yield* Puller
      const readiness = yield* Readiness
      yield* puller.pause("operator")
      yield* TestClock.adjust("10 seconds")
      const before = yield* readiness.status
      assert.deepStrictEqual([before.ready, before.paused], [true, ["operator"]])
      yield* puller.enqueue(fileOf("db/a"))
      const { ready, reason } = yield* readiness.status
      assert.isFalse(ready)
      assert.include(reason, "pulling pauses: an operator has said so")
    }).pipe(Effect.provide(clusterLayer())))
})

describe("an inventory that can't be written", () => {
  it.effect("holds pulls, makes the node not ready, and lets them go on by itself once it can", () =>
    Effect.gen(function*() {
      const inventory = yield* Inventory
      let full = false
      const refusal = new InventoryError({ operation: "write", detail: "the disk is full" })
      const orFull = <A>(effect: Effect.Effect<A, InventoryError>) =>
        Effect.suspend((): Effect.Effect<A, InventoryError> => full ? Effect.fail(refusal) : effect)
      const failing = Inventory.of({
        ...inventory,
        settle: (file, held) => orFull(inventory.settle(file, held)),
        postpone: (...args) => orFull(inventory.postpone(...args)),
        remember: (name, text) => orFull(inventory.remember(name, text))
      })
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const receipts = yield* receiptsOf
        full = true
        for (const name of ["a", "b", "c", "d"]) yield* puller.enqueue(fileOf(`db/${name}`))
        yield* (yield* Dials).next
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* puller.paused, ["inventory"])
        const tried = (yield* asked).length
        assert.isAtMost(tried, 2)
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual((yield* asked).length, tried)
        assert.strictEqual((yield* puller.stats).failed, 0)
        full = false
        yield* TestClock.adjust("5 seconds")
        const ended: Array<string> = []
        for (let n = 0; n < 4; n++) ended.push((yield* receipts)._tag)
        // What had arrived already is taken by its hash, without a fetch.
        assert.sameMembers(ended.filter((tag) => tag !== "Skipped"), Array.from({ length: 4 - tried }, () => "Pulled"))
        assert.deepStrictEqual(yield* puller.paused, [])
        assert.strictEqual((yield* inventory.progress).owed.files, 0)
      }).pipe(Effect.provide(nodeLayer({ inventory: failing })))
    }).pipe(Effect.provide(InventoryMemory.layer)))
})
