import { assert, describe, it } from "@effect/vitest"
import { Effect, Option, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as InventoryMemory from "../../src/inventory/InventoryMemory.ts"
import { Backend } from "../../src/ports/Backend.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory, InventoryError } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { LocalCheck } from "../../src/replication/LocalCheck.ts"
import { Puller } from "../../src/replication/Puller.ts"
import { Readiness } from "../../src/replication/Readiness.ts"
import { clusterLayer, Dials, fileOf, makeGate, nodeLayer, onNode, receiptsOf, textUnder } from "./node.ts"

const untilReady = Effect.flatMap(
  Readiness,
  ({ changes }) => Stream.runDrain(Stream.takeUntil(changes, ({ ready }) => ready))
)

/** An inventory that can be read and, while `fill` says so, not be written, but for `apply`. */
const fillable = (inventory: Inventory["Service"]) => {
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
  return { failing, orFull, fill: (now: boolean) => Effect.sync(() => void (full = now)) }
}

/** A node whose inventory can be read and, while `fill` says so, not be written. */
const onFailing = <A, E, R>(
  body: (inventory: Inventory["Service"], fill: (full: boolean) => Effect.Effect<void>) => Effect.Effect<A, E, R>
) =>
  Effect.gen(function*() {
    const inventory = yield* Inventory
    const { failing, fill, orFull } = fillable(inventory)
    const unwritable = Inventory.of({
      ...failing,
      apply: (changes, cursor) => orFull(inventory.apply(changes, cursor))
    })
    return yield* Effect.provide(body(inventory, fill), clusterLayer({ inventory: unwritable }))
  }).pipe(Effect.provide(InventoryMemory.layer))

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
      const { failing, fill } = fillable(inventory)
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const receipts = yield* receiptsOf
        yield* fill(true)
        for (const name of ["a", "b", "c", "d"]) yield* puller.enqueue(fileOf(`db/${name}`))
        yield* (yield* Dials).next
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* puller.paused, ["inventory"])
        const tried = (yield* asked).length
        assert.isAtMost(tried, 2)
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual((yield* asked).length, tried)
        assert.strictEqual((yield* puller.stats).failed, 0)
        yield* fill(false)
        yield* TestClock.adjust("5 seconds")
        const ended: Array<string> = []
        for (let n = 0; n < 4; n++) ended.push((yield* receipts)._tag)
        // What had arrived already is taken by its hash, without a fetch.
        assert.sameMembers(ended.filter((tag) => tag !== "Skipped"), Array.from({ length: 4 - tried }, () => "Pulled"))
        assert.deepStrictEqual(yield* puller.paused, [])
        assert.strictEqual((yield* inventory.progress).owed.files, 0)
      }).pipe(Effect.provide(nodeLayer({ inventory: failing })))
    }).pipe(Effect.provide(InventoryMemory.layer)))

  it.effect("holds pulls for a moment when it refuses once, and is tried ever more seldom when it refuses for long", () =>
    Effect.gen(function*() {
      const inventory = yield* Inventory
      const { failing, fill } = fillable(inventory)
      let probes = 0
      const counting = Inventory.of({
        ...failing,
        remember: (name, text) =>
          Effect.suspend(() => {
            if (name === "probe") probes++
            return failing.remember(name, text)
          })
      })
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const receipts = yield* receiptsOf
        yield* fill(true)
        yield* puller.enqueue(fileOf("db/a"))
        yield* (yield* Dials).next
        yield* TestClock.adjust("100 millis")
        assert.deepStrictEqual(yield* puller.paused, ["inventory"])
        yield* fill(false)
        yield* TestClock.adjust("100 millis")
        assert.deepStrictEqual(yield* puller.paused, [])
        assert.strictEqual((yield* receipts)._tag, "Skipped")
        assert.strictEqual(probes, 1)
        yield* fill(true)
        yield* puller.enqueue(fileOf("db/b"))
        yield* (yield* Dials).next
        while ((yield* puller.paused).length === 0) yield* Effect.yieldNow
        yield* TestClock.adjust("10 minutes")
        assert.isAtMost(probes, 130)
        assert.isAtLeast(probes, 120)
      }).pipe(Effect.provide(nodeLayer({ inventory: counting })))
    }).pipe(Effect.provide(InventoryMemory.layer)))

  it.effect("that could not be read once is read again a moment later", () =>
    Effect.gen(function*() {
      const inventory = yield* Inventory
      yield* inventory.apply([{ _tag: "Owe", file: fileOf("db/a"), reason: "", due: 0 }])
      const refusal = new InventoryError({ operation: "read", detail: "its thread died" })
      let refused = 0
      const failing = Inventory.of({
        ...inventory,
        due: (...args) => Effect.suspend(() => refused++ === 0 ? Effect.fail(refusal) : inventory.due(...args))
      })
      yield* Effect.gen(function*() {
        yield* TestClock.adjust("100 millis")
        assert.deepStrictEqual(yield* (yield* Puller).paused, ["inventory"])
        yield* TestClock.adjust("100 millis")
        while (Option.isNone(yield* inventory.verified(FilePath.make("db/a")))) yield* Effect.yieldNow
      }).pipe(Effect.provide(nodeLayer({ inventory: failing })))
    }).pipe(Effect.provide(InventoryMemory.layer)))

  it.effect("holds pulls longer and longer when it takes what is tried and nothing else", () =>
    Effect.gen(function*() {
      const inventory = yield* Inventory
      const { failing, fill } = fillable(inventory)
      let refused = 0
      const refusing = Inventory.of({
        ...inventory,
        settle: (file, held) =>
          Effect.suspend(() => {
            refused++
            return failing.settle(file, held)
          })
      })
      yield* Effect.gen(function*() {
        yield* fill(true)
        yield* (yield* Puller).enqueue(fileOf("db/a"))
        yield* TestClock.adjust("10 minutes")
        assert.isAtMost(refused, 130)
        assert.isAtLeast(refused, 20)
      }).pipe(Effect.provide(nodeLayer({ inventory: refusing })))
    }).pipe(Effect.provide(InventoryMemory.layer)))

  it.effect("makes the node not ready when it can't record a loss, until it is recorded", () =>
    onFailing((inventory, fill) =>
      Effect.gen(function*() {
        const path = FilePath.make("db/a")
        yield* (yield* Manifest).register(fileOf("db/a").entry)
        yield* untilReady
        yield* fill(true)
        yield* (yield* Backend).remove(path)
        yield* Effect.flip((yield* LocalCheck).check)
        assert.isTrue(Option.exists(yield* inventory.why(path), ({ _tag }) => _tag === "Verified"))
        assert.isFalse(yield* (yield* Readiness).ready)
        yield* TestClock.adjust("1 minute")
        assert.isFalse(yield* (yield* Readiness).ready)
        yield* fill(false)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("db/a"))
        assert.isTrue(yield* (yield* Readiness).ready)
      })
    ))

  it.effect("makes the node not ready when it can't record what is new, until it is recorded", () =>
    onFailing((_inventory, fill) =>
      Effect.gen(function*() {
        yield* untilReady
        yield* fill(true)
        yield* (yield* Manifest).register(fileOf("db/a").entry)
        yield* TestClock.adjust("1 second")
        assert.include((yield* (yield* Readiness).status).reason, "the inventory can't be written")
        yield* TestClock.adjust("1 minute")
        assert.isFalse(yield* (yield* Readiness).ready)
        yield* fill(false)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("db/a"))
        assert.isTrue(yield* (yield* Readiness).ready)
      })
    ))
})
