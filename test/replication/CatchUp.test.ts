import { assert, describe, it } from "@effect/vitest"
import { Effect, Option, Stream } from "effect"
import { TestClock } from "effect/testing"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory, type Progress } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { Puller } from "../../src/replication/Puller.ts"
import { Readiness } from "../../src/replication/Readiness.ts"
import { Registrar } from "../../src/replication/Registrar.ts"
import { clusterLayer, Dials, fileOf, makeGate, ManifestControl, receiptsOf, textUnder } from "./node.ts"

/** Waits until the inventory says so. */
const until = Effect.fnUntraced(function*(holds: (progress: Progress) => boolean) {
  const inventory = yield* Inventory
  yield* Stream.runDrain(Stream.takeUntil(inventory.changes, holds))
})
const untilHeld = (files: number) => until(({ owed, verified }) => verified.files === files && owed.files === 0)

const register = (...paths: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const manifest = yield* Manifest
    return yield* Effect.forEach(paths, (path) => manifest.register(fileOf(path).entry))
  })

describe("CatchUp", () => {
  it.effect("pulls what is registered while it runs", () =>
    Effect.gen(function*() {
      yield* register("db/a", "db/b")
      yield* untilHeld(2)
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("db/a"))
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("skips what is ours and here, and counts it as our own", () =>
    Effect.gen(function*() {
      const { entry } = yield* (yield* Registrar).publish({ path: "db/a" }, new TextEncoder().encode("x"))
      const receipts = yield* receiptsOf
      yield* register("db/b")
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      const { pulled, skippedSelf } = yield* (yield* Puller).stats
      assert.deepStrictEqual({ pulled, skippedSelf }, { pulled: 1, skippedSelf: 1 })
      assert.deepStrictEqual((yield* Dials).all.map(({ path }) => path), ["db/b"])
      assert.strictEqual(entry.path, "db/a")
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("unlinks what is removed, once the grace period is over", () =>
    Effect.gen(function*() {
      yield* register("db/a")
      yield* untilHeld(1)
      yield* (yield* Manifest).remove(FilePath.make("db/a"), "retention")
      yield* until(({ unlinking }) => unlinking === 1)
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("db/a"))
      yield* TestClock.adjust("500 millis")
      yield* until(({ unlinking, verified }) => unlinking === 0 && verified.files === 0)
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.none())
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("stops a pull in flight whose file is removed, and is ready without it", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        yield* register("db/a")
        yield* (yield* Dials).next
        yield* (yield* Manifest).remove(FilePath.make("db/a"), "retention")
        assert.strictEqual(yield* gate.interrupted, "db/a")
        yield* TestClock.adjust("1 second")
        yield* until(({ owed, unlinking }) => owed.files + unlinking === 0)
        assert.isTrue(yield* (yield* Readiness).ready)
      }).pipe(Effect.provide(clusterLayer({ script: gate.script })))
    }))

  it.effect("asks nobody for what is registered and removed in one batch of events", () =>
    Effect.gen(function*() {
      const manifest = yield* Manifest
      const control = yield* ManifestControl
      yield* register("db/a")
      yield* untilHeld(1)
      // Whoever follows waits for a second before it asks again, and finds all that came meanwhile.
      yield* control.setUnavailable(Option.some("away"))
      yield* control.setUnavailable(Option.none())
      yield* register("db/b")
      yield* manifest.remove(FilePath.make("db/b"), "retention")
      yield* register("db/c")
      yield* TestClock.adjust("1 second")
      yield* until(({ verified }) => verified.files === 2)
      assert.deepStrictEqual((yield* Dials).all.map(({ path }) => path), ["db/a", "db/c"])
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("walks the manifest again after compaction, and unlinks what was removed meanwhile", () =>
    Effect.gen(function*() {
      const manifest = yield* Manifest
      const control = yield* ManifestControl
      yield* register("db/a", "db/b")
      yield* untilHeld(2)
      yield* control.setUnavailable(Option.some("away"))
      yield* TestClock.adjust("1 second")
      yield* control.setUnavailable(Option.none())
      yield* manifest.remove(FilePath.make("db/a"), "retention")
      yield* register("db/c")
      yield* control.compact
      yield* TestClock.adjust("10 seconds")
      yield* until(({ unlinking, verified }) => verified.files === 2 && unlinking === 0)
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.none())
      assert.deepStrictEqual(yield* textUnder("db/c"), Option.some("db/c"))
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("never unlinks what a manifest with another history does not know", () =>
    Effect.gen(function*() {
      const control = yield* ManifestControl
      const [first] = yield* register("db/a")
      yield* register("db/b")
      yield* untilHeld(2)
      yield* control.setUnavailable(Option.some("away"))
      yield* TestClock.adjust("1 second")
      // A backup from before db/b is put back.
      yield* control.restore(first?.revision ?? fileOf("db/a").revision)
      yield* control.setUnavailable(Option.none())
      yield* control.changeEpoch
      yield* TestClock.adjust("10 seconds")
      yield* register("db/c")
      yield* untilHeld(3)
      assert.deepStrictEqual(yield* textUnder("db/b"), Option.some("db/b"))
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("goes on after the manifest was away, and misses nothing", () =>
    Effect.gen(function*() {
      const control = yield* ManifestControl
      yield* register("db/a")
      yield* untilHeld(1)
      yield* control.setUnavailable(Option.some("away"))
      yield* TestClock.adjust("10 seconds")
      yield* control.setUnavailable(Option.none())
      yield* register("db/b")
      yield* TestClock.adjust("10 seconds")
      yield* untilHeld(2)
    }).pipe(Effect.provide(clusterLayer())))
})
