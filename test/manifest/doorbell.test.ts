/** How one process hears of another one's commits: by the doorbell file, and without it. */
import { assert, describe, it } from "@effect/vitest"
import { Context, type Duration, Effect, Fiber, Layer, Queue, Stream } from "effect"
import { TestClock } from "effect/testing"
import { renameSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as ManifestSqlite from "../../src/manifest/ManifestSqlite.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { entryOf } from "../support/entries.ts"
import { temporaryFolder } from "../support/folder.ts"

const database = Effect.map(temporaryFolder, (folder) => join(folder, "manifest.db"))

/** Opens the file once more, as another process would. */
const open = (path: string, poll?: Duration.Input) =>
  Effect.map(
    Layer.build(ManifestSqlite.layer({ path, ...(poll === undefined ? {} : { poll }) })),
    (context) => Context.get(context, Manifest)
  )

/** The revision of each batch that comes from now on. */
const revisions = Effect.fnUntraced(function*(manifest: Manifest["Service"]) {
  const queue = yield* Queue.unbounded<number>()
  yield* manifest.events(yield* manifest.head).pipe(
    Stream.runForEach(({ cursor }) => Queue.offer(queue, cursor.revision)),
    Effect.forkScoped({ startImmediately: true })
  )
  return Queue.take(queue)
})

describe("ManifestSqlite's doorbell", () => {
  it.live("is heard when another file has taken its place", () =>
    Effect.gen(function*() {
      const path = yield* database
      const reader = yield* open(path, "1 hour")
      const next = yield* revisions(reader)
      for (let round = 1; round <= 3; round++) {
        yield* Effect.sync(() => {
          writeFileSync(`${path}-other`, "")
          renameSync(`${path}-other`, `${path}-doorbell`)
        })
        const writer = yield* open(path, "1 hour")
        yield* writer.register(entryOf(`${round}/a`))
        assert.strictEqual(yield* next, 2 * round - 1)
        yield* writer.register(entryOf(`${round}/b`))
        assert.strictEqual(yield* next, 2 * round)
      }
    }), 10_000)

  it.live("is heard again when it was removed and another process has made a new one", () =>
    Effect.gen(function*() {
      const path = yield* database
      const reader = yield* open(path, "20 millis")
      const next = yield* revisions(reader)
      rmSync(`${path}-doorbell`)
      const writer = yield* open(path, "1 hour")
      for (let i = 1; i <= 20; i++) {
        yield* writer.register(entryOf(`f/${i}`))
        assert.strictEqual(yield* next, i)
      }
    }), 10_000)

  it.effect("is not needed: what it does not tell is seen within 100 ms", () =>
    Effect.gen(function*() {
      const path = yield* database
      const reader = yield* open(path)
      rmSync(`${path}-doorbell`)
      const writer = yield* open(path)
      const next = yield* Effect.forkChild(yield* revisions(reader), { startImmediately: true })
      // The reader's thread answers in the order asked: what it was asked at its start has been answered, too.
      yield* reader.head
      rmSync(`${path}-doorbell`)
      yield* writer.register(entryOf("a"))
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(yield* Fiber.join(next), 1)
    }), 10_000)
})
