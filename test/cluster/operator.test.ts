/** The operator's questions, as processes beside a node or without one. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Option, Schema } from "effect"
import { existsSync, readFileSync, rmSync, statSync, utimesSync } from "node:fs"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { StatusReport } from "../../src/cli/status.ts"
import * as FolderLock from "../../src/sqlite/FolderLock.ts"
import { temporaryFolder } from "../support/folder.ts"
import { lineOf, run, start } from "./command.ts"
import { configure, list } from "./configure.ts"

const decodeReport = Schema.decodeUnknownEffect(Schema.fromJsonString(StatusReport))

/** Publishes a file of these bytes by a node that does not run. */
const publish = Effect.fnUntraced(function*(folder: string, config: string, path: string, content: string) {
  const source = join(folder, "source")
  yield* Effect.promise(() => writeFile(source, content))
  const { code, stderr } = yield* run(["publish", source, "--as", path, "--config", config])
  assert.strictEqual(code, 0, stderr)
})

/** A node that runs until it owes `files`. */
const startOwing = Effect.fnUntraced(function*(config: string, files: number) {
  const node = yield* start(["node", "--config", config, "--supervised"])
  yield* lineOf(node, new RegExp(`"owed":\\{"files":${files},`))
  return node
})

describe("file-replication status", () => {
  it.live(
    "says what a node's files say, running or not, and what the running node says of itself",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const config = yield* configure(folder, "node")
        yield* publish(folder, config, "db/a", "ten bytes!")
        yield* list(folder, config, "db/lost", "gone")

        const node = yield* start(["node", "--config", config, "--supervised"])
        const url = new URL(/(http:\S+)\/health/.exec(yield* lineOf(node, /it serves http/))?.[1] ?? "")
        yield* lineOf(node, /"owed":\{"files":1,/)
        const live = yield* run(["status", "--config", config], { ARC_SERVER_PORT: url.port })
        assert.strictEqual(live.code, 0, live.stderr)
        assert.match(live.stdout, /^node\n {2}state +not ready: 1 file is owed, 4 bytes, and no peer is known/)
        assert.match(live.stdout, /verified +1 file, 10 B/)
        assert.match(live.stdout, /owed +1 file, 4 B, the oldest since \d{4}-/)
        assert.match(live.stdout, /manifest +revision 2 of 2/)
        node.child.kill("SIGSTOP")
        const frozen = yield* run(["status", "--config", config], { ARC_SERVER_PORT: url.port })
        assert.match(frozen.stdout, /state +no answer from \S+, though a process runs on its folder: /)
        node.child.kill("SIGCONT")
        node.child.kill("SIGTERM")
        assert.strictEqual(yield* node.exit, 0)

        const still = yield* run(["status", "--json", "--config", config], { ARC_SERVER_PORT: url.port })
        assert.strictEqual(still.code, 0, still.stderr)
        const report = yield* decodeReport(still.stdout)
        assert.deepStrictEqual([report.live, report.node, report.owed, report.verified], [
          Option.none(),
          "node",
          { files: 1, bytes: 4 },
          { files: 1, bytes: 10 }
        ])
      }),
    120_000
  )

  it.live("says in one sentence that no node ran with a configuration, and makes no file", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const config = yield* configure(folder, "node")
      // An export of nothing would pass for a copy of everything.
      for (const command of [["status"], ["manifest", "export"]]) {
        const { code, stderr, stdout } = yield* run([...command, "--config", config])
        assert.deepStrictEqual([code, stdout], [1, ""])
        assert.match(stderr, /^file-replication: no node has run with this configuration: there is no .*\n$/)
      }
      assert.isFalse(existsSync(join(folder, "manifest.db")))
      assert.isFalse(existsSync(join(folder, "node", "data")))
    }))
})

describe("file-replication why", () => {
  it.live(
    "says of an owed file what the manifest says, since when, and when it is tried next",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const config = yield* configure(folder, "node")
        yield* list(folder, config, "db/lost", "gone")
        yield* startOwing(config, 1)
        const { code, stderr, stdout } = yield* run(["why", "db/lost", "--config", config])
        assert.strictEqual(code, 0, stderr)
        assert.match(stdout, /^db\/lost\n {2}manifest +revision 1, 4 B, sha256 [0-9a-f]{64}, from elsewhere at 2026-/)
        assert.match(stdout, /here +owed since \d{4}-/)
        assert.match(stdout, /tried +\d rounds? of attempts in vain; next \d{4}-/)
        assert.match(stdout, /on disk +no file under this name/)
        const json = yield* run(["why", "db/lost", "--json", "--config", config])
        const known: unknown = JSON.parse(json.stdout)
        assert.nestedPropertyVal(known, "manifest.state", "listed")
        assert.nestedPropertyVal(known, "local.state", "owed")
        assert.nestedPropertyVal(known, "on_disk", null)
      }),
    120_000
  )

  it.live(
    "says that a file is verified here, that a path is in no manifest, and that a path is none",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const config = yield* configure(folder, "node")
        yield* publish(folder, config, "db/a", "ten bytes!")
        const held = yield* run(["why", "db/a", "--config", config])
        assert.match(held.stdout, /here +verified, 10 B, sha256 [0-9a-f]{64}/)
        assert.match(held.stdout, /on disk +10 B, changed [^\n]+\n$/)
        const data = join(folder, "node", "data")
        yield* Effect.promise(() => writeFile(join(data, "db/a"), "TEN bytes!"))
        assert.match(
          (yield* run(["why", "db/a", "--config", config])).stdout,
          /here +verified, 10 B.*\n.*\n +suspect +what lies there has changed since, and may be wrong; the next check tells/
        )
        rmSync(join(data, "db/a"))
        assert.match(
          (yield* run(["why", "db/a", "--config", config])).stdout,
          /on disk +no file under this name\n +suspect +it is not there any more; /
        )
        const unknown = yield* run(["why", "db/b", "--config", config])
        assert.match(unknown.stdout, /manifest +not in it\n +here +nothing is known of it/)
        const wrong = yield* run(["why", "../a", "--config", config])
        assert.strictEqual(wrong.code, 2)
        assert.match(wrong.stderr, /^file-replication: \.\.\/a is no path of a replicated file: .*"\.\.".*\n$/)
      }),
    120_000
  )

  it.live("names each peer with its last answer", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const config = yield* configure(folder, "node")
      yield* list(folder, config, "db/lost", "gone")
      const other = yield* start(["node", "--config", yield* configure(folder, "other")])
      yield* lineOf(other, /listens on/)
      const node = yield* start(["node", "--config", config, "--supervised"], {
        ARC_CLUSTER_REPLICATION_RETRY_MAX_ATTEMPTS: "1"
      })
      yield* lineOf(node, /"failed":[1-9]/)
      const { stdout } = yield* run(["why", "db/lost", "--config", config])
      assert.match(stdout, /other +FileNotOnPeer \(\d{4}-.*\): other does not hold db\/lost/)
    }), 60_000)
})

describe("file-replication verify", () => {
  it.live(
    "refuses to run twice at once on one node's files: the two would share one position",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const config = yield* configure(folder, "node")
        yield* publish(folder, config, "db/a", "some bytes")
        yield* FolderLock.acquire(join(folder, "node", "data", ".replication", "verify"))
        const second = yield* run(["verify", "--config", config])
        assert.strictEqual(second.code, 1)
        assert.include(second.stderr, "another verify reads these files; wait until it has ended")
      }),
    60_000
  )

  it.live(
    "finds a flipped bit of the same size and a missing file, sets aside and owes them, and says so",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const config = yield* configure(folder, "node")
        const data = join(folder, "node", "data")
        for (const path of ["db/a", "db/b", "db/c"]) yield* publish(folder, config, path, `the bytes of ${path}`)
        const sound = yield* run(["verify", "--config", config])
        assert.strictEqual(sound.code, 0)
        assert.match(sound.stdout, /^3 files checked since \d{4}-\S+Z, 51 B read: 0 damaged, 0 missing\n$/)

        const { mtime } = statSync(join(data, "db/a"))
        yield* Effect.promise(() => writeFile(join(data, "db/a"), "the bytes of db/A"))
        utimesSync(join(data, "db/a"), mtime, mtime)
        rmSync(join(data, "db/b"))
        const damaged = yield* run(["verify", "--json", "--config", config])
        assert.strictEqual(damaged.code, 1)
        assert.deepInclude(JSON.parse(damaged.stdout), { damaged: 1, missing: 1 })
        assert.match(damaged.stderr, /\nfile-replication: 1 file was damaged and set aside, 1 file was missing; .*\n$/)
        assert.isFalse(existsSync(join(data, "db/a")))
        assert.match((yield* run(["why", "db/a", "--config", config])).stdout, /here +owed since/)
        const { owed } = yield* decodeReport((yield* run(["status", "--json", "--config", config])).stdout)
        assert.strictEqual(owed.files, 2)
        const again = yield* run(["verify", "--config", config])
        assert.strictEqual(again.code, 0)
        assert.match(again.stdout, /^1 files checked since \S+, 17 B read: 0 damaged, 0 missing\n$/)
      }),
    60_000
  )
})

describe("file-replication forget", () => {
  it.live(
    "explains first and changes nothing, then ends the debt with a tombstone and a record",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const config = yield* configure(folder, "node")
        yield* list(folder, config, "db/lost", "gone")
        const node = yield* startOwing(config, 1)

        const first = yield* run(["forget", "db/lost", "--lost", "--config", config])
        assert.strictEqual(first.code, 1)
        assert.include(first.stdout, "node: does not have it, this node")
        assert.include(first.stdout, "for every node and for good")
        assert.match(first.stderr, /^file-replication: db\/lost was not forgotten: .*--yes/)
        assert.include((yield* run(["manifest", "export", "--config", config])).stdout, "db/lost")

        const second = yield* run(["forget", "db/lost", "--lost", "--yes", "--config", config])
        assert.strictEqual(second.code, 0, second.stderr)
        assert.match(second.stdout, /db\/lost is forgotten: deleted at revision 2, on record in .*forgotten\.jsonl/)
        yield* lineOf(node, /"ready":true.*"owed":\{"files":0,/)
        const record: unknown = JSON.parse(readFileSync(join(folder, "node/data/.replication/forgotten.jsonl"), "utf8"))
        assert.nestedPropertyVal(record, "entry.path", "db/lost")
        assert.match(
          (yield* run(["why", "db/lost", "--config", config])).stdout,
          /manifest +deleted: lost: forgotten by/
        )

        const third = yield* run(["forget", "db/lost", "--lost", "--yes", "--config", config])
        assert.strictEqual(third.code, 0)
        assert.match(third.stdout, /^db\/lost is deleted already: lost: /)
      }),
    120_000
  )

  it.live("refuses a file that this node has, or another one, unless it is forced", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const holder = yield* configure(folder, "holder")
      yield* publish(folder, holder, "db/a", "ten bytes!")
      const here = yield* run(["forget", "db/a", "--lost", "--yes", "--config", holder])
      assert.strictEqual(here.code, 1)
      assert.match(
        here.stderr,
        /^file-replication: db\/a was not forgotten: it is not lost: holder may still have it; /
      )

      // A node that never ran but for this: it knows nothing of the file, and asks the one that has it.
      const asking = yield* configure(folder, "asking")
      yield* publish(folder, asking, "db/b", "b")
      const serving = yield* start(["node", "--config", holder])
      yield* lineOf(serving, /listens on/)
      const there = yield* run(["forget", "db/a", "--lost", "--yes", "--config", asking])
      assert.strictEqual(there.code, 1)
      assert.include(there.stdout, "holder: has it\n")
      assert.match(there.stderr, /it is not lost: holder may still have it/)
      assert.match((yield* run(["manifest", "export", "--config", holder])).stdout, /"db\/a"/)

      const forced = yield* run(["forget", "db/a", "--lost", "--yes", "--force", "--json", "--config", asking])
      assert.strictEqual(forced.code, 0, forced.stderr)
      assert.include(forced.stderr, "holder: has it\n")
      assert.deepInclude(JSON.parse(forced.stdout), { path: "db/a", forgotten: true, revision: 3 })
      assert.notMatch((yield* run(["manifest", "export", "--config", holder])).stdout, /"db\/a"/)
    }), 60_000)

  it.live("wants to be told that the file is lost, and a path that is in the manifest", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const config = yield* configure(folder, "node")
      yield* publish(folder, config, "db/a", "a")
      const unsaid = yield* run(["forget", "db/a", "--yes", "--config", config])
      assert.strictEqual(unsaid.code, 2)
      assert.match(unsaid.stderr, /say --lost/)
      const unknown = yield* run(["forget", "db/b", "--lost", "--yes", "--config", config])
      assert.strictEqual(unknown.code, 1)
      assert.match(unknown.stderr, /db\/b was not forgotten: it is not in the manifest/)
    }), 60_000)
})
