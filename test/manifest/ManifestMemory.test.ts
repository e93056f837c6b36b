import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Option, Queue, Stream } from "effect"
import * as ManifestMemory from "../../src/manifest/ManifestMemory.ts"
import { Revision } from "../../src/ports/FileEntry.ts"
import { suite } from "../../src/testing/manifest/suite.ts"
import { entryOf, pathOf } from "../support/entries.ts"

suite("in memory", ManifestMemory.layer)

describe("ManifestMemory.make", () => {
  it.effect("fails a cursor below the head as compacted once the history is compacted, and not the head's", () =>
    Effect.gen(function*() {
      const { control, manifest } = yield* ManifestMemory.make
      const old = yield* manifest.head
      yield* manifest.register(entryOf("a"))
      const head = yield* manifest.head
      yield* control.compact
      const error = yield* manifest.events(old).pipe(Stream.runDrain, Effect.flip)
      assert(error._tag === "CursorLost")
      assert.strictEqual(error.reason, "Compacted")
      yield* manifest.register(entryOf("b"))
      const [batch] = yield* manifest.events(head).pipe(Stream.take(1), Stream.runCollect)
      assert.strictEqual(batch?.events.length, 1)
    }))

  it.effect("fails an open stream when the epoch changes", () =>
    Effect.gen(function*() {
      const { control, manifest } = yield* ManifestMemory.make
      const reading = yield* Queue.unbounded<void>()
      const reader = yield* manifest.events(yield* manifest.head).pipe(
        Stream.runForEach(() => Queue.offer(reading, undefined)),
        Effect.flip,
        Effect.forkChild
      )
      yield* manifest.register(entryOf("a"))
      yield* Queue.take(reading)
      yield* control.changeEpoch
      const error = yield* Fiber.join(reader)
      assert(error._tag === "CursorLost")
      assert.strictEqual(error.reason, "EpochChanged")
      assert.isTrue(Option.isSome(yield* manifest.get(pathOf("a"))))
    }))

  it.effect("puts a backup back: later files are gone, and later cursors are told even when counting passes them", () =>
    Effect.gen(function*() {
      const { control, manifest } = yield* ManifestMemory.make
      yield* manifest.register(entryOf("a/b"))
      const kept = yield* manifest.head
      yield* manifest.registerAll([entryOf("c"), entryOf("d")])
      const lost = yield* manifest.head
      yield* control.restore(Revision.make(1))
      assert.deepStrictEqual(yield* manifest.head, kept)
      assert.deepStrictEqual(yield* manifest.get(pathOf("c")), Option.none())
      assert.strictEqual((yield* Effect.flip(manifest.register(entryOf("a"))))._tag, "Conflict")
      yield* manifest.registerAll([entryOf("c"), entryOf("d"), entryOf("e")])
      const error = yield* manifest.events(lost).pipe(Stream.runDrain, Effect.flip)
      assert(error._tag === "CursorLost")
      assert.strictEqual(error.reason, "EpochChanged")
      const [batch] = yield* manifest.events(kept).pipe(Stream.take(1), Stream.runCollect)
      assert.strictEqual(batch?.events.length, 3)
    }))

  it.effect("fails everything while it is unavailable, open streams too, and works again after", () =>
    Effect.gen(function*() {
      const { control, manifest } = yield* ManifestMemory.make
      const head = yield* manifest.head
      const reading = yield* Deferred.make<void>()
      const open = yield* manifest.events(head).pipe(
        Stream.runForEach(() => Deferred.succeed(reading, undefined)),
        Effect.flip,
        Effect.forkChild
      )
      yield* manifest.register(entryOf("before"))
      yield* Deferred.await(reading)
      yield* control.setUnavailable(Option.some("the network is down"))
      const path = pathOf("a")
      const errors = [
        yield* Fiber.join(open),
        yield* Effect.flip(manifest.register(entryOf("a"))),
        yield* Effect.flip(manifest.registerAll([entryOf("a")])),
        yield* Effect.flip(manifest.check([entryOf("a")])),
        yield* Effect.flip(manifest.remove(path, "gone")),
        yield* Effect.flip(manifest.replace({ add: [], remove: [] })),
        yield* Effect.flip(manifest.get(path)),
        yield* Effect.flip(manifest.page(Option.none(), 1)),
        yield* Effect.flip(manifest.head),
        yield* Effect.flip(manifest.snapshot(1)),
        yield* Effect.flip(manifest.lost(head)),
        yield* Effect.flip(Stream.runDrain(manifest.events(head)))
      ]
      for (const error of errors) assert.strictEqual(error._tag, "Unavailable")
      yield* control.setUnavailable(Option.none())
      assert.strictEqual((yield* manifest.register(entryOf("a"))).revision, 2)
    }))
})
