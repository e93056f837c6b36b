import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Option, Queue, Result, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Backend } from "../../src/ports/Backend.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { EntryRefused, Manifest } from "../../src/ports/Manifest.ts"
import * as Registrar from "../../src/replication/Registrar.ts"
import { entryOf } from "../support/entries.ts"
import { clusterLayer, ManifestControl, manifestLayer, nodeLayer, textUnder } from "./node.ts"

const text = (value: string) => new TextEncoder().encode(value)
const path = (value: string) => FilePath.make(value)

describe("Registrar", () => {
  it.effect("registers the bytes it has written with their digest, and shows them", () =>
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      const parts = Stream.fromIterable([text("one "), text("file")])
      const { entry } = yield* registrar.publish({ path: "db/cpu/2026/04/11/14/a.parquet" }, parts)
      const expected = entryOf("x", "one file")
      assert.strictEqual(entry.sha256, expected.sha256)
      assert.strictEqual(entry.size_bytes, 8)
      assert.strictEqual(entry.origin_node_id, "self")
      assert.strictEqual(entry.database, "db")
      assert.strictEqual(entry.measurement, "cpu")
      assert.strictEqual(entry.partition_time, "2026-04-11T14:00:00Z")
      assert.deepStrictEqual(yield* textUnder(entry.path), Option.some("one file"))
      const known = yield* (yield* Manifest).get(entry.path)
      assert.deepStrictEqual(Option.map(known, (file) => file.entry), Option.some(entry))
      const verified = yield* (yield* Inventory).verified(entry.path)
      assert.isTrue(Option.isSome(verified))
      assert.deepStrictEqual(yield* (yield* Inventory).pendings, [])
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("accepts the same bytes again, and gives the entry that stands", () =>
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      const first = yield* registrar.publish({ path: "db/a" }, text("same"))
      yield* TestClock.adjust("1 minute")
      const second = yield* registrar.publish({ path: "db/a" }, text("same"))
      assert.deepStrictEqual(second, first)
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("lays the same bytes down again when they have gone from the disk", () =>
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      yield* registrar.publish({ path: "db/a" }, text("same"))
      yield* (yield* Backend).remove(path("db/a"))
      yield* registrar.publish({ path: "db/a" }, text("same"))
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("same"))
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("refuses other bytes under a taken path, and the stored file stays as it was", () =>
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      yield* registrar.publish({ path: "db/a" }, text("first"))
      const error = yield* Effect.flip(registrar.publish({ path: "db/a" }, text("second")))
      assert.strictEqual(error._tag, "Conflict")
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("first"))
      assert.deepStrictEqual(yield* (yield* Inventory).pendings, [])
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("lets one of two that publish one path at once win, and shows only the winner's bytes", () =>
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      const outcomes = yield* Effect.all(
        ["one", "two"].map((value) => Effect.exit(registrar.publish({ path: "db/a" }, text(value)))),
        { concurrency: 2 }
      )
      assert.strictEqual(outcomes.filter(Exit.isSuccess).length, 1)
      const standing = Option.getOrThrow(yield* (yield* Manifest).get(path("db/a")))
      const shown = Option.getOrThrow(yield* textUnder("db/a"))
      assert.strictEqual(entryOf("db/a", shown).sha256, standing.entry.sha256)
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("refuses a path that breaks the rules before it writes a byte", () =>
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      let read = false
      const bytes = Stream.sync(() => {
        read = true
        return text("x")
      })
      for (const bad of ["../a", "/a", "a//b", "a\0b", "s3://b/k", ".replication/x", ""]) {
        const error = yield* Effect.flip(registrar.publish({ path: bad }, bytes))
        assert.strictEqual(error._tag, "InvalidEntry")
      }
      assert.isFalse(read)
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("leaves nothing behind when the bytes fail to come", () =>
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      const bytes = Stream.concat(Stream.succeed(text("half")), Stream.fail("the source broke"))
      assert.strictEqual(yield* Effect.flip(registrar.publish({ path: "db/a" }, bytes)), "the source broke")
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.none())
      assert.deepStrictEqual(yield* (yield* Inventory).pendings, [])
      assert.isTrue(Option.isNone(yield* (yield* Manifest).get(path("db/a"))))
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("finishes a file even when the caller has stopped waiting for it", () =>
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      const control = yield* ManifestControl
      const inventory = yield* Inventory
      yield* control.setUnavailable(Option.some("away"))
      const caller = yield* Effect.forkChild(registrar.publish({ path: "db/a" }, text("bytes")))
      yield* untilPending(inventory)
      yield* Fiber.interrupt(caller)
      yield* control.setUnavailable(Option.none())
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("bytes"))
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("waits while the manifest is unavailable, up to its bound, then says so with the bytes safe on disk", () =>
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      const control = yield* ManifestControl
      const inventory = yield* Inventory
      yield* control.setUnavailable(Option.some("away"))
      const outcomes = yield* Queue.unbounded<Exit.Exit<unknown, { readonly _tag: string }>>()
      for (let n = 0; n < 20; n++) {
        yield* registrar.publish({ path: `db/${n}` }, text(String(n))).pipe(
          Effect.exit,
          Effect.flatMap((exit) => Queue.offer(outcomes, exit)),
          Effect.forkChild
        )
      }
      const refused = yield* Queue.take(outcomes)
      assert.strictEqual(Exit.isFailure(refused), true)
      const failure = yield* Effect.flip(refused)
      assert.strictEqual(failure._tag, "Unavailable")
      assert.strictEqual((yield* inventory.pendings).length, 20)
      yield* control.setUnavailable(Option.none())
      // The reconcile takes up what found no place in the queue.
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual(yield* inventory.pendings, [])
      for (let n = 0; n < 20; n++) assert.deepStrictEqual(yield* textUnder(`db/${n}`), Option.some(String(n)))
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("keeps the bytes of a file that the manifest refuses by itself, publishes the others, and tries again", () => {
    let mended = false
    return Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      const inventory = yield* Inventory
      const answers = yield* Effect.forEach(
        ["db/a", "db/wrong", "db/b"],
        (name) => Effect.result(registrar.publish({ path: name }, text(name))),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(
        answers.map((answer) => Result.isSuccess(answer) ? answer.success.entry.path : answer.failure._tag),
        ["db/a", "EntryRefused", "db/b"]
      )
      assert.deepStrictEqual((yield* inventory.pendings).map(({ entry }) => entry.path), ["db/wrong"])
      assert.deepStrictEqual(yield* textUnder("db/wrong"), Option.none())
      mended = true
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual(yield* inventory.pendings, [])
      assert.deepStrictEqual(yield* textUnder("db/wrong"), Option.some("db/wrong"))
    }).pipe(Effect.provide(clusterLayer({
      manifest: (inner) => ({
        ...inner,
        registerAll: (entries) =>
          Effect.map(
            inner.registerAll(entries.filter((entry) => mended || entry.path !== "db/wrong")),
            (answers) => {
              let next = 0
              return entries.flatMap((entry) =>
                mended || entry.path !== "db/wrong"
                  ? answers.slice(next, ++next)
                  : [new EntryRefused({ path: entry.path, detail: "its key is damaged" })]
              )
            }
          )
      })
    })))
  })

  it.effect("drains its queue on shutdown before the manifest closes", () =>
    Effect.gen(function*() {
      const standing = yield* Layer.build(clusterPorts)
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(
        Registrar.layer({ queueSize: 8, drainMillis: 60_000, finishesPending: true, reconcileIntervalMillis: 0 }).pipe(
          Layer.provide(Layer.succeedContext(standing))
        ),
        scope
      )
      const registrar = Context.get(context, Registrar.Registrar)
      const control = Context.get(standing, ManifestControl)
      const inventory = Context.get(standing, Inventory)
      yield* control.setUnavailable(Option.some("away"))
      const caller = yield* Effect.forkChild(registrar.publish({ path: "db/a" }, text("bytes")))
      yield* untilPending(inventory)
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* control.setUnavailable(Option.none())
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(closing)
      assert.strictEqual((yield* Fiber.join(caller)).entry.path, "db/a")
      assert.isTrue(Option.isSome(yield* Context.get(standing, Manifest).get(path("db/a"))))
    }))

  it.effect("finishes at a start what an earlier process has left pending", () =>
    Effect.gen(function*() {
      const standing = yield* Layer.build(clusterPorts)
      const backend = Context.get(standing, Backend)
      const inventory = Context.get(standing, Inventory)
      const entry = entryOf("db/a", "left", { origin_node_id: "self" })
      yield* Effect.scoped(Effect.gen(function*() {
        const staged = yield* backend.stage(entry.path)
        yield* staged.write(text("left"))
        const { token } = yield* staged.seal
        yield* inventory.pend({ entry, token })
      }))
      yield* Effect.scoped(Effect.gen(function*() {
        yield* Layer.build(registrarOn(standing))
        yield* Stream.runDrain(Stream.takeUntil(inventory.changes, ({ verified }) => verified.files === 1))
      }))
      assert.deepStrictEqual(yield* inventory.pendings, [])
      assert.isTrue(Option.isSome(yield* Context.get(standing, Manifest).get(entry.path)))
      assert.deepStrictEqual(yield* textUnder("db/a").pipe(Effect.provide(standing)), Option.some("left"))
    }))

  it.effect("drops at a start what is pending under a path that another node took with other bytes", () =>
    Effect.gen(function*() {
      const standing = yield* Layer.build(clusterPorts)
      const backend = Context.get(standing, Backend)
      const inventory = Context.get(standing, Inventory)
      const entry = entryOf("db/a", "ours", { origin_node_id: "self" })
      yield* Context.get(standing, Manifest).register(entryOf("db/a", "theirs"))
      yield* Effect.scoped(Effect.gen(function*() {
        const staged = yield* backend.stage(entry.path)
        yield* staged.write(text("ours"))
        const { token } = yield* staged.seal
        yield* inventory.pend({ entry, token })
      }))
      yield* Effect.scoped(Effect.gen(function*() {
        const registrar = Context.get(yield* Layer.build(registrarOn(standing)), Registrar.Registrar)
        // Publishing the winner's bytes has to wait for the older one's end.
        yield* registrar.publish({ path: "db/a" }, text("theirs"))
      }))
      assert.deepStrictEqual(yield* inventory.pendings, [])
      assert.deepStrictEqual(yield* textUnder("db/a").pipe(Effect.provide(standing)), Option.some("theirs"))
    }))
})

/** Everything but a registrar, which a test builds and closes by itself. */
const clusterPorts = Layer.provideMerge(nodeLayer(), manifestLayer)

const registrarOn = (standing: Context.Context<Layer.Success<typeof clusterPorts>>) =>
  Registrar.layer({ queueSize: 8, drainMillis: 1000, finishesPending: true, reconcileIntervalMillis: 0 }).pipe(
    Layer.provide(Layer.succeedContext(standing))
  )

/** Until something is pending. */
const untilPending = (inventory: Inventory["Service"]) =>
  Stream.runDrain(
    inventory.changes.pipe(
      Stream.mapEffect(() => inventory.pendings),
      Stream.takeUntil((pendings) => pendings.length > 0)
    )
  )
