/** What every manifest must tell of its changes, and where a reader of them can go on. */
import { assert } from "@effect/vitest"
import { Effect, Fiber, Option, Queue, Result, Stream } from "effect"
import { Revision } from "../../ports/FileEntry.ts"
import { type Cursor, Manifest, type ManifestEvent } from "../../ports/Manifest.ts"
import { entryOf, pathOf } from "../entries.ts"
import { eventsToHead } from "./events.ts"

const revisionOf = (event: ManifestEvent) => event._tag === "Put" ? event.file.revision : event.revision

/** `live` declares a test on a fresh manifest. */
export const events = (live: <E>(title: string, body: () => Effect.Effect<void, E, Manifest>) => void): void => {
  live("tells a waiting reader of each change, in order and once", () =>
    Effect.gen(function*() {
      const manifest = yield* Manifest
      const batches = yield* Queue.unbounded<ReadonlyArray<ManifestEvent>>()
      const reader = yield* manifest.events(yield* manifest.head).pipe(
        Stream.runForEach(({ events }) => Queue.offer(batches, events)),
        Effect.forkChild
      )
      const registered = yield* manifest.register(entryOf("a"))
      const [first] = yield* Queue.take(batches)
      assert(first?._tag === "Put")
      assert.deepStrictEqual(first.file, registered)
      const revision = yield* manifest.remove(pathOf("a"), "gone")
      const [second] = yield* Queue.take(batches)
      assert(second?._tag === "Removed")
      assert.strictEqual(second.revision, revision)
      assert.isAbove(revision, registered.revision)
      assert.strictEqual(second.reason, "gone")
      yield* Fiber.interrupt(reader)
    }))

  live("gives every registration of many callers at once an answer and an event", () =>
    Effect.gen(function*() {
      const manifest = yield* Manifest
      const at = yield* manifest.head
      const answers = yield* Effect.forEach(
        Array.from({ length: 1300 }, (_, i) => entryOf(`f/${i % 1000}`, `${i}`)),
        (entry) => Effect.result(manifest.register(entry)),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(answers.filter(Result.isSuccess).length, 1000)
      const events = yield* eventsToHead(at)
      const revisions = events.map(revisionOf)
      assert.deepStrictEqual(revisions, [...revisions].sort((a, b) => a - b))
      assert.deepStrictEqual(
        new Set(events.map((event) => event._tag === "Put" ? event.file.entry.path : "")),
        new Set(answers.flatMap((answer) => Result.isSuccess(answer) ? [answer.success.entry.path] : []))
      )
      assert.strictEqual(events.length, 1000)
    }))

  live("goes on from the cursor of any batch, and never splits a change", () =>
    Effect.gen(function*() {
      const manifest = yield* Manifest
      const at = yield* manifest.head
      // A change of 100 events lies across each border that a count of events could make.
      for (let round = 0; round < 12; round++) {
        yield* manifest.register(entryOf(`single/${round}`))
        yield* manifest.replace({
          add: Array.from({ length: 100 }, (_, i) => entryOf(`round/${round}/${i}`)),
          remove: []
        })
      }
      const head = yield* manifest.head
      const batches = yield* manifest.events(at).pipe(
        Stream.takeUntil(({ cursor }) => cursor.revision === head.revision),
        Stream.runCollect
      )
      assert.isAbove(batches.length, 1)
      let taken = 0
      for (const { cursor, events } of batches) {
        taken += events.length
        assert.include([0, 1], taken % 101)
        const rest = yield* eventsToHead(cursor)
        assert.strictEqual(rest.length, 1212 - taken)
        for (const event of rest) assert.isAbove(revisionOf(event), cursor.revision)
      }
    }))

  live(
    "knows a cursor of another history: another epoch, a head below it, another mark",
    () =>
      Effect.gen(function*() {
        const manifest = yield* Manifest
        yield* manifest.registerAll([entryOf("a"), entryOf("b")])
        yield* manifest.remove(pathOf("a"), "gone")
        const head = yield* manifest.head
        const [first] = yield* manifest.events({ ...head, revision: Revision.make(0), mark: "" }).pipe(
          Stream.take(1),
          Stream.runCollect
        )
        assert.deepStrictEqual(first?.cursor, head)
        const strangers: ReadonlyArray<Cursor> = [
          { ...head, epoch: "another" },
          { ...head, revision: Revision.make(head.revision + 1) },
          { ...head, mark: "another" },
          // The row at this revision has given way to the tombstone; its mark is known all the same.
          { ...head, revision: Revision.make(1), mark: "another" },
          { ...head, revision: Revision.make(0), mark: "another" }
        ]
        for (const cursor of strangers) {
          const error = yield* manifest.events(cursor).pipe(Stream.runDrain, Effect.flip)
          assert(error._tag === "CursorLost")
          assert.strictEqual(error.reason, "EpochChanged")
          assert.deepStrictEqual(yield* manifest.lost(cursor), Option.some("EpochChanged" as const))
        }
        assert.deepStrictEqual(yield* manifest.lost(head), Option.none())
        assert.deepStrictEqual(yield* manifest.lost({ ...head, revision: Revision.make(0), mark: "" }), Option.none())
      })
  )

  live("goes on from a cursor whose own file was removed meanwhile", () =>
    Effect.gen(function*() {
      const manifest = yield* Manifest
      yield* manifest.register(entryOf("a"))
      const cursor = yield* manifest.head
      yield* manifest.remove(pathOf("a"), "gone")
      assert.deepStrictEqual((yield* eventsToHead(cursor)).map((event) => event._tag), ["Removed"])
    }))
}
