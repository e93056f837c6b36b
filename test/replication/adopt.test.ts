import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Option } from "effect"
import { TestClock } from "effect/testing"
import { Backend } from "../../src/ports/Backend.ts"
import { Revision } from "../../src/ports/FileEntry.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { Registrar } from "../../src/replication/Registrar.ts"
import { entryOf, pathOf } from "../support/entries.ts"
import { clusterLayer, ManifestControl, textUnder } from "./node.ts"

/** Lays a file down behind the node's back, as another program would. */
const lay = Effect.fnUntraced(function*(path: string, text: string) {
  const backend = yield* Backend
  const { sha256 } = entryOf(path, text)
  yield* backend.remove(pathOf(path))
  yield* Effect.scoped(Effect.gen(function*() {
    const staged = yield* backend.stage(pathOf(path), sha256)
    yield* staged.write(new TextEncoder().encode(text))
    yield* staged.commit(sha256)
  }))
})

const adopt = (path: string) => Effect.flatMap(Registrar, (registrar) => registrar.adopt({ path }))
const rowOf = (path: string) => Effect.flatMap(Inventory, (inventory) => inventory.why(pathOf(path)))
const stateOf = (path: string) => Effect.map(rowOf(path), Option.map(({ _tag }) => _tag))
/** At which revision a path is verified; `undefined` when it is not. */
const revisionOf = (path: string) =>
  Effect.map(
    rowOf(path),
    (row) => Option.isSome(row) && row.value._tag === "Verified" ? row.value.file.revision : undefined
  )
const pendings = Effect.flatMap(Inventory, ({ pendings }) => pendings)

describe("a file that already lies in the data folder", () => {
  it.effect("is registered with the digest of its bytes, and is verified", () =>
    Effect.gen(function*() {
      yield* lay("db/cpu/a.parquet", "written by another program")
      const { entry } = yield* adopt("db/cpu/a.parquet")
      assert.strictEqual(entry.sha256, entryOf("x", "written by another program").sha256)
      assert.deepStrictEqual([entry.database, entry.measurement, entry.origin_node_id], ["db", "cpu", "self"])
      const known = yield* (yield* Manifest).get(entry.path)
      assert.deepStrictEqual(Option.map(known, (file) => file.entry), Option.some(entry))
      assert.deepStrictEqual(yield* stateOf("db/cpu/a.parquet"), Option.some("Verified"))
      assert.deepStrictEqual(yield* pendings, [])
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("is registered once, however often it is asked for", () =>
    Effect.gen(function*() {
      yield* lay("db/a", "bytes")
      const answers = yield* Effect.all([adopt("db/a"), adopt("db/a"), adopt("db/a")], { concurrency: 3 })
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(new Set([...answers, yield* adopt("db/a")].map(({ revision }) => revision)).size, 1)
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("is refused when nothing lies there, or its path breaks the rules", () =>
    Effect.gen(function*() {
      const missing = yield* Effect.flip(adopt("db/a"))
      assert.strictEqual(missing._tag === "BackendError" ? missing.reason : missing._tag, "NotFound")
      assert.strictEqual((yield* Effect.flip(adopt("../a")))._tag, "InvalidEntry")
      assert.deepStrictEqual(yield* pendings, [])
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("is set aside when another node has registered the path with other bytes", () =>
    Effect.gen(function*() {
      yield* lay("db/a", "mine")
      yield* (yield* Manifest).register(entryOf("db/a", "theirs"))
      const error = yield* Effect.flip(adopt("db/a"))
      assert.strictEqual(error._tag, "Conflict")
      assert.notDeepEqual(yield* textUnder("db/a"), Option.some("mine"))
      assert.deepStrictEqual(yield* pendings, [])
    }).pipe(Effect.provide(clusterLayer({ peers: [] }))))

  it.effect("is the file of another node when it has the same bytes", () =>
    Effect.gen(function*() {
      yield* lay("db/a", "the same")
      const theirs = yield* (yield* Manifest).register(entryOf("db/a", "the same"))
      assert.deepStrictEqual(yield* adopt("db/a"), theirs)
      assert.deepStrictEqual(yield* stateOf("db/a"), Option.some("Verified"))
    }).pipe(Effect.provide(clusterLayer({ peers: [] }))))

  it.effect("stays, unregistered, when its path was deleted", () =>
    Effect.gen(function*() {
      yield* (yield* Manifest).remove(pathOf("db/a"), "by the test")
      yield* lay("db/a", "again")
      assert.strictEqual((yield* Effect.flip(adopt("db/a")))._tag, "Gone")
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("again"))
      assert.deepStrictEqual([yield* rowOf("db/a"), yield* pendings], [Option.none(), []])
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("is not registered while the path is being unlinked", () =>
    Effect.gen(function*() {
      yield* lay("db/a", "old")
      yield* adopt("db/a")
      const revision = Revision.make(99)
      yield* (yield* Inventory).apply([{ _tag: "Forget", path: pathOf("db/a"), revision, due: 10 ** 9 }])
      assert.strictEqual((yield* Effect.flip(adopt("db/a")))._tag, "Gone")
    }).pipe(Effect.provide(clusterLayer())))

  for (const now of ["old", "new"]) {
    it.effect(`is registered again when only another history knew it, with ${now} bytes`, () =>
      Effect.gen(function*() {
        yield* lay("db/a", "old")
        yield* adopt("db/a")
        yield* TestClock.adjust("1 second")
        yield* (yield* ManifestControl).restore(Revision.make(0))
        yield* TestClock.adjust("3 seconds")
        assert.strictEqual(yield* revisionOf("db/a"), 0)
        yield* lay("db/a", now)
        const file = yield* adopt("db/a")
        assert.strictEqual(file.entry.sha256, entryOf("db/a", now).sha256)
        assert.deepStrictEqual(yield* (yield* Manifest).get(pathOf("db/a")), Option.some(file))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* revisionOf("db/a"), file.revision)
        assert.deepStrictEqual([yield* textUnder("db/a"), yield* pendings], [Option.some(now), []])
      }).pipe(Effect.provide(clusterLayer())))
  }

  it.effect("is registered by the next start when the manifest did not answer before the process ended", () =>
    Effect.gen(function*() {
      yield* (yield* ManifestControl).setUnavailable(Option.none())
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* stateOf("db/a"), Option.some("Verified"))
      assert.isTrue(Option.isSome(yield* (yield* Manifest).get(pathOf("db/a"))))
      assert.deepStrictEqual(yield* pendings, [])
    }).pipe(Effect.provide(clusterLayer({
      manifestAway: true,
      backend: Layer.effect(
        Backend,
        Effect.flatMap(
          Backend,
          (backend) => Effect.as(Effect.provideService(lay("db/a", "left behind"), Backend, backend), backend)
        )
      ).pipe(Layer.orDie),
      before: Effect.flatMap(
        Inventory,
        ({ pend }) => pend({ entry: entryOf("db/a", "left behind"), token: "in-place" })
      )
    }))))

  it.effect("that was changed behind its hash is not called verified", () =>
    Effect.gen(function*() {
      yield* lay("db/a", "first")
      const manifest = yield* Manifest
      const error = yield* Effect.flip(Effect.gen(function*() {
        yield* (yield* ManifestControl).setUnavailable(Option.some("away"))
        const waiting = yield* Effect.forkChild(adopt("db/a"), { startImmediately: true })
        yield* TestClock.adjust("1 second")
        yield* lay("db/a", "second")
        yield* (yield* ManifestControl).setUnavailable(Option.none())
        yield* TestClock.adjust("10 seconds")
        return yield* Fiber.join(waiting)
      }))
      assert.include(error.message, "changed or removed")
      assert.isTrue(Option.isSome(yield* manifest.get(pathOf("db/a"))))
      assert.notDeepEqual(yield* stateOf("db/a"), Option.some("Verified"))
      assert.deepStrictEqual([yield* textUnder("db/a"), yield* pendings], [Option.none(), []])
    }).pipe(Effect.provide(clusterLayer({ peers: [] }))))
})
