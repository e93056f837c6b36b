/** Names that the node's own disk does not give to a file, because something else stands there. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Logger, Option, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Backend, BackendError } from "../../src/ports/Backend.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { Registrar } from "../../src/replication/Registrar.ts"
import { bytes, pathOf, write } from "../../src/testing/backend/support.ts"
import { clusterLayer, ManifestControl, textUnder, untilStatus } from "./node.ts"

const text = (value: string) => new TextEncoder().encode(value)
const folder = FilePath.make("db/folder")

/** Nobody of this node writes it. */
const foreign = pathOf("db/folder/foreign")

describe("a name under which a folder stands", () => {
  it.effect("is registered neither for a published file nor for one that replaces another", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const inventory = yield* Inventory
      const manifest = yield* Manifest
      const registrar = yield* Registrar
      yield* write(foreign, bytes(10))
      yield* registrar.publish({ path: "db/old" }, text("old"))
      const before = yield* manifest.head
      const refusals = yield* Effect.forEach([
        registrar.publish({ path: folder }, text("new")),
        registrar.replace(
          [{ path: "db/fine", bytes: text("new") }, { path: folder, bytes: text("new") }],
          [{ path: "db/old", reason: "merged" }]
        )
      ], (effect: Effect.Effect<unknown, { readonly message: string }>) => Effect.flip(effect))
      for (const { message } of refusals) assert.match(message, /^name db\/folder: something that is no file stands/)
      assert.deepStrictEqual(yield* manifest.head, before)
      assert.deepStrictEqual(yield* inventory.pendings, [])
      assert.strictEqual(yield* backend.dropSealed(new Set()), 0)
      yield* backend.remove(foreign)
      yield* registrar.publish({ path: folder }, text("new"))
      assert.deepStrictEqual(yield* textUnder(folder), Option.some("new"))
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("becomes a file's in the replacement that removes what is in the folder", () =>
    Effect.gen(function*() {
      const registrar = yield* Registrar
      yield* registrar.publish({ path: "db/folder/ours" }, text("old"))
      // It may end before the disk has let go of the old file: then it is finished behind that.
      yield* Effect.exit(
        registrar.replace([{ path: folder, bytes: text("new") }], [{ path: "db/folder/ours", reason: "merged" }])
      )
      yield* untilStatus(({ ready, verified }) => ready && verified.files === 1)
      assert.deepStrictEqual(yield* textUnder(folder), Option.some("new"))
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("stays with a file that was registered before it stood there, and the debt says why", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const control = yield* ManifestControl
      const inventory = yield* Inventory
      const registrar = yield* Registrar
      yield* control.setUnavailable(Option.some("away"))
      const publishing = yield* Effect.forkChild(Effect.flip(registrar.publish({ path: folder }, text("new"))))
      yield* inventory.changes.pipe(
        Stream.mapEffect(() => inventory.pendings),
        Stream.takeUntil((pendings) => pendings.length === 1),
        Stream.runDrain
      )
      yield* write(foreign, bytes(10))
      yield* control.setUnavailable(Option.none())
      yield* untilStatus(({ owed }) => owed.files === 1)
      const error = yield* Fiber.join(publishing)
      assert.match(error.message, /^commit db\/folder: something that is no file stands/)
      yield* TestClock.adjust("1 minute")
      const row = yield* Effect.flatMap(inventory.why(folder), Effect.fromOption)
      assert.deepInclude<object>(row, { _tag: "Owed", reason: error.message })
      yield* backend.remove(foreign)
      yield* TestClock.adjust("1 minute")
      yield* untilStatus(({ ready }) => ready)
      assert.deepStrictEqual(yield* textUnder(folder), Option.some("new"))
      assert.deepStrictEqual(yield* inventory.pendings, [])
    }).pipe(Effect.provide(clusterLayer())))
})

it.effect("a deleted file that the disk does not let go is told once, and goes as soon as it can", () => {
  let detail = Option.some("a symbolic link stands in the way")
  const logs: Array<string> = []
  const refusing = Layer.effect(
    Backend,
    Effect.map(Backend, (backend) =>
      Backend.of({
        ...backend,
        remove: (path) =>
          Effect.suspend(() =>
            Option.match(detail, {
              onNone: () => backend.remove(path),
              onSome: (detail) => Effect.fail(new BackendError({ operation: "remove", path, reason: "Unsafe", detail }))
            })
          )
      }))
  )
  return Effect.gen(function*() {
    yield* (yield* Registrar).publish({ path: "db/a" }, text("a"))
    yield* (yield* Manifest).remove(FilePath.make("db/a"), "retention")
    yield* untilStatus(({ unlinking }) => unlinking === 1)
    for (const other of ["permission denied", "the disk reported an error"]) {
      yield* TestClock.adjust("10 minutes")
      detail = Option.some(other)
    }
    yield* TestClock.adjust("10 minutes")
    const told = logs.filter((line) => line.includes("could not be unlinked"))
    assert.deepStrictEqual(told.map((line) => line.replace(/^.*: /, "")), [
      "a symbolic link stands in the way",
      "permission denied",
      "the disk reported an error"
    ])
    detail = Option.none()
    yield* untilStatus(({ unlinking }) => unlinking === 0)
    assert.deepStrictEqual(yield* textUnder("db/a"), Option.none())
  }).pipe(
    Effect.provide(Layer.provideMerge(
      clusterLayer({ backend: refusing }),
      Logger.layer([Logger.make(({ message }) => logs.push(String(message)))])
    ))
  )
})
