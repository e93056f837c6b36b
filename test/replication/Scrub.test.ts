import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Option, Queue } from "effect"
import { TestClock } from "effect/testing"
import { Backend } from "../../src/ports/Backend.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import * as Scrub from "../../src/replication/Scrub.ts"
import { fileOf, hold, nodeLayer, textUnder } from "./node.ts"

/** Every path whose bytes are read, to look at and to wait for. */
const makeReads = Effect.gen(function*() {
  const all: Array<string> = []
  const queue = yield* Queue.unbounded<string>()
  const backend = Layer.effect(
    Backend,
    Effect.map(Backend, (inner) =>
      Backend.of({
        ...inner,
        read: (path, offset, length, sink) => {
          all.push(path)
          Queue.offerUnsafe(queue, path)
          return inner.read(path, offset, length, sink)
        }
      }))
  )
  return { all, next: Queue.take(queue), backend }
})

const scrubbing = (options: Scrub.ScheduleOptions, backend?: Layer.Layer<Backend, never, Backend>) =>
  Scrub.layer(options).pipe(Layer.provideMerge(nodeLayer(backend === undefined ? {} : { backend })))

/** A disk that lets something happen right behind each hashing of what lies under a name. */
const makeInterruptible = () => {
  let then: Effect.Effect<void> = Effect.void
  const backend = Layer.effect(
    Backend,
    Effect.map(Backend, (inner) => Backend.of({ ...inner, adopt: (path) => Effect.tap(inner.adopt(path), () => then) }))
  )
  return { backend, happens: (effect: Effect.Effect<void>) => Effect.sync(() => void (then = effect)) }
}

const holdAll = Effect.forEach(["db/a", "db/b", "db/c", "db/d"], (path, n) => hold(fileOf(path, n + 1)))

describe("Scrub", () => {
  it.effect("looks at every verified file once, and only at those", () =>
    Effect.gen(function*() {
      yield* holdAll
      yield* (yield* Inventory).apply([{ _tag: "Owe", file: fileOf("db/owed", 9), reason: "", due: 1e9 }])
      const report = yield* (yield* Scrub.Scrub).verify()
      assert.deepStrictEqual(report, { started: 0, checked: 4, bytes: 16, damaged: 0, missing: 0 })
    }).pipe(Effect.provide(scrubbing({ bytesPerSecond: 0, intervalMillis: 0 }))))

  it.effect("owes a missing file again and goes on", () =>
    Effect.gen(function*() {
      yield* holdAll
      yield* (yield* Backend).remove(FilePath.make("db/b"))
      const report = yield* (yield* Scrub.Scrub).verify()
      assert.deepStrictEqual(report, { started: 0, checked: 4, bytes: 12, damaged: 0, missing: 1 })
    }).pipe(Effect.provide(scrubbing({ bytesPerSecond: 0, intervalMillis: 0 }))))

  it.effect("leaves a file alone that another process has healed while it was hashed here", () => {
    const { backend, happens } = makeInterruptible()
    return Effect.gen(function*() {
      const context = yield* Effect.context<Backend | Inventory>()
      const file = fileOf("db/a")
      yield* hold(file)
      const { remove, stage } = yield* Backend
      yield* remove(file.entry.path)
      yield* Effect.scoped(Effect.gen(function*() {
        const staged = yield* stage(file.entry.path)
        yield* staged.write(new TextEncoder().encode("wrong"))
        yield* staged.commit((yield* staged.seal).sha256)
      }))
      yield* happens(
        Effect.andThen(remove(file.entry.path), hold(file)).pipe(Effect.provide(context), Effect.orDie)
      )
      const report = yield* (yield* Scrub.Scrub).verify()
      assert.deepStrictEqual(report, { started: 0, checked: 1, bytes: 0, damaged: 0, missing: 0 })
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("db/a"))
      assert.isTrue(Option.isSome(yield* (yield* Inventory).verified(file.entry.path)))
    }).pipe(Effect.provide(scrubbing({ bytesPerSecond: 0, intervalMillis: 0 }, backend)))
  })

  it.effect("reads no faster than it may, and goes on behind an interruption where it stopped", () =>
    Effect.gen(function*() {
      const reads = yield* makeReads
      yield* Effect.gen(function*() {
        const { verify } = yield* Scrub.Scrub
        yield* holdAll
        const first = yield* Effect.forkChild(verify({ bytesPerSecond: 2 }))
        assert.strictEqual(yield* reads.next, "db/a")
        yield* TestClock.adjust("1999 millis")
        assert.deepStrictEqual(reads.all, ["db/a"])
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(yield* reads.next, "db/b")
        yield* TestClock.adjust("1 second")
        yield* Fiber.interrupt(first)
        const second = yield* Effect.forkChild(verify({ bytesPerSecond: 2 }))
        // The one that was cut short is read again, those before it are not.
        assert.strictEqual(yield* reads.next, "db/b")
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(yield* Fiber.join(second), { started: 0, checked: 4, bytes: 16, damaged: 0, missing: 0 })
        assert.deepStrictEqual(reads.all, ["db/a", "db/b", "db/b", "db/c", "db/d"])
        assert.deepStrictEqual(yield* (yield* Inventory).recall("scrub.verify"), Option.none())
      }).pipe(Effect.provide(scrubbing({ bytesPerSecond: 0, intervalMillis: 0 }, reads.backend)))
    }))

  it.effect("is made once in every interval by its schedule", () =>
    Effect.gen(function*() {
      const reads = yield* makeReads
      yield* Effect.gen(function*() {
        yield* holdAll
        yield* TestClock.adjust("30 minutes")
        const before = reads.all.length
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(reads.all.length - before, 4)
        yield* TestClock.adjust("2 hours")
        assert.strictEqual(reads.all.length - before, 12)
      }).pipe(Effect.provide(scrubbing({ bytesPerSecond: 0, intervalMillis: 3_600_000 }, reads.backend)))
    }))

  it.effect("owes nothing when the folder is not this node's any more", () =>
    Effect.gen(function*() {
      yield* holdAll
      const backend = yield* Backend
      yield* backend.claim("another")
      yield* (yield* Inventory).remember("id", Option.some("ours"))
      yield* backend.remove(FilePath.make("db/a"))
      assert.include((yield* Effect.flip((yield* Scrub.Scrub).verify())).message, "is its disk mounted?")
      assert.strictEqual((yield* (yield* Inventory).progress).owed.files, 0)
    }).pipe(Effect.provide(scrubbing({ bytesPerSecond: 0, intervalMillis: 0 }))))
})
