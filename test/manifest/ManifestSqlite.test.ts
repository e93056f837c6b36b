import { assert, describe, it } from "@effect/vitest"
import { Context, type Duration, Effect, Exit, Fiber, Layer, Option, Queue, Scope, Stream } from "effect"
import { copyFileSync, existsSync, rmSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { backup, DatabaseSync } from "node:sqlite"
import * as ManifestSqlite from "../../src/manifest/ManifestSqlite.ts"
import { Revision } from "../../src/ports/FileEntry.ts"
import { type Cursor, Manifest, ManifestCollector } from "../../src/ports/Manifest.ts"
import { suite } from "../../src/testing/manifest/suite.ts"
import { entryOf, pathOf } from "../support/entries.ts"
import { temporaryFolder } from "../support/folder.ts"

suite(
  "SQLite",
  Layer.unwrap(Effect.map(temporaryFolder, (folder) => ManifestSqlite.layer({ path: join(folder, "manifest.db") })))
)

const database = Effect.map(temporaryFolder, (folder) => join(folder, "manifest.db"))

/** Opens the file once more, as another process would. */
const open = (path: string, poll?: Duration.Input) =>
  Effect.map(
    Layer.build(ManifestSqlite.layer({ path, ...(poll === undefined ? {} : { poll }) })),
    (context) => ({
      manifest: Context.get(context, Manifest),
      collector: Context.get(context, ManifestCollector)
    })
  )

/** Runs a body against the file and closes it again. */
const opened = <A, E>(path: string, body: (manifest: Manifest["Service"]) => Effect.Effect<A, E>) =>
  Effect.scoped(Effect.flatMap(open(path), ({ manifest }) => body(manifest)))

const withFile = (path: string, body: (database: DatabaseSync) => void) =>
  Effect.sync(() => {
    const database = new DatabaseSync(path)
    body(database)
    database.close()
  })

/** Copies a database page by page, as an operator does while others have it open. */
const copied = (from: string, to: string) =>
  Effect.promise(async () => {
    const database = new DatabaseSync(from)
    await backup(database, to)
    database.close()
  })

const whyLost = (manifest: Manifest["Service"], cursor: Cursor) =>
  Effect.map(
    Effect.flip(Stream.runDrain(manifest.events(cursor))),
    (error) => error._tag === "CursorLost" ? error.reason : error.message
  )

describe("ManifestSqlite", () => {
  it.live("keeps its files, its head and its history across a close", () =>
    Effect.gen(function*() {
      const path = yield* database
      const before = yield* opened(path, (manifest) =>
        Effect.gen(function*() {
          yield* manifest.registerAll([entryOf("a"), entryOf("b")])
          yield* manifest.remove(pathOf("a"), "gone")
          return { head: yield* manifest.head, page: yield* manifest.page(Option.none(), 10) }
        }))
      const after = yield* opened(path, (manifest) =>
        Effect.all({ head: manifest.head, page: manifest.page(Option.none(), 10) }))
      assert.deepStrictEqual(after, before)
      assert.strictEqual(before.head.revision, 3)
    }))

  it.live("shows another connection what was acknowledged before, in its head and by its path", () =>
    Effect.gen(function*() {
      const path = yield* database
      const { manifest: one } = yield* open(path)
      const { manifest: two } = yield* open(path)
      for (let i = 0; i < 20; i++) {
        const writer = i % 2 === 0 ? one : two
        const reader = i % 2 === 0 ? two : one
        const registered = yield* writer.register(entryOf(`f/${i}`))
        assert.strictEqual((yield* reader.head).revision, registered.revision)
        assert.deepStrictEqual(yield* reader.get(registered.entry.path), Option.some(registered))
      }
    }))

  it.live("hears of another connection's commit by the doorbell, long before it would look by itself", () =>
    Effect.gen(function*() {
      const path = yield* database
      const { manifest: reader } = yield* open(path, "1 hour")
      const { manifest: writer } = yield* open(path, "1 hour")
      const batches = yield* Queue.unbounded<number>()
      yield* reader.events(yield* reader.head).pipe(
        Stream.runForEach(({ cursor }) => Queue.offer(batches, cursor.revision)),
        Effect.forkScoped
      )
      for (let i = 1; i <= 50; i++) {
        yield* writer.register(entryOf(`f/${i}`))
        assert.strictEqual(yield* Queue.take(batches), i)
      }
    }))

  it.live("sees another connection's commit without the doorbell too, when it next looks", () =>
    Effect.gen(function*() {
      const path = yield* database
      const { manifest: reader } = yield* open(path, "20 millis")
      // The writer makes itself a new bell, which the reader does not watch.
      rmSync(`${path}-doorbell`)
      const { manifest: writer } = yield* open(path)
      const seen = yield* reader.events(yield* reader.head).pipe(Stream.take(1), Stream.runCollect, Effect.forkChild)
      yield* writer.register(entryOf("a"))
      assert.strictEqual((yield* Fiber.join(seen)).length, 1)
    }))

  it.live("waits for a file that another process has locked, and registers then", () =>
    Effect.gen(function*() {
      const path = yield* database
      const { manifest } = yield* open(path)
      const other = new DatabaseSync(path)
      yield* Effect.addFinalizer(() => Effect.sync(() => other.close()))
      other.exec("BEGIN IMMEDIATE")
      const registered = yield* manifest.register(entryOf("a")).pipe(Effect.forkChild)
      // The thread answers in the order asked: behind the third answer the first try has met the lock and given up.
      for (let i = 0; i < 3; i++) assert.strictEqual((yield* manifest.head).revision, 0)
      other.exec("ROLLBACK")
      assert.strictEqual((yield* Fiber.join(registered)).revision, 1)
    }))

  it.live("ends the streams that wait, and what is asked later, when it is closed", () =>
    Effect.gen(function*() {
      const path = yield* database
      const scope = yield* Scope.make()
      const { manifest } = yield* open(path, "1 hour").pipe(Scope.provide(scope))
      const reading = yield* Queue.unbounded<void>()
      const reader = yield* manifest.events(yield* manifest.head).pipe(
        Stream.runForEach(() => Queue.offer(reading, undefined)),
        Effect.flip,
        Effect.forkChild
      )
      yield* manifest.register(entryOf("a"))
      yield* Queue.take(reading)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* Fiber.join(reader))._tag, "Unavailable")
      assert.strictEqual((yield* Effect.flip(manifest.head))._tag, "Unavailable")
      assert.strictEqual((yield* Effect.flip(manifest.register(entryOf("b"))))._tag, "Unavailable")
      assert.strictEqual((yield* Effect.flip(manifest.remove(pathOf("a"), "gone")))._tag, "Unavailable")
    }))

  it.live("finishes the registrations that were asked for before it is closed", () =>
    Effect.gen(function*() {
      const path = yield* database
      const scope = yield* Scope.make()
      const { manifest } = yield* open(path).pipe(Scope.provide(scope))
      const answers = yield* Effect.forEach(
        Array.from({ length: 1000 }, (_, i) => entryOf(`f/${i}`)),
        (entry) => Effect.forkChild(manifest.register(entry), { startImmediately: true })
      )
      yield* Scope.close(scope, Exit.void)
      for (const answer of answers) yield* Fiber.join(answer)
      assert.strictEqual((yield* opened(path, (again) => again.head)).revision, 1000)
    }))
})

describe("ManifestSqlite, another history", () => {
  it.live("knows a backup that was put back: the head is below the cursor, and later the mark is another", () =>
    Effect.gen(function*() {
      const path = yield* database
      yield* opened(path, (manifest) => manifest.register(entryOf("a")))
      yield* Effect.sync(() => copyFileSync(path, `${path}-backup`))
      const { kept, lost } = yield* opened(path, (manifest) =>
        Effect.gen(function*() {
          const kept = yield* manifest.head
          yield* manifest.register(entryOf("b"))
          return { kept, lost: yield* manifest.head }
        }))
      yield* Effect.sync(() => copyFileSync(`${path}-backup`, path))
      yield* opened(path, (manifest) =>
        Effect.gen(function*() {
          assert.strictEqual(yield* whyLost(manifest, lost), "EpochChanged")
          // The same file again, at the same revision: still not the event that the cursor saw.
          yield* manifest.register(entryOf("b"))
          assert.strictEqual((yield* manifest.head).revision, lost.revision)
          assert.strictEqual(yield* whyLost(manifest, lost), "EpochChanged")
          // And when that row has given way to a tombstone.
          yield* manifest.remove(pathOf("b"), "gone")
          assert.strictEqual(yield* whyLost(manifest, lost), "EpochChanged")
          const [batch] = yield* manifest.events(kept).pipe(Stream.take(1), Stream.runCollect)
          assert.strictEqual(batch?.cursor.revision, 3)
        }))
    }))

  it.live("knows a backup that was put back when the tombstones and the marks around the cursor are gone", () =>
    Effect.gen(function*() {
      const path = yield* database
      yield* opened(path, (manifest) => manifest.register(entryOf("a")))
      yield* Effect.sync(() => copyFileSync(path, `${path}-backup`))
      const lost = yield* opened(path, (manifest) =>
        Effect.gen(function*() {
          yield* manifest.register(entryOf("b"))
          yield* manifest.remove(pathOf("b"), "gone")
          return yield* manifest.head
        }))
      yield* Effect.sync(() => copyFileSync(`${path}-backup`, path))
      const { collector, manifest } = yield* open(path)
      yield* manifest.register(entryOf("c"))
      yield* manifest.remove(pathOf("c"), "gone")
      const kept = yield* manifest.head
      assert.strictEqual(kept.revision, lost.revision)
      yield* manifest.register(entryOf("d"))
      yield* manifest.remove(pathOf("d"), "gone")
      yield* collector.collect(Revision.make(5), 0)
      assert.strictEqual(yield* whyLost(manifest, lost), "EpochChanged")
      assert.strictEqual(yield* whyLost(manifest, kept), "Compacted")
    }))

  it.live("knows a backup that was put back beneath its own open connection", () =>
    Effect.gen(function*() {
      const path = yield* database
      const { collector, manifest } = yield* open(path)
      yield* manifest.register(entryOf("a"))
      yield* copied(path, `${path}-backup`)
      yield* manifest.register(entryOf("b"))
      yield* manifest.remove(pathOf("b"), "gone")
      const lost = yield* manifest.head
      yield* copied(`${path}-backup`, path)
      yield* manifest.register(entryOf("c"))
      yield* manifest.register(entryOf("d"))
      yield* manifest.remove(pathOf("d"), "gone")
      yield* manifest.remove(pathOf("c"), "gone")
      yield* collector.collect(Revision.make(5), 0)
      assert.strictEqual(yield* whyLost(manifest, lost), "EpochChanged")
    }))

  it.live("begins one era for each connection that changes something, and none for those that read", () =>
    Effect.gen(function*() {
      const path = yield* database
      const one = yield* open(path)
      const two = yield* open(path)
      for (const name of ["a", "b", "c"]) {
        yield* one.manifest.register(entryOf(`one/${name}`))
        yield* two.manifest.register(entryOf(`two/${name}`))
      }
      yield* opened(path, (manifest) => manifest.head)
      let eras: Array<unknown> = []
      yield* withFile(path, (database) => {
        eras = database.prepare("SELECT seq FROM era ORDER BY seq").all().map((row) => row["seq"])
      })
      assert.deepStrictEqual(eras, [1, 2])
    }))

  it.live("knows a new file by its epoch", () =>
    Effect.gen(function*() {
      const head = yield* opened(yield* database, (manifest) =>
        Effect.andThen(manifest.register(entryOf("a")), manifest.head))
      yield* opened(yield* database, (manifest) =>
        Effect.gen(function*() {
          yield* manifest.register(entryOf("a"))
          assert.strictEqual(yield* whyLost(manifest, head), "EpochChanged")
        }))
    }))
})

describe("ManifestCollector", () => {
  it.live("drops old tombstones up to a revision; a cursor below them is compacted, one at them goes on", () =>
    Effect.gen(function*() {
      const { collector, manifest } = yield* open(yield* database)
      const cursors: Array<Cursor> = [yield* manifest.head]
      for (const path of ["a", "b", "c"]) {
        yield* manifest.register(entryOf(path))
        yield* manifest.remove(pathOf(path), "gone")
        cursors.push(yield* manifest.head)
      }
      yield* manifest.register(entryOf("d"))
      assert.strictEqual(yield* collector.collect(Revision.make(7), "1 hour"), 0)
      assert.strictEqual(yield* collector.collect(Revision.make(5), 0), 2)
      const [start, a, b, c] = cursors
      assert(start !== undefined && a !== undefined && b !== undefined && c !== undefined)
      assert.strictEqual(yield* whyLost(manifest, start), "Compacted")
      assert.deepStrictEqual(yield* manifest.lost(start), Option.some("Compacted" as const))
      assert.strictEqual(yield* whyLost(manifest, a), "Compacted")
      for (const cursor of [b, c]) {
        const [batch] = yield* manifest.events(cursor).pipe(Stream.take(1), Stream.runCollect)
        assert.strictEqual(batch?.cursor.revision, 7)
      }
      assert.strictEqual(yield* whyLost(manifest, { ...b, mark: "another" }), "EpochChanged")
      // Collected is forgotten: the path is free again. What was not collected stays removed.
      assert.strictEqual((yield* manifest.register(entryOf("a"))).revision, 8)
      assert.strictEqual((yield* Effect.flip(manifest.register(entryOf("c"))))._tag, "Gone")
    }))

  it.live("keeps the head and its mark when it drops the newest event of all", () =>
    Effect.gen(function*() {
      const path = yield* database
      const { collector, manifest } = yield* open(path)
      yield* manifest.register(entryOf("a"))
      yield* manifest.remove(pathOf("a"), "gone")
      const head = yield* manifest.head
      assert.strictEqual(yield* collector.collect(Revision.make(1000), 0), 1)
      assert.deepStrictEqual(yield* manifest.head, head)
      yield* manifest.register(entryOf("b"))
      const [batch] = yield* manifest.events(head).pipe(Stream.take(1), Stream.runCollect)
      assert.strictEqual(batch?.cursor.revision, 3)
    }))

  it.live("drops more tombstones than one transaction takes", () =>
    Effect.gen(function*() {
      const { collector, manifest } = yield* open(yield* database)
      for (let round = 0; round < 25; round++) {
        yield* manifest.replace({
          add: [],
          remove: Array.from({ length: 100 }, (_, i) => ({ path: pathOf(`${round}/${i}`), reason: "gone" }))
        })
      }
      assert.strictEqual(yield* collector.collect(Revision.make(2400), 0), 2400)
      assert.strictEqual((yield* Effect.flip(manifest.register(entryOf("24/7"))))._tag, "Gone")
    }))
})

describe("ManifestSqlite, a file that is not as it should be", () => {
  const openFailure = (path: string) => Effect.flip(Effect.scoped(open(path)))

  it.live("says of a file that is no database, and of a folder that is missing, why it can't open them", () =>
    Effect.gen(function*() {
      const path = yield* database
      yield* Effect.sync(() => writeFileSync(path, "no database, and long enough to be looked at".repeat(30)))
      const error = yield* openFailure(path)
      assert.strictEqual(error._tag, "Unavailable")
      assert.include(error.message, `${path}: the file is damaged or no database`)
      assert.strictEqual(statSync(path).size, 44 * 30)
      const missing = yield* openFailure(join(path, "..", "missing", "manifest.db"))
      assert.include(missing.message, "unable to open database file")
      assert.isFalse(existsSync(join(path, "..", "missing")))
    }))

  it.live("refuses a file of a newer version instead of writing to it", () =>
    Effect.gen(function*() {
      const path = yield* database
      yield* opened(path, (manifest) => manifest.head)
      yield* withFile(path, (file) => file.exec("UPDATE component SET version = 99 WHERE name = 'manifest'"))
      assert.include((yield* openFailure(path)).message, "newer version")
    }))

  it.live("names the field of a row that no manifest wrote, and goes on with the others", () =>
    Effect.gen(function*() {
      const path = yield* database
      const { manifest } = yield* open(path)
      yield* manifest.registerAll([entryOf("a"), entryOf("b")])
      const at = { ...yield* manifest.head, revision: Revision.make(0), mark: "" }
      for (
        const [column, value, field] of [
          ["sha256", "'zz'", "sha256"],
          ["lsn", "'many'", "lsn"],
          ["lsn", "'99999999999999999999'", "lsn"],
          ["path", "'../../etc/passwd'", "path"],
          ["size_bytes", "-1", "size_bytes"],
          ["created_at", "NULL", "created_at"]
        ] as const
      ) {
        yield* withFile(path, (file) =>
          file.exec(`CREATE TABLE kept AS SELECT * FROM entry WHERE path = 'b';
            UPDATE entry SET ${column} = ${value} WHERE path = 'b'`))
        const errors = [
          yield* Effect.flip(manifest.page(Option.none(), 10)),
          yield* Effect.flip(Stream.runDrain(manifest.events(at)))
        ]
        for (const error of errors) {
          assert.strictEqual(error._tag, "Unavailable")
          assert.include(error.message, `entry.${field}: `)
        }
        assert.isTrue(Option.isSome(yield* manifest.get(pathOf("a"))))
        // A registration that meets it is refused by itself; the others of its list are not.
        if (column !== "path") {
          const [met, other] = yield* manifest.registerAll([entryOf("b/below"), entryOf("a")])
          assert(met !== undefined && "_tag" in met && met._tag === "EntryRefused")
          assert.include(met.message, `entry.${field}: `)
          assert(other !== undefined && "revision" in other)
        }
        yield* withFile(path, (file) =>
          file.exec("DELETE FROM entry WHERE seq = 2; INSERT INTO entry SELECT * FROM kept; DROP TABLE kept"))
      }
      assert.strictEqual((yield* manifest.page(Option.none(), 10)).files.length, 2)
    }))
})
