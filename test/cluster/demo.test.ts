/** The main job, as processes: what it prints, what it proves, and what it leaves behind. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schedule } from "effect"
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { mkdir, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { hasEtcd, missing } from "../support/etcd.ts"
import { temporaryFolder } from "../support/folder.ts"
import { lineOf, run, start } from "./command.ts"

const makeFiles = (folder: string, count: number, size: number) =>
  Effect.promise(async () => {
    for (let n = 0; n < count; n++) {
      await mkdir(join(folder, "db", `m${n % 3}`), { recursive: true })
      await writeFile(join(folder, "db", `m${n % 3}`, `${n}.bin`), Buffer.alloc(size + n, n))
    }
  })

/** The processes whose command line names a folder. */
const processesOf = (folder: string): ReadonlyArray<string> =>
  readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid)) return false
    try {
      return readFileSync(join("/proc", pid, "cmdline"), "utf8").includes(folder)
    } catch {
      return false
    }
  })

const demoFolder = (stdout: string): string => /under (\S+)/.exec(stdout)?.[1] ?? ""

describe("file-replication demo", () => {
  it.live(
    "replicates a folder between three processes, proves it, and leaves nothing behind",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        yield* makeFiles(folder, 20, 40_000)
        const { code, stderr, stdout } = yield* run(["demo", folder])
        assert.strictEqual(code, 0, stdout + stderr)
        assert.include(stdout, "equal: sha256 of 20 files on 3 nodes")
        assert.include(stdout, "equal: the manifest as 3 nodes see it")
        const row = (name: string) =>
          new RegExp(`^${name} +20 +\\S+ \\S+ +(\\d+) +(\\d+) +(\\d+) +(\\d+)`, "m").exec(stdout)
        assert.deepStrictEqual(row("writer")?.slice(1), ["0", "20", "0", "0"])
        for (const reader of ["reader-1", "reader-2"]) {
          assert.deepStrictEqual(row(reader)?.slice(1, 4), ["20", "0", "0"])
        }
        assert.notInclude(stdout, "\u001b")
        assert.isFalse(existsSync(demoFolder(stdout)))
        assert.deepStrictEqual(processesOf(demoFolder(stdout)), [])
      }),
    120_000
  )

  it.live(
    "writes Parquet of its own without a folder, and asks DuckDB about every node's copy",
    () =>
      Effect.gen(function*() {
        const { code, stderr, stdout } = yield* run(["demo", "--nodes", "2"])
        assert.strictEqual(code, 0, stdout + stderr)
        assert.include(stdout, "equal: sha256 of 48 files on 2 nodes")
        // Rows of 47 files of 40,000 and one of 8,000,000.
        assert.match(stdout, /equal: a DuckDB query over 48 Parquet files on each node: \[\["9880000","\d+"\]\]/)
        assert.match(stdout, /^writer +48 +1\d\d MiB +0 +48 +0 +0 /m)
      }),
    240_000
  )

  it.live(
    "shows its secret in no process' arguments, and ends at Ctrl-C in the middle of DuckDB's work",
    () =>
      Effect.gen(function*() {
        const demo = yield* start(["demo", "--nodes", "2"])
        const under = demoFolder(yield* lineOf(demo, /under \S+/))
        // The first file is small; DuckDB is at the large one behind it, or at the next.
        yield* lineOf(demo, /writer +writer +[1-9]/)
        // Whoever may list processes sees their arguments.
        const nodes = processesOf(under)
        const secret = /^shared_secret = "(\w{64})"$/m.exec(readFileSync(join(under, "writer/node.toml"), "utf8"))?.[1]
        assert(secret !== undefined)
        assert.isAtLeast(nodes.length, 2)
        for (const pid of nodes) assert.notInclude(readFileSync(join("/proc", pid, "cmdline"), "utf8"), secret)
        demo.child.kill("SIGINT")
        assert.strictEqual(yield* demo.exit, 130)
        assert.isFalse(existsSync(under))
      }),
    120_000
  )

  it.live(
    "compares files that are no Parquet in spite of their names, and shows the table",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        yield* Effect.promise(() => writeFile(join(folder, "bad.parquet"), "no Parquet"))
        const { code, stdout } = yield* run(["demo", folder, "--nodes", "2"])
        assert.strictEqual(code, 0, stdout)
        assert.include(stdout, "wall time")
      }),
    120_000
  )

  it.live(
    "replicates over three members of etcd that it starts, and leaves none of them behind",
    () =>
      Effect.gen(function*() {
        if (!hasEtcd) assert.fail(missing("the demo on etcd"))
        const folder = yield* temporaryFolder
        yield* makeFiles(folder, 20, 40_000)
        const { code, stderr, stdout } = yield* run(["demo", folder, "--manifest", "etcd"])
        assert.strictEqual(code, 0, stdout + stderr)
        assert.match(stdout, /The manifest is on etcd: three members, at (127\.0\.0\.1:\d+(, )?){3}/)
        assert.include(stdout, "equal: sha256 of 20 files on 3 nodes")
        assert.include(stdout, "equal: the manifest as 3 nodes see it")
        assert.deepStrictEqual(processesOf(demoFolder(stdout)), [])
        assert.isFalse(existsSync(demoFolder(stdout)))
      }),
    120_000
  )

  it.live("says that there is no etcd", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      yield* makeFiles(folder, 1, 10)
      const { code, stderr } = yield* run(["demo", folder, "--manifest", "etcd"], { PATH: folder })
      assert.strictEqual(code, 1)
      assert.include(stderr, "there is no command etcd here")
    }), 120_000)

  it.live(
    "keeps the nodes' folders when asked to, each with every file, and tells programs what it did",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        yield* makeFiles(folder, 4, 10)
        const { code, stderr, stdout } = yield* run(["demo", folder, "--nodes", "2", "--keep", "--json"])
        assert.strictEqual(code, 0, stderr)
        const { differences, equal, folder: kept, nodes } = JSON.parse(stdout)
        yield* Effect.addFinalizer(() => Effect.promise(() => rm(kept, { recursive: true })))
        assert.strictEqual(kept, demoFolder(stderr))
        assert.deepStrictEqual(nodes.map(({ files, node }: { files: number; node: string }) => [node, files]), [
          ["writer", 4],
          ["reader-1", 4]
        ])
        assert.deepStrictEqual(differences, [])
        assert.include(equal, "sha256 of 4 files on 2 nodes")
        const digest = (file: string) => createHash("sha256").update(readFileSync(file)).digest("hex")
        for (const node of ["writer", "reader-1"]) {
          for (let n = 0; n < 4; n++) {
            const path = join("db", `m${n % 3}`, `${n}.bin`)
            assert.strictEqual(digest(join(kept, node, "data", path)), digest(join(folder, path)))
          }
        }
      }),
    120_000
  )

  it.live("ends at Ctrl-C without a process, a port or a folder left", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      yield* makeFiles(folder, 30, 2_000_000)
      const demo = yield* start(["demo", folder])
      const head = yield* lineOf(demo, /under \S+/)
      yield* lineOf(demo, /reader-2 +reader/)
      const under = demoFolder(head)
      demo.child.kill("SIGINT")
      assert.strictEqual(yield* demo.exit, 130)
      assert.deepStrictEqual(processesOf(under), [])
      assert.isFalse(existsSync(under))
    }), 120_000)

  it.live("takes its nodes with it when it is killed", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      yield* makeFiles(folder, 30, 2_000_000)
      const demo = yield* start(["demo", folder])
      const under = demoFolder(yield* lineOf(demo, /under \S+/))
      yield* Effect.addFinalizer(() => Effect.promise(() => rm(under, { recursive: true, force: true })))
      yield* lineOf(demo, /reader-2 +reader/)
      assert.isAbove(processesOf(under).length, 2)
      demo.child.kill("SIGKILL")
      yield* demo.exit
      // Its nodes notice by their standard input, which nobody else holds.
      yield* Effect.repeat(Effect.sync(() => processesOf(under).length), {
        until: (count) => count === 0,
        schedule: Schedule.spaced("20 millis")
      })
    }), 120_000)

  it.live("says that a folder does not exist, or holds nothing to publish", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const empty = yield* run(["demo", folder])
      assert.deepStrictEqual([empty.code, empty.stderr], [1, `file-replication: ${folder} holds no file to publish\n`])
      const missing = yield* run(["demo", join(folder, "nowhere")])
      assert.strictEqual(missing.code, 1)
      assert.notMatch(missing.stderr, /\n\s+at /)
    }))
})
