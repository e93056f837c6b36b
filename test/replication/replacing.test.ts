import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Option, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import * as Registrar from "../../src/replication/Registrar.ts"
import { eventsToHead } from "../../src/testing/manifest/events.ts"
import { clusterLayer, ManifestControl, manifestLayer, nodeLayer, textUnder } from "./node.ts"

const text = (value: string) => new TextEncoder().encode(value)
const merged = (...paths: ReadonlyArray<string>) => paths.map((path) => ({ path, reason: "merged" }))

/** Everything but a registrar, which a test builds and closes by itself: one life of a process. */
const ports = Layer.provideMerge(nodeLayer(), manifestLayer)

const registrarOn = (standing: Context.Context<Layer.Success<typeof ports>>) =>
  Registrar.layer({ queueSize: 8, drainMillis: 1000, finishesPending: true, reconcileIntervalMillis: 60_000 }).pipe(
    Layer.provide(Layer.succeedContext(standing))
  )

/** Lives as long as `body`, and ends as a crash does: what is not finished stays as it is. */
const living = <A, E, R>(
  standing: Context.Context<Layer.Success<typeof ports>>,
  body: (registrar: Registrar.Registrar["Service"]) => Effect.Effect<A, E, R>
) =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    const context = yield* Layer.buildWithScope(registrarOn(standing), scope)
    const outcome = yield* body(Context.get(context, Registrar.Registrar))
    const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
    yield* TestClock.adjust("10 seconds")
    yield* Fiber.join(closing)
    return outcome
  })

const untilPending = (count: number) =>
  Effect.flatMap(Inventory, (inventory) =>
    inventory.changes.pipe(
      Stream.mapEffect(() => inventory.pendings),
      Stream.takeUntil((pendings) => pendings.length === count),
      Stream.runDrain
    ))

const standingPaths = Effect.flatMap(
  Manifest,
  (manifest) =>
    Effect.map(manifest.page(Option.none(), 100), ({ files }) => files.map(({ entry }) => entry.path).join(" "))
)

describe("Registrar.replace", () => {
  it.effect("puts new files in the place of others, in one batch of events", () =>
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      const manifest = yield* Manifest
      const inventory = yield* Inventory
      yield* registrar.publish({ path: "db/1" }, text("1"))
      yield* registrar.publish({ path: "db/2" }, text("2"))
      const before = yield* manifest.head
      const { files, revision } = yield* registrar.replace(
        [{ path: "db/m1", bytes: text("one") }, { path: "db/m2", bytes: Stream.make(text("t"), text("wo")) }],
        merged("db/1", "db/2")
      )
      assert.deepStrictEqual(files.map(({ entry }) => entry.path), [FilePath.make("db/m1"), FilePath.make("db/m2")])
      assert.strictEqual(revision, (yield* manifest.head).revision)
      const batches = yield* manifest.events(before).pipe(Stream.take(1), Stream.runCollect)
      assert.strictEqual(batches[0]?.events.length, 4)
      assert.deepStrictEqual(yield* textUnder("db/m2"), Option.some("two"))
      assert.isTrue(Option.isSome(yield* inventory.verified(FilePath.make("db/m1"))))
      assert.deepStrictEqual(yield* inventory.pendings, [])
      assert.deepStrictEqual(yield* inventory.recall("replacement"), Option.none())
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("does nothing when a file that it should replace is not there any more", () =>
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      const manifest = yield* Manifest
      const inventory = yield* Inventory
      for (const n of [1, 2, 3]) yield* registrar.publish({ path: `db/${n}` }, text(String(n)))
      yield* registrar.replace([{ path: "db/12", bytes: text("12") }], merged("db/1", "db/2"))
      const head = yield* manifest.head
      const error = yield* Effect.flip(
        registrar.replace([{ path: "db/123", bytes: text("123") }], merged("db/1", "db/2", "db/3"))
      )
      assert.strictEqual(error._tag, "Gone")
      assert.strictEqual(error.message, "db/1 can't be replaced: it was deleted (merged)")
      const never = yield* Effect.flip(registrar.replace([{ path: "db/123", bytes: text("123") }], merged("db/never")))
      assert.strictEqual(never.message, "db/never can't be replaced: it is not in the manifest")
      assert.deepStrictEqual(yield* manifest.head, head)
      assert.strictEqual(yield* standingPaths, "db/12 db/3")
      assert.deepStrictEqual(yield* inventory.pendings, [])
      assert.deepStrictEqual(yield* inventory.recall("replacement"), Option.none())
      assert.deepStrictEqual(yield* textUnder("db/123"), Option.none())
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("refuses too many paths, one that is named twice and one that breaks the rules, before it writes a byte", () =>
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      const bytes = Stream.die("nobody reads it")
      const refusals = yield* Effect.forEach([
        registrar.replace([{ path: "db/a", bytes }], merged(...Array.from({ length: 100 }, (_, n) => `db/${n}`))),
        registrar.replace([{ path: "db/a", bytes }, { path: "db/a", bytes }], []),
        registrar.replace([{ path: "../a", bytes }], []),
        registrar.replace([{ path: "db/a", bytes }], merged("db/a")),
        registrar.replace([{ path: "db/a", bytes }], merged("/etc/passwd"))
      ], Effect.flip)
      assert.deepStrictEqual(refusals.map(({ _tag }) => _tag), [
        "TooLarge",
        "InvalidEntry",
        "InvalidEntry",
        "InvalidEntry",
        "InvalidEntry"
      ])
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("is finished by the next start, whole, when the manifest did not answer before the process ended", () =>
    Effect.gen(function*() {
      const standing = yield* Layer.build(ports)
      yield* Effect.gen(function*() {
        const control = yield* ManifestControl
        const inventory = yield* Inventory
        yield* living(standing, (registrar) =>
          Effect.gen(function*() {
            yield* registrar.publish({ path: "db/1" }, text("1"))
            yield* registrar.publish({ path: "db/2" }, text("2"))
            yield* control.setUnavailable(Option.some("away"))
            yield* Effect.forkChild(registrar.replace([{ path: "db/m", bytes: text("12") }], merged("db/1", "db/2")))
            yield* untilPending(1)
          }))
        yield* control.setUnavailable(Option.none())
        assert.strictEqual((yield* inventory.pendings).length, 1)
        assert.strictEqual(yield* standingPaths, "db/1 db/2")
        yield* living(
          standing,
          () => inventory.changes.pipe(Stream.takeUntil(({ verified }) => verified.files === 3), Stream.runDrain)
        )
        assert.strictEqual(yield* standingPaths, "db/m")
        assert.deepStrictEqual(yield* textUnder("db/m"), Option.some("12"))
        assert.deepStrictEqual(yield* inventory.pendings, [])
        assert.deepStrictEqual(yield* inventory.recall("replacement"), Option.none())
      }).pipe(Effect.provide(standing))
    }))

  it.effect("finishes an earlier one first, so that no file is merged twice", () =>
    Effect.gen(function*() {
      const standing = yield* Layer.build(ports)
      yield* Effect.gen(function*() {
        const control = yield* ManifestControl
        yield* living(standing, (registrar) =>
          Effect.gen(function*() {
            yield* registrar.publish({ path: "db/1" }, text("1"))
            yield* registrar.publish({ path: "db/2" }, text("2"))
            yield* control.setUnavailable(Option.some("away"))
            yield* Effect.forkChild(registrar.replace([{ path: "db/m", bytes: text("12") }], merged("db/1", "db/2")))
            yield* untilPending(1)
          }))
        yield* control.setUnavailable(Option.none())
        yield* living(standing, (registrar) =>
          Effect.gen(function*() {
            const error = yield* Effect.flip(
              registrar.replace([{ path: "db/again", bytes: text("12") }], merged("db/1", "db/2"))
            )
            assert.strictEqual(error._tag, "Gone")
          }))
        assert.strictEqual(yield* standingPaths, "db/m")
      }).pipe(Effect.provide(standing))
    }))

  it.effect("lets nobody publish a file of it by itself while it is not finished", () =>
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      const control = yield* ManifestControl
      yield* registrar.publish({ path: "db/1" }, text("1"))
      const manifest = yield* Manifest
      const before = yield* manifest.head
      yield* control.setUnavailable(Option.some("away"))
      yield* Effect.forkChild(registrar.replace([{ path: "db/m", bytes: text("1") }], merged("db/1")))
      yield* untilPending(1)
      const other = yield* Effect.forkChild(registrar.publish({ path: "db/m" }, text("1")))
      yield* TestClock.adjust("5 minutes")
      yield* control.setUnavailable(Option.none())
      yield* TestClock.adjust("1 minute")
      const { entry } = yield* Fiber.join(other)
      assert.strictEqual(entry.path, "db/m")
      assert.deepStrictEqual((yield* eventsToHead(before)).map(({ _tag }) => _tag), ["Removed", "Put"])
    }).pipe(Effect.provide(clusterLayer())))
})
