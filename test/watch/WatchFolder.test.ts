import { DuckDBInstance } from "@duckdb/node-api"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Logger, Option, Stream } from "effect"
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { once } from "node:events"
import { mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { Backend, BackendError } from "../../src/ports/Backend.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import * as WatchFolder from "../../src/replication/WatchFolder.ts"
import { isTemporary, look, lookAgain } from "../../src/replication/WatchFolder.ts"
import { temporaryFolder } from "../support/folder.ts"
import { dataOf, living, type Node, publish, start, untilComplete } from "../support/realNode.ts"

const sha256Of = (file: string) => createHash("sha256").update(readFileSync(file)).digest("hex")

/** Writes a file as another program would. */
const lay = (folder: string, node: string, path: string, text = path): string => {
  const file = join(dataOf(folder, node), path)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, text)
  return file
}

/** Waits until a node has verified a path; gives its entry. */
const untilVerified = Effect.fnUntraced(function*(node: Node, path: string) {
  const inventory = Context.get(node, Inventory)
  const found = yield* inventory.changes.pipe(
    Stream.mapEffect(() => inventory.verified(FilePath.make(path))),
    Stream.filter(Option.isSome),
    Stream.runHead
  )
  return Option.getOrThrow(Option.flatten(found)).file.entry
})

const isRegistered = (node: Node, path: string) =>
  Effect.map(Context.get(node, Manifest).get(FilePath.make(path)), Option.isSome)

/** Lays a file down and waits until it is registered: whatever lay there before it was looked at as well. */
const untilLookedAt = (folder: string, node: Node, name: string) =>
  Effect.suspend(() => {
    lay(folder, "writer", name)
    return untilVerified(node, name)
  })

/** In a container the writers are out of sight; but these close their files at once, and are not waited for. */
const watching = { watch: true, watchUnseenSettleMillis: 2000 }

// They wait most of the time.
describe.concurrent("the watch folder", () => {
  it.live("registers a file that was renamed into place, and other nodes pull it", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* start(folder, "writer", watching)
      const reader = yield* start(folder, "reader")
      const outside = join(folder, "elsewhere")
      writeFileSync(outside, "whole at once")
      const file = join(dataOf(folder, "writer"), "db", "cpu", "a.bin")
      mkdirSync(dirname(file), { recursive: true })
      renameSync(outside, file)
      const entry = yield* untilVerified(writer, "db/cpu/a.bin")
      assert.deepStrictEqual([entry.sha256, entry.database, entry.measurement], [sha256Of(file), "db", "cpu"])
      yield* untilComplete(reader)
      assert.strictEqual(readFileSync(join(dataOf(folder, "reader"), "db", "cpu", "a.bin"), "utf8"), "whole at once")
    }))

  it.live("registers what DuckDB's COPY writes, as it is when it is done", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* start(folder, "writer", watching)
      const file = join(dataOf(folder, "writer"), "db", "cpu", "2026", "04", "11", "14", "a.parquet")
      mkdirSync(dirname(file), { recursive: true })
      yield* Effect.promise(async () => {
        const connection = await (await DuckDBInstance.create()).connect()
        await connection.run(`COPY (SELECT range AS n, random() AS x FROM range(500000)) TO '${file}' (FORMAT parquet)`)
        connection.closeSync()
      })
      const entry = yield* untilVerified(writer, "db/cpu/2026/04/11/14/a.parquet")
      assert.strictEqual(entry.sha256, sha256Of(file))
      assert.strictEqual(entry.partition_time, "2026-04-11T14:00:00Z")
    }))

  it.live("never registers half of a file, however long its writer rests with it open", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* start(folder, "writer", watching)
      const file = lay(folder, "writer", "db/slow.bin", "")
      const script = `
        const fs = require("node:fs"), fd = fs.openSync(process.argv[1], "a")
        fs.writeSync(fd, "first half, ")
        process.stdin.once("data", () => { fs.writeSync(fd, "second half"); fs.closeSync(fd); process.exit() })
      `
      const child = spawn(process.execPath, ["-e", script, file], { stdio: ["pipe", "ignore", "inherit"] })
      yield* Effect.addFinalizer(() => Effect.sync(() => child.kill("SIGKILL")))
      yield* untilLookedAt(folder, writer, "db/later-1")
      yield* untilLookedAt(folder, writer, "db/later-2")
      assert.isFalse(yield* isRegistered(writer, "db/slow.bin"))
      child.stdin.write("go on")
      yield* Effect.promise(() => once(child, "exit"))
      const entry = yield* untilVerified(writer, "db/slow.bin")
      assert.strictEqual(entry.sha256, createHash("sha256").update("first half, second half").digest("hex"))
    }))

  it.live("takes no Parquet file that does not end as one, although nobody has it open", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* start(folder, "writer", watching)
      const file = lay(folder, "writer", "db/half.parquet", "PAR1 and no end yet")
      yield* untilLookedAt(folder, writer, "db/later")
      assert.isFalse(yield* isRegistered(writer, "db/half.parquet"))
      writeFileSync(file, "PAR1 and its end PAR1")
      assert.strictEqual((yield* untilVerified(writer, "db/half.parquet")).sha256, sha256Of(file))
    }))

  it.live("registers a burst of a thousand files, in folders that are made meanwhile, each once", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* start(folder, "writer", watching)
      const paths = Array.from({ length: 1000 }, (_, n) => `db/m${n % 20}/${n % 7}/${n}.bin`)
      for (const path of paths) lay(folder, "writer", path)
      const inventory = Context.get(writer, Inventory)
      yield* inventory.changes.pipe(
        Stream.takeUntil(({ verified }) => verified.files === paths.length),
        Stream.runDrain
      )
      assert.strictEqual(Number((yield* Context.get(writer, Manifest).head).revision), paths.length)
    }))

  it.live("finds at its start what was written while the node was down", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      yield* living(folder, "writer", (node) => publish(node, "db/ours", "published"), watching)
      lay(folder, "writer", "db/while-down", "written while the node was down")
      yield* living(folder, "writer", (node) => untilVerified(node, "db/while-down"), watching)
    }))

  it.live("leaves alone what was deleted, what is hidden or temporary, links, and the node's own files", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* start(folder, "writer", { ...watching, statePath: Option.none() })
      const manifest = Context.get(writer, Manifest)
      yield* publish(writer, "db/deleted", "published")
      yield* manifest.remove(FilePath.make("db/deleted"), "by the test")
      const inventory = Context.get(writer, Inventory)
      yield* inventory.changes.pipe(
        Stream.mapEffect(() => inventory.unknown([FilePath.make("db/deleted")])),
        Stream.takeUntil((unknown) => unknown.length === 1),
        Stream.runDrain
      )
      const before = (yield* manifest.head).revision
      lay(folder, "writer", "db/deleted", "the same name again")
      lay(folder, "writer", "db/.hidden")
      lay(folder, "writer", "db/copy.tmp")
      lay(folder, "writer", ".replication/staging/0/stray")
      const target = join(folder, "secret")
      writeFileSync(target, "of somebody else")
      symlinkSync(target, join(dataOf(folder, "writer"), "db", "link"))
      yield* untilLookedAt(folder, writer, "db/later-1")
      yield* untilLookedAt(folder, writer, "db/later-2")
      assert.strictEqual(Number((yield* manifest.head).revision) - Number(before), 2)
      assert.strictEqual(readFileSync(join(dataOf(folder, "writer"), "db", "deleted"), "utf8"), "the same name again")
    }))

  it.live("says once that a file can't be looked at, tries again, and registers it when it can", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const node = yield* start(folder, "writer", { reconcileIntervalMillis: 0 })
      const backend = Context.get(node, Backend)
      let failures = 0
      const ill: typeof backend = {
        ...backend,
        seesWriters: Effect.succeed(false),
        writing: () => Effect.succeed(new Map()),
        stat: (path) =>
          path !== "db/a" || failures++ >= 3
            ? backend.stat(path)
            : Effect.fail(new BackendError({ operation: "stat", path, reason: "Io", detail: "EIO" }))
      }
      lay(folder, "writer", "db/a")
      const logs: Array<string> = []
      const options = { settleMillis: 0, unseenSettleMillis: 61_000, walkIntervalMillis: 0, restMillis: 0 }
      yield* Layer.build(
        WatchFolder.layer(options).pipe(Layer.provide(Layer.succeedContext(Context.add(node, Backend, ill))))
      ).pipe(Effect.provide(Logger.layer([Logger.make(({ message }) => logs.push(String(message)))])))
      yield* untilVerified(node, "db/a")
      assert.isAbove(failures, 3)
      assert.lengthOf(logs.filter((line) => /^db\/a is not registered yet, and is tried again: .*EIO/.test(line)), 1)
      assert.match(logs[0] ?? "", /^this node can't see .*1m 1s \(storage\.watch_unseen_settle_ms\)/)
    }))

  it.live("sets aside what was written under a path that another node has registered", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* start(folder, "writer", watching)
      const other = yield* start(folder, "other", watching)
      lay(folder, "writer", "db/a", "of the writer")
      lay(folder, "other", "db/a", "of the other")
      yield* Effect.all([untilVerified(writer, "db/a"), untilVerified(other, "db/a")], { concurrency: 2 })
      yield* Effect.all([untilComplete(writer), untilComplete(other)], { concurrency: 2 })
      const shown = ["writer", "other"].map((name) => readFileSync(join(dataOf(folder, name), "db", "a"), "utf8"))
      assert.strictEqual(shown[0], shown[1])
    }))
})

describe("a look at a file", () => {
  const at = (mtime: number, size = 10) => ({
    path: FilePath.make("db/a"),
    size,
    mtime: BigInt(mtime) * 1_000_000n,
    inode: 1n
  })
  const fresh = { stat: undefined, since: 0, notBefore: 0, told: false }

  it("is not enough when it is the first, or when the file has changed since", () => {
    assert.isFalse(look(fresh, at(0), 10_000, 2000).settled)
    const { candidate } = look(fresh, at(9000), 10_000, 2000)
    assert.isFalse(look(candidate, at(9500), 60_000, 2000).settled)
    assert.isFalse(look(candidate, at(9000, 11), 60_000, 2000).settled)
  })

  it("is enough when nothing has changed for long enough, or when the file is old", () => {
    const { candidate } = look(fresh, at(9000), 10_000, 2000)
    assert.isFalse(look(candidate, at(9000), 10_500, 2000).settled)
    assert.isTrue(look(candidate, at(9000), 12_000, 2000).settled)
    assert.isTrue(look(look(fresh, at(0), 10_000, 2000).candidate, at(0), 10_500, 2000).settled)
    // A clock that is ahead: only what was seen counts.
    const ahead = look(fresh, at(99_000), 10_000, 2000).candidate
    assert.deepStrictEqual([10_500, 12_000].map((now) => look(ahead, at(99_000), now, 2000).settled), [false, true])
  })

  it("is asked for ever more rarely who has it open, and waited for long when that is not told", () => {
    const rest = (since: number, now: number) => (lookAgain("Open", { since, mtime: since }, now, 60_000) ?? 0) - now
    assert.deepStrictEqual([rest(0, 2000), rest(0, 8000), rest(0, 3_600_000)], [1000, 4000, 10_000])
    assert.strictEqual(lookAgain(undefined, { since: 9000, mtime: 9000 }, 10_000, 60_000), undefined)
    assert.strictEqual(lookAgain("Unknown", { since: 9000, mtime: 9000 }, 10_000, 60_000), 69_000)
    assert.strictEqual(lookAgain("Unknown", { since: 9000, mtime: 9000 }, 69_000, 60_000), undefined)
    // It was written long ago and appears now; and a clock that is ahead.
    assert.strictEqual(lookAgain("Unknown", { since: 100_000, mtime: 0 }, 101_000, 60_000), undefined)
    assert.strictEqual(lookAgain("Unknown", { since: 100_000, mtime: 999_000 }, 101_000, 60_000), 160_000)
  })

  it("knows names of what is not finished", () => {
    for (const name of ["a/.b", ".a/b", "a/b.tmp", "a/tmp_b.parquet", "a~", "a.PART", "_temporary/0/a", "x.db.wal"]) {
      assert.isTrue(isTemporary(name), name)
    }
    for (const name of ["a/b", "a/tmpl.parquet", "a.parts", "b.parquet"]) assert.isFalse(isTemporary(name), name)
  })
})
