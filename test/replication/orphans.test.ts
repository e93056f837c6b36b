/** How often a folder is compared while there are files that nobody knows. */
import { assert, it } from "@effect/vitest"
import { Effect, Layer, Option } from "effect"
import { TestClock } from "effect/testing"
import * as InventoryMemory from "../../src/inventory/InventoryMemory.ts"
import * as Background from "../../src/replication/Background.ts"
import * as Orphans from "../../src/replication/orphans.ts"

it.effect("a comparison that takes long is made more seldom, and none once there are no such files", () =>
  Effect.gen(function*() {
    let compared = 0
    let files = 1
    const strangers = Effect.sleep("1 minute").pipe(
      Effect.andThen(Effect.sync(() => {
        compared++
        return { example: Option.none(), files }
      }))
    )
    const orphans = yield* Orphans.make(strangers)
    const first = yield* Effect.forkChild(orphans.compare)
    yield* TestClock.adjust("6 minutes")
    assert.isDefined(first.pollUnsafe())
    // It was told to, and did once by itself.
    assert.strictEqual(compared, 2)
    yield* TestClock.adjust("19 minutes")
    assert.strictEqual(compared, 2)
    yield* TestClock.adjust("2 minutes")
    assert.strictEqual(compared, 3)
    files = 0
    yield* TestClock.adjust("21 minutes")
    assert.strictEqual(compared, 4)
    yield* TestClock.adjust("10 hours")
    assert.strictEqual(compared, 4)
    assert.strictEqual(yield* orphans.count, 0)
  }).pipe(Effect.scoped, Effect.provide(Layer.mergeAll(Background.layer, InventoryMemory.layer))))
