/** The commands, as processes. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { execFileSync } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { open, readFile, writeFile } from "node:fs/promises"
import { connect } from "node:net"
import { join } from "node:path"
import { temporaryFolder } from "../support/folder.ts"
import { lineOf, run, start } from "./command.ts"
import { configure, entryLine } from "./configure.ts"

describe("file-replication", () => {
  it.live("explains itself", () =>
    Effect.gen(function*() {
      const { code, stdout } = yield* run(["--help"])
      assert.strictEqual(code, 0)
      for (const command of ["node", "demo", "publish", "manifest"]) assert.include(stdout, command)
    }))

  it.live("ends with 2 and a sentence on what it does not understand", () =>
    Effect.gen(function*() {
      const { code, stderr, stdout } = yield* run(["replicate"])
      assert.deepStrictEqual([code, stdout], [2, ""])
      assert.match(stderr, /^file-replication: Unknown subcommand "replicate" .*; see file-replication --help\n$/)
      const misused = yield* run(["files", "--limit", "0"])
      assert.deepStrictEqual([misused.code, misused.stdout, misused.stderr], [
        2,
        "",
        "file-replication: Invalid value for flag --limit: \"0\". Expected a number of files; see file-replication files --help\n"
      ])
    }))

  it.live("refuses to start without a secret: code 2, one clear message, no stack trace, no file", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const environment = { ARC_CLUSTER_ENABLED: "true", ARC_CLUSTER_REPLICATION_ENABLED: "true" }
      const { code, stderr, stdout } = yield* run(["node"], environment, folder)
      assert.strictEqual(code, 2)
      assert.strictEqual(stdout, "")
      assert.match(stderr, /^file-replication: the configuration can't be used: cluster\.shared_secret is empty/)
      assert.notMatch(stderr, /\n\s+at /)
      assert.deepStrictEqual(readdirSync(folder), [])
    }))

  it.live("runs a node until SIGTERM, and ends with 0", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const node = yield* start(["node", "--config", yield* configure(folder, "node-1")])
      const line = yield* lineOf(node, /listens on/)
      assert.match(line, /node node-1 \(reader\) listens on 127\.0\.0\.1:\d+/)
      const port = Number(/127\.0\.0\.1:(\d+)/.exec(line)?.[1])
      node.child.kill("SIGTERM")
      assert.strictEqual(yield* node.exit, 0)
      const refused = yield* Effect.callback<string>((resume) => {
        const socket = connect(port, "127.0.0.1")
        socket.on("error", (error) => resume(Effect.succeed(String(Reflect.get(error, "code")))))
        socket.on("connect", () => resume(Effect.succeed("connected")))
      })
      assert.strictEqual(refused, "ECONNREFUSED")
    }))

  it.live("says that a port is taken, and by which setting it is chosen", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const first = yield* start(["node", "--config", yield* configure(folder, "first")])
      const port = /127\.0\.0\.1:(\d+)/.exec(yield* lineOf(first, /listens on/))?.[1]
      const config = yield* configure(folder, "second")
      const { code, stderr } = yield* run(["node", "--config", config], {
        ARC_CLUSTER_COORDINATOR_ADDR: `127.0.0.1:${port}`
      })
      assert.strictEqual(code, 1)
      assert.include(stderr, String(port))
      assert.notMatch(stderr, /\n\s+at /)
    }))

  it.live("refuses a second node under the id of one that lives", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const first = yield* start(["node", "--config", yield* configure(folder, "twin")])
      yield* lineOf(first, /listens on/)
      const config = yield* configure(folder, "twin")
      const { code, stderr } = yield* run(["node", "--config", config], {
        ARC_STORAGE_LOCAL_PATH: join(folder, "other", "data")
      })
      assert.strictEqual(code, 1)
      assert.match(stderr, /another live node already goes by the id twin/)
    }))

  it.live("publishes files that a running node of the cluster then pulls", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const source = join(folder, "a.parquet")
      yield* Effect.promise(() => writeFile(source, "some bytes"))
      const writer = yield* configure(folder, "writer", "role = \"writer\"")
      const serving = yield* start(["node", "--config", writer])
      yield* lineOf(serving, /listens on/)
      const reader = yield* start(["node", "--config", yield* configure(folder, "reader"), "--supervised"])
      yield* lineOf(reader, /"Started"/)
      const { code, stderr, stdout } = yield* run(["publish", source, "--as", "db/cpu/a.parquet", "--config", writer])
      assert.strictEqual(code, 0, stderr)
      assert.match(stdout, /^db\/cpu\/a\.parquet {2}10 bytes {2}sha256 [0-9a-f]{64} {2}revision \d+\n$/)
      yield* lineOf(reader, /"verified":\{"files":1,"bytes":10\}/)
      const pulled = yield* Effect.promise(() => readFile(join(folder, "reader", "data", "db/cpu/a.parquet"), "utf8"))
      assert.strictEqual(pulled, "some bytes")
    }))

  it.live("refuses to publish other bytes under a taken path, and a path outside of the folder", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const source = join(folder, "source")
      const config = yield* configure(folder, "writer")
      const publish = (content: string, as: string) =>
        Effect.andThen(
          Effect.promise(() => writeFile(source, content)),
          run(["publish", source, "--as", as, "--config", config])
        )
      assert.strictEqual((yield* publish("one", "db/a")).code, 0)
      assert.strictEqual((yield* publish("one", "db/a")).code, 0)
      const conflict = yield* publish("two", "db/a")
      assert.strictEqual(conflict.code, 1)
      assert.match(conflict.stderr, /^file-replication: db\/a is already registered with other bytes/)
      const outside = yield* publish("two", "../a")
      assert.strictEqual(outside.code, 2)
      assert.match(outside.stderr, /^file-replication: \.\.\/a is no path of a replicated file: it contains/)
      assert.strictEqual(readFileSync(join(folder, "writer", "data", "db/a"), "utf8"), "one")
    }))

  it.live("publishes what comes over pipes", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const source = join(folder, "source")
      const bytes = Array.from({ length: 50_000 }, (_, n) => `line ${n}\n`).join("")
      yield* Effect.promise(() => writeFile(source, bytes))
      const pipe = join(folder, "pipe")
      const config = yield* configure(folder, "writer")
      const script = "source=$1 pipe=$2; shift 2; mkfifo $pipe; cat $source > $pipe & exec \"$@\""
      const publishing = yield* start(
        ["publish", pipe, "/dev/stdin", "--as", "db/", "--config", config],
        {},
        undefined,
        (command) => ["sh", "-c", script, "sh", source, pipe, ...command]
      )
      publishing.child.stdin?.end(bytes)
      assert.strictEqual(yield* publishing.exit, 0, publishing.output().stderr)
      for (const name of ["stdin", "pipe"]) {
        assert.strictEqual(readFileSync(join(folder, "writer", "data", "db", name), "utf8"), bytes)
      }
    }))

  it.live("is interrupted while it waits for a pipe, whether somebody has it open or not", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const source = join(folder, "source")
      const pipe = join(folder, "pipe")
      yield* Effect.promise(() => writeFile(source, "bytes"))
      execFileSync("mkfifo", [pipe])
      const config = yield* configure(folder, "writer")
      const nobody = yield* start(["publish", source, pipe, "--as", "db/", "--config", config])
      yield* lineOf(nobody, /^db\/source/)
      nobody.child.kill("SIGTERM")
      assert.strictEqual(yield* nobody.exit, 130)

      const idle = yield* start(["publish", pipe, "--as", "db/pipe", "--config", config])
      // Opens as soon as the other end is.
      const writer = yield* Effect.promise(() => open(pipe, "w"))
      idle.child.kill("SIGTERM")
      assert.strictEqual(yield* idle.exit, 130)
      yield* Effect.promise(() => writer.close())
      assert.deepStrictEqual(readdirSync(join(folder, "writer", "data", "db")), ["source"])
    }))

  it.live("moves a manifest out and in, twice the same", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const lines = ["db/a", "db/b", "db/c"].map((path) => entryLine(path, path))
      const file = join(folder, "manifest.jsonl")
      yield* Effect.promise(() => writeFile(file, `${lines.join("\n")}\n`))
      const config = yield* configure(folder, "node")
      const imported = yield* run(["manifest", "import", file, "--config", config])
      assert.deepStrictEqual([imported.code, imported.stdout], [0, `3 entries of ${file} are in the manifest\n`])
      const again = yield* run(["manifest", "import", file, "--json", "--config", config])
      assert.deepStrictEqual([again.code, again.stdout], [0, "{\"imported\":3,\"wrong\":[],\"more\":0}\n"])
      const exported = yield* run(["manifest", "export", "--config", config])
      assert.strictEqual(exported.stdout, `${lines.join("\n")}\n`)
    }))

  it.live("imports nothing when a line is wrong, says which and why, and what is right when told to go on", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const file = join(folder, "manifest.jsonl")
      const config = yield* configure(folder, "node")
      const wrong = [
        entryLine("db/a", "a"),
        entryLine("db/b", "b").replace(/"sha256":"../, "\"sha256\":\"ZZ"),
        "no json",
        entryLine("../c", "c"),
        entryLine("db/a", "other bytes"),
        entryLine("db/a/below", "x"),
        entryLine("db/d", "d").replace(/"size_bytes":1/, "\"size_bytes\":-1")
      ]
      yield* Effect.promise(() => writeFile(file, wrong.join("\n")))
      const refused = yield* run(["manifest", "import", file, "--config", config])
      assert.strictEqual(refused.code, 1)
      assert.include(refused.stderr, "6 lines are wrong; nothing was imported")
      for (
        const [line, why] of [
          [2, "sha256"],
          [3, "not valid JSON"],
          [4, "path"],
          [5, "other bytes here than in line 1"],
          [6, "a file and a folder"],
          [7, "size_bytes"]
        ] as const
      ) assert.match(refused.stderr, new RegExp(`line ${line}: .*${why}`))
      assert.strictEqual((yield* run(["manifest", "export", "--config", config])).stdout, "")

      const partly = yield* run(["manifest", "import", file, "--keep-going", "--json", "--config", config])
      assert.strictEqual(partly.code, 1)
      const told = JSON.parse(partly.stdout)
      assert.deepStrictEqual([told.imported, told.wrong.map(({ line }: { line: number }) => line)], [1, [
        2,
        3,
        4,
        5,
        6,
        7
      ]])
      assert.include(partly.stderr, "1 entries were imported")
      assert.strictEqual((yield* run(["manifest", "export", "--config", config])).stdout, `${wrong[0]}\n`)
    }))
})
