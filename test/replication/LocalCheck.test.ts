import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Option, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Backend } from "../../src/ports/Backend.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory, type Progress } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { LocalCheck } from "../../src/replication/LocalCheck.ts"
import { Readiness } from "../../src/replication/Readiness.ts"
import { sha256Of, write } from "../../src/testing/backend/support.ts"
import { clusterLayer, Dials, fileOf, textUnder, unreachable } from "./node.ts"

const a = FilePath.make("db/a")
const text = (content: string) => new TextEncoder().encode(content)

/** Waits until the inventory says so. */
const until = Effect.fnUntraced(function*(holds: (progress: Progress) => boolean) {
  const inventory = yield* Inventory
  yield* Stream.runDrain(Stream.takeUntil(inventory.changes, holds))
})
const untilHeld = (files: number) => until(({ owed, verified }) => verified.files === files && owed.files === 0)

/** A node that has pulled these files. */
const holding = Effect.fnUntraced(function*(...paths: ReadonlyArray<string>) {
  const manifest = yield* Manifest
  for (const path of paths) yield* manifest.register(fileOf(path).entry)
  yield* untilHeld(paths.length)
})

describe("LocalCheck", () => {
  it.effect("owes a file that was deleted behind the node's back, and the manifest does not change", () =>
    Effect.gen(function*() {
      yield* holding("db/a", "db/b")
      const head = yield* (yield* Manifest).head
      yield* (yield* Backend).remove(a)
      yield* (yield* LocalCheck).check
      yield* untilHeld(2)
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("db/a"))
      // The newest first, then what was lost.
      assert.deepStrictEqual((yield* Dials).all.map(({ path }) => path), ["db/b", "db/a", "db/a"])
      assert.deepStrictEqual(yield* (yield* Manifest).head, head)
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("does not call the node ready any more before the file is back", () =>
    Effect.gen(function*() {
      const inventory = yield* Inventory
      const { entry, revision } = yield* (yield* Manifest).register(fileOf("db/a").entry)
      yield* until(({ owed }) => owed.files === 1)
      // Seeded by hand, so that it is held although nobody serves it.
      yield* write(a, text("db/a"))
      const held = yield* Effect.flatMap((yield* Backend).adopt(a), Effect.fromOption)
      yield* inventory.settle({ entry, revision }, held)
      yield* Stream.runDrain(Stream.takeUntil((yield* Readiness).changes, ({ ready }) => ready))
      yield* (yield* Backend).remove(a)
      yield* (yield* LocalCheck).check
      assert.isFalse(yield* (yield* Readiness).ready)
      const row = yield* Effect.flatMap(inventory.why(a), Effect.fromOption)
      assert.include(row._tag === "Owed" ? row.reason : row._tag, "not on this disk any more")
    }).pipe(Effect.provide(clusterLayer({ script: unreachable }))))

  it.effect("opens no file that is as it was", () => {
    let opened = 0
    const counting = Layer.effect(
      Backend,
      Effect.map(Backend, (backend) =>
        Backend.of({
          ...backend,
          adopt: (path) => Effect.suspend(() => (opened++, backend.adopt(path))),
          read: (...args) => Effect.suspend(() => (opened++, backend.read(...args)))
        }))
    )
    return Effect.gen(function*() {
      yield* holding("db/a", "db/b", "db/c")
      opened = 0
      yield* (yield* LocalCheck).check
      assert.strictEqual(opened, 0)
      yield* (yield* Backend).remove(a)
      yield* write(a, text("db/a"))
      yield* (yield* LocalCheck).check
      assert.strictEqual(opened, 1)
    }).pipe(Effect.provide(clusterLayer({ backend: counting })))
  })

  it.effect("hashes a file that only looks different, keeps it verified and asks nobody", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      yield* holding("db/a")
      yield* backend.remove(a)
      yield* write(a, text("db/a"))
      yield* (yield* LocalCheck).check
      const row = yield* Effect.flatMap((yield* Inventory).verified(a), Effect.fromOption)
      assert.deepStrictEqual(Option.some(row.held), yield* backend.adopt(a))
      assert.strictEqual((yield* Dials).all.length, 1)
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("sets a file with other bytes aside and has it pulled", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      yield* holding("db/a")
      const free = yield* backend.freeSpace
      yield* backend.remove(a)
      yield* write(a, text("XX/X"))
      yield* (yield* LocalCheck).check
      yield* untilHeld(1)
      const held = yield* Effect.flatMap(backend.adopt(a), Effect.fromOption)
      assert.strictEqual(held.sha256, sha256Of(text("db/a")))
      // What was set aside is still there.
      assert.strictEqual(yield* backend.freeSpace, free - 4)
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("looks again every interval", () =>
    Effect.gen(function*() {
      yield* holding("db/a")
      yield* (yield* Backend).remove(a)
      yield* TestClock.adjust("59 seconds")
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.none())
      yield* TestClock.adjust("1 second")
      yield* until(({ owed }) => owed.files === 0)
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("db/a"))
    }).pipe(Effect.provide(clusterLayer({ reconcileIntervalMillis: 60_000 }))))

  it.effect("owes nothing when the folder is not this node's any more, and is not satisfied", () =>
    Effect.gen(function*() {
      const check = yield* LocalCheck
      yield* holding("db/a")
      yield* (yield* Backend).claim("ours")
      yield* (yield* Inventory).remember("id", Option.some("ours"))
      yield* check.check
      assert.isTrue(yield* check.checked)
      // As if another disk were mounted there.
      yield* (yield* Inventory).remember("id", Option.some("another"))
      yield* (yield* Backend).remove(a)
      const error = yield* Effect.flip(check.check)
      assert.include(error.message, "is its disk mounted?")
      assert.isFalse(yield* check.checked)
      assert.strictEqual((yield* (yield* Inventory).progress).owed.files, 0)
    }).pipe(Effect.provide(clusterLayer())))
})
