/** Nodes as processes, their manifest on real etcd that fails under them. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Queue, Stream } from "effect"
import { existsSync, readFileSync } from "node:fs"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { Manifest } from "../../src/ports/Manifest.ts"
import { type Cluster, hasEtcd, missing, startCluster } from "../support/etcd.ts"
import { temporaryFolder } from "../support/folder.ts"
import { living, publish, untilComplete } from "../support/realNode.ts"
import { lineOf, run, start } from "./command.ts"
import { configure, entryLine } from "./configure.ts"

const onEtcd = (cluster: Cluster) =>
  `manifest = "etcd"\netcd_endpoints = ${JSON.stringify(cluster.endpoints)}\nreplication_reconcile_interval_ms = 1000`

const names = ["one", "two", "three"]

if (!hasEtcd) it("runs on real etcd", () => assert.fail(missing("nodes whose manifest is on etcd")))
else {
  describe("three nodes on three members of etcd", () => {
    it.live(
      "agree when the leader is killed, all are, events are compacted, and a backup is put back",
      () =>
        Effect.gen(function*() {
          const folder = yield* temporaryFolder
          const cluster = yield* startCluster({ members: 3 })
          const configs = yield* Effect.forEach(names, (name) => configure(folder, name, onEtcd(cluster)))
          const [config, , third] = configs
          assert(config !== undefined && third !== undefined)
          const launch = Effect.fnUntraced(function*(config: string) {
            const node = yield* start(["node", "--config", config])
            yield* lineOf(node, /listens on/)
            return node
          })
          const nodes = yield* Effect.forEach(configs, launch)
          const source = join(folder, "source")
          const publish = Effect.fnUntraced(function*(as: string, wait: string) {
            yield* Effect.promise(() => writeFile(source, `bytes of ${as}`))
            const given = ["publish", source, "--as", as, "--config", config, "--wait", wait, "--timeout", "60"]
            const { code, stderr } = yield* run(given)
            assert.strictEqual(code, 0, stderr)
          })
          const content = (name: string, path: string) => readFileSync(join(folder, name, "data", path), "utf8")
          const onAll = (path: string) => {
            for (const name of names) assert.strictEqual(content(name, path), `bytes of ${path}`, `${name} ${path}`)
          }

          yield* publish("db/first", "3")
          const backup = join(folder, "backup.db")
          yield* cluster.save(backup)

          const leader = yield* cluster.leader
          yield* leader.kill
          yield* publish("db/without-a-leader", "3")
          yield* leader.start

          yield* cluster.killAll
          yield* cluster.startAll
          yield* publish("db/after-all", "3")

          nodes[2]?.child.kill("SIGTERM")
          yield* nodes[2]?.exit ?? Effect.void
          yield* publish("db/missed", "2")
          yield* cluster.compact
          yield* launch(third)
          yield* publish("db/together", "3")
          for (const path of ["db/first", "db/without-a-leader", "db/after-all", "db/missed", "db/together"]) {
            onAll(path)
          }

          // What came after the backup is in no manifest any more; it stays on every disk.
          yield* cluster.restore(backup)
          yield* publish("db/new-history", "3")
          for (const path of ["db/first", "db/missed", "db/together", "db/new-history"]) onAll(path)
          // And is taken up again, without being sent, when it is published again.
          yield* publish("db/missed", "3")
          onAll("db/missed")
        }),
      180_000
    )
  })

  describe("a node whose etcd does not answer", () => {
    it.live(
      "lets registrations wait up to its bound, keeps the bytes of the others, and registers all of them",
      () =>
        Effect.gen(function*() {
          const folder = yield* temporaryFolder
          const cluster = yield* startCluster()
          const [member] = cluster.members
          assert(member !== undefined)
          const given = {
            manifest: "etcd",
            etcdEndpoints: cluster.endpoints,
            queueSize: 1,
            reconcileIntervalMillis: 500
          } as const
          const paths = ["a", "b", "c", "d", "e"].map((name) => `db/${name}`)
          yield* living(folder, "writer", (node) =>
            Effect.gen(function*() {
              const manifest = Context.get(node, Manifest)
              const at = yield* manifest.head
              yield* member.kill
              // One is on its way, one waits, and there is no room for more.
              const failed = yield* Queue.unbounded<string>()
              const publishing = yield* Effect.forEach(paths, (path) =>
                publish(node, path, path).pipe(
                  Effect.catchTag("Unavailable", (error) => Queue.offer(failed, error.message))
                ), { concurrency: "unbounded", discard: true }).pipe(Effect.forkChild)
              assert.include(yield* Queue.take(failed), "1 registrations wait already")
              for (const path of paths) assert.isFalse(existsSync(join(folder, "writer", "data", path)))
              yield* member.start
              yield* Fiber.join(publishing)
              let seen = 0
              yield* manifest.events(at).pipe(
                Stream.takeUntil(({ events }) => (seen += events.length) === paths.length),
                Stream.runDrain
              )
              yield* untilComplete(node)
            }), given)
          for (const path of paths) assert.strictEqual(readFileSync(join(folder, "writer", "data", path), "utf8"), path)
        }),
      120_000
    )
  })

  describe("file-replication manifest export and import", () => {
    it.live("carry a manifest from SQLite to etcd and back without a difference", () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const cluster = yield* startCluster()
        const sqlite = yield* configure(folder, "sqlite")
        const etcd = yield* configure(folder, "etcd", onEtcd(cluster))
        const back = yield* configure(join(folder, "etcd"), "back")
        const lines = Array.from({ length: 300 }, (_, n) => entryLine(`db/cpu/${String(n).padStart(5, "0")}`, `${n}`))
        const file = join(folder, "files.jsonl")
        yield* Effect.promise(() => writeFile(file, `${lines.join("\n")}\n`))
        const command = Effect.fnUntraced(function*(...args: ReadonlyArray<string>) {
          const { code, stderr, stdout } = yield* run(["manifest", ...args])
          assert.strictEqual(code, 0, stderr)
          return stdout
        })
        yield* command("import", file, "--config", sqlite)
        const before = yield* command("export", "--config", sqlite)
        assert.strictEqual(before.trim().split("\n").length, lines.length)
        yield* Effect.promise(() => writeFile(file, before))
        yield* command("import", file, "--config", etcd)
        const there = yield* command("export", "--config", etcd)
        assert.strictEqual(there, before)
        yield* Effect.promise(() => writeFile(file, there))
        yield* command("import", file, "--config", back)
        assert.strictEqual(yield* command("export", "--config", back), before)

        yield* Effect.promise(() =>
          writeFile(file, `${entryLine("db/new", "new")}\n${entryLine("db/cpu/00000", "other")}\n`)
        )
        const { code, stderr } = yield* run(["manifest", "import", file, "--config", etcd])
        assert.strictEqual(code, 1)
        assert.include(stderr, "line 2")
        assert.strictEqual(yield* command("export", "--config", etcd), before)
      }), 120_000)
  })
}
