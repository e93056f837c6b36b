import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Option, Schedule, Stream } from "effect"
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { cp, open, rm } from "node:fs/promises"
import { join } from "node:path"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import * as ManifestSqlite from "../src/manifest/ManifestSqlite.ts"
import { FilePath } from "../src/ports/FilePath.ts"
import { Inventory, type Progress } from "../src/ports/Inventory.ts"
import { Manifest, ManifestCollector } from "../src/ports/Manifest.ts"
import { CatchUp } from "../src/replication/CatchUp.ts"
import { LocalCheck } from "../src/replication/LocalCheck.ts"
import { Puller } from "../src/replication/Puller.ts"
import { Readiness } from "../src/replication/Readiness.ts"
import { Registrar } from "../src/replication/Registrar.ts"
import { Scrub } from "../src/replication/Scrub.ts"
import { bytes, sha256Of } from "../src/testing/backend/support.ts"
import { entryOf } from "./support/entries.ts"
import { temporaryFolder } from "./support/folder.ts"
import { dataOf, living, type Node, publish, start, stateOf, untilComplete } from "./support/realNode.ts"

const mib = 1024 * 1024
const at = (folder: string, name: string, path: string) => join(dataOf(folder, name), path)
const pulledBytes = (node: Node) => Effect.map(Context.get(node, Puller).stats, ({ bytes }) => bytes)

const until = (node: Node, holds: (progress: Progress) => boolean) =>
  Stream.runDrain(Stream.takeUntil(Context.get(node, Inventory).changes, holds))

/** Waits until a node says that it is ready. */
const untilReady = (node: Node) =>
  Stream.runDrain(Stream.takeUntil(Context.get(node, Readiness).changes, ({ ready }) => ready))

/** Two nodes that have held these files; both have ended. */
const heldByBoth = (folder: string, files: ReadonlyArray<readonly [string, Uint8Array]>) =>
  living(folder, "writer", (writer) =>
    Effect.gen(function*() {
      for (const [path, content] of files) yield* publish(writer, path, content)
      yield* living(folder, "reader", untilComplete)
    }))

/** What a manifest's users and its collector do: past the revisions that a node has seen of another history. */
const goOnAndCollect = (database: string) =>
  Effect.scoped(Effect.gen(function*() {
    const context = yield* Layer.build(ManifestSqlite.layer({ path: database }))
    const manifest = Context.get(context, Manifest)
    for (const name of ["x", "y", "z"]) {
      yield* manifest.register(entryOf(`db/${name}`))
      yield* manifest.remove(FilePath.make(`db/${name}`), "retention")
    }
    const { revision } = yield* manifest.head
    assert.strictEqual(yield* Context.get(context, ManifestCollector).collect(revision, 0), 3)
  }))

/** Bytes of the heap that are in use once everything is collected that can be. */
const heapUsed = (): number => {
  setFlagsFromString("--expose-gc")
  const collect: unknown = runInNewContext("gc")
  if (typeof collect === "function") collect()
  return process.memoryUsage().heapUsed
}

describe("a node", () => {
  for (const right of [true, false]) {
    const what = right ? "takes it without a fetch when it is right" : "drops it and pulls the file when it is garbage"
    it.live(`finds a whole staging file at its start, hashes it, and ${what}`, () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const content = bytes(2 * mib + 17, 3)
        const writer = yield* start(folder, "writer")
        yield* publish(writer, "db/a", content)
        const key = createHash("sha256").update("db/a").digest("hex")
        const staging = join(stateOf(folder, "reader"), "staging", key.slice(0, 1))
        mkdirSync(staging, { recursive: true })
        writeFileSync(
          join(staging, `${key}.pull.${sha256Of(content)}`),
          right ? content : bytes(content.length, 4)
        )
        const reader = yield* start(folder, "reader")
        yield* untilComplete(reader)
        assert.isTrue(readFileSync(at(folder, "reader", "db/a")).equals(content))
        const came = yield* pulledBytes(reader)
        if (right) assert.strictEqual(came, 0)
        else assert.isAtLeast(came, content.length)
      }))
  }

  it.live("finds at its start, and while it runs, files that were deleted behind its back, and pulls them", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const files = ["db/a", "db/b", "db/c"].map((path, n) => [path, bytes(5000, n + 1)] as const)
      yield* heldByBoth(folder, files)
      rmSync(at(folder, "reader", "db/a"))
      const writer = yield* start(folder, "writer")
      const head = yield* Context.get(writer, Manifest).head
      const reader = yield* start(folder, "reader")
      yield* untilReady(reader)
      assert.isTrue(existsSync(at(folder, "reader", "db/a")))
      // It goes on from where it stood: nothing was walked for that.
      assert.deepStrictEqual((yield* Context.get(reader, CatchUp).status).started, Option.none())
      rmSync(join(dataOf(folder, "reader"), "db"), { recursive: true })
      yield* Context.get(reader, LocalCheck).check
      yield* until(reader, ({ owed }) => owed.files === 0)
      for (const [path, content] of files) assert.isTrue(readFileSync(at(folder, "reader", path)).equals(content))
      assert.deepStrictEqual(yield* Context.get(writer, Manifest).head, head)
      assert.strictEqual(yield* pulledBytes(reader), 4 * 5000)
    }))

  it.live("pulls its own files back from others when its data folder was emptied", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      yield* heldByBoth(folder, [["db/a", bytes(5000, 1)], ["db/b", bytes(5000, 2)]])
      rmSync(join(dataOf(folder, "writer"), "db"), { recursive: true })
      yield* start(folder, "reader")
      const writer = yield* start(folder, "writer")
      yield* untilReady(writer)
      assert.isTrue(readFileSync(at(folder, "writer", "db/a")).equals(bytes(5000, 1)))
      assert.isTrue(Option.isSome(yield* Context.get(writer, Manifest).get(FilePath.make("db/a"))))
    }))

  it.live("finds a flipped bit by verify, serves the file no more, and heals it from a peer", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const content = bytes(mib + 5, 7)
      yield* heldByBoth(folder, [["db/a", content], ["db/b", bytes(100, 8)]])
      yield* Effect.promise(async () => {
        const file = await open(at(folder, "reader", "db/a"), "r+")
        const { atime, mtime } = await file.stat()
        await file.write(new Uint8Array([(content[777] ?? 0) ^ 1]), 0, 1, 777)
        await file.utimes(atime, mtime)
        await file.close()
      })
      const path = FilePath.make("db/a")
      yield* living(folder, "reader", (reader) =>
        Effect.gen(function*() {
          // Nobody is there to heal it, so that what is said meanwhile can be seen.
          const report = yield* Context.get(reader, Scrub).verify()
          const { started, ...found } = report
          assert.isAbove(started, 0)
          assert.deepStrictEqual(found, { checked: 2, bytes: mib + 105, damaged: 1, missing: 0 })
          assert.deepStrictEqual(yield* Context.get(reader, Inventory).verified(path), Option.none())
          assert.isFalse(existsSync(at(folder, "reader", "db/a")))
          assert.strictEqual(readdirSync(join(stateOf(folder, "reader"), "quarantine")).length, 1)
          assert.isFalse(yield* Context.get(reader, Readiness).ready)
          yield* start(folder, "writer")
          yield* until(reader, ({ owed }) => owed.files === 0)
          assert.isTrue(readFileSync(at(folder, "reader", "db/a")).equals(content))
          assert.deepInclude(yield* Context.get(reader, Scrub).verify(), { ...found, damaged: 0 })
        }))
    }))

  it.live("takes the files of a folder that was copied there by hand, and fetches not a byte of them", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* start(folder, "writer")
      for (let n = 0; n < 20; n++) yield* publish(writer, `db/${n}`, bytes(1000 + n, n + 1))
      yield* Effect.promise(() =>
        cp(join(dataOf(folder, "writer"), "db"), join(dataOf(folder, "reader"), "db"), { recursive: true })
      )
      const reader = yield* start(folder, "reader")
      yield* untilComplete(reader)
      const { bytes: came, pulled, skippedLocal } = yield* Context.get(reader, Puller).stats
      assert.deepStrictEqual([came, pulled, skippedLocal], [0, 0, 20])
    }))

  it.live("that lost its inventory takes its folder again by hashing, and fetches only what is wrong", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const files = Array.from({ length: 10 }, (_, n) => [`db/${n}`, bytes(1000, n + 1)] as const)
      yield* heldByBoth(folder, files)
      const inventory = (end: string) => join(stateOf(folder, "reader"), `inventory.db${end}`)
      yield* Effect.promise(() => Promise.all(["", "-wal", "-shm"].map((end) => rm(inventory(end), { force: true }))))
      writeFileSync(at(folder, "reader", "db/4"), bytes(1000, 99))
      yield* start(folder, "writer")
      const reader = yield* start(folder, "reader")
      yield* untilComplete(reader)
      assert.strictEqual(yield* pulledBytes(reader), 1000)
      for (const [path, content] of files) assert.isTrue(readFileSync(at(folder, "reader", path)).equals(content))
    }))

  it.live("does not start when its data folder is not the one that its inventory knows, and says what to do", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      yield* heldByBoth(folder, [["db/a", bytes(10)]])
      const data = dataOf(folder, "reader")
      // The disk is not mounted: an empty folder stands there.
      renameSync(data, `${data}.away`)
      const lost = yield* Effect.flip(Effect.scoped(start(folder, "reader")))
      assert(lost._tag === "IdentityError")
      assert.strictEqual(lost.reason, "FolderLost")
      assert.include(lost.message, "storage.local_path")
      // Another node's folder.
      rmSync(data, { recursive: true })
      yield* Effect.promise(() => cp(dataOf(folder, "writer"), data, { recursive: true }))
      const other = yield* Effect.flip(Effect.scoped(start(folder, "reader")))
      assert(other._tag === "IdentityError")
      assert.strictEqual(other.reason, "Different")
      // Its own again.
      rmSync(data, { recursive: true })
      renameSync(`${data}.away`, data)
      yield* living(folder, "reader", untilReady)
    }))

  it.live("carries out at its start what was deleted while it was down, and its staging bytes go too", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const content = bytes(2 * mib, 1)
      yield* heldByBoth(folder, [["db/a", content], ["db/b", bytes(100, 2)]])
      const key = createHash("sha256").update("db/a").digest("hex")
      const staging = join(stateOf(folder, "reader"), "staging", key.slice(0, 1))
      writeFileSync(join(staging, `${key}.pull.${sha256Of(content)}`), content.subarray(0, mib))
      const writer = yield* start(folder, "writer")
      yield* Context.get(writer, Manifest).remove(FilePath.make("db/a"), "retention")
      const reader = yield* start(folder, "reader", { deleteGraceMillis: 0 })
      yield* until(reader, ({ unlinking, verified }) => verified.files === 1 && unlinking === 0)
      assert.isFalse(existsSync(at(folder, "reader", "db/a")))
      assert.deepStrictEqual(readdirSync(staging), [])
      assert.isTrue(existsSync(at(folder, "reader", "db/b")))
    }))

  it.live("reports as orphans what only another manifest knew, and deletes none of it", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      yield* heldByBoth(folder, [["db/a", bytes(10)]])
      // Another manifest altogether.
      for (const end of ["", "-wal", "-shm"]) rmSync(join(folder, `manifest.db${end}`), { force: true })
      const reader = yield* start(folder, "reader")
      yield* until(reader, ({ cursor }) => Option.exists(cursor, ({ revision }) => revision === 0))
      assert.strictEqual((yield* Context.get(reader, CatchUp).status).orphans, 1)
      assert.isTrue(existsSync(at(folder, "reader", "db/a")))
    }))

  it.live("counts orphans behind a restart too, and those no more that are registered again or taken away", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      yield* heldByBoth(folder, [["db/a", bytes(10)], ["db/b", bytes(10)], ["db/c", bytes(10)]])
      for (const end of ["", "-wal", "-shm"]) rmSync(join(folder, `manifest.db${end}`), { force: true })
      writeFileSync(at(folder, "reader", "db/stranger"), "")
      const orphans = (node: Node) => Effect.map(Context.get(node, CatchUp).status, ({ orphans }) => orphans)
      const untilCounted = (node: Node, files: number) =>
        Effect.repeat(orphans(node), { until: (count) => count === files, schedule: Schedule.spaced("20 millis") })
      yield* living(folder, "reader", (reader) => untilCounted(reader, 4))
      const reader = yield* start(folder, "reader")
      assert.strictEqual(yield* orphans(reader), 4)
      yield* publish(reader, "db/a", bytes(10))
      yield* untilCounted(reader, 3)
      yield* Context.get(reader, Registrar).adopt({ path: "db/b" })
      yield* untilCounted(reader, 2)
      rmSync(at(folder, "reader", "db/c"))
      yield* Context.get(reader, LocalCheck).check
      yield* untilCounted(reader, 1)
      assert.deepStrictEqual((yield* Context.get(reader, CatchUp).status).started, Option.none())
    }))

  for (const collected of [false, true]) {
    const since = collected ? ", gone on with, and its tombstones collected" : ""
    it.live(`deletes nothing when a backup of the manifest is put back${since}, and is ready by what that asks for`, () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const database = join(folder, "manifest.db")
        yield* living(folder, "writer", (writer) => publish(writer, "db/a", "a"))
        yield* Effect.promise(() => cp(database, join(folder, "backup")))
        yield* living(
          folder,
          "writer",
          (writer) => Effect.andThen(publish(writer, "db/b", "b"), publish(writer, "db/c", "c"))
        )
        for (const end of ["", "-wal", "-shm"]) rmSync(`${database}${end}`, { force: true })
        yield* Effect.promise(() => cp(join(folder, "backup"), database))
        if (collected) yield* goOnAndCollect(database)
        const writer = yield* start(folder, "writer")
        yield* untilReady(writer)
        for (const path of ["db/a", "db/b", "db/c"]) assert.isTrue(existsSync(at(folder, "writer", path)), path)
        assert.strictEqual((yield* Context.get(writer, CatchUp).status).orphans, 2)
        // What is published again is registered again, and not taken as known.
        yield* publish(writer, "db/b", "b")
        assert.isTrue(Option.isSome(yield* Context.get(writer, Manifest).get(FilePath.make("db/b"))))
      }))
  }

  it.live(
    "pulls 5,000 files over a queue of 64, in memory that does not grow with them",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const paths = Array.from({ length: 5_000 }, (_, n) => `db/cpu/${n % 100}/${n}`)
        for (const path of paths) {
          mkdirSync(join(at(folder, "writer", path), ".."), { recursive: true })
          writeFileSync(at(folder, "writer", path), path)
        }
        const writer = yield* start(folder, "writer", { pullWorkers: 16 })
        yield* Context.get(writer, Manifest).registerAll(paths.map((path) => entryOf(path)))
        yield* until(writer, ({ verified }) => verified.files === paths.length)

        const reader = yield* start(folder, "reader", { queueSize: 64, pullWorkers: 16 })
        let deepest = 0
        let early = 0
        yield* Stream.runDrain(
          Stream.takeUntilEffect(Context.get(reader, Inventory).changes, ({ cursor, verified }) =>
            Effect.map(Context.get(reader, Puller).stats, ({ queueDepth }) => {
              deepest = Math.max(deepest, queueDepth)
              if (early === 0 && verified.files >= 1000) {
                early = heapUsed()
              }
              return Option.isSome(cursor) && verified.files === paths.length
            }))
        )
        const grown = heapUsed() - early
        // Those that wait for a worker, as many that gather for their peer, and four times 64 that are about to go.
        assert.isAtMost(deepest, 6 * 64)
        // Less than a quarter of a KiB for each of 4,000 files more: an entry that was kept would take more.
        assert.isBelow(grown, mib)
        const { attempts, bytes: came, pulled } = yield* Context.get(reader, Puller).stats
        const total = paths.reduce((sum, { length }) =>
          sum + length, 0)
        assert.deepStrictEqual([attempts, pulled, came], [paths.length, paths.length, total])
        assert.strictEqual((yield* Context.get(reader, CatchUp).status).walked, paths.length)
        for (const path of paths) {
          assert.strictEqual(readFileSync(at(folder, "reader", path), "utf8"), path)
        }
      }),
    120_000
  )
})
