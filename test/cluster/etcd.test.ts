/** Nodes as processes, their manifest on real etcd that fails under them. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Option, Queue, Redacted, Stream } from "effect"
import { existsSync, readFileSync } from "node:fs"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { Manifest } from "../../src/ports/Manifest.ts"
import { makeAuthority } from "../peer/support/certificates.ts"
import { type Cluster, guard, hasEtcd, keepIdentity, missing, startCluster } from "../support/etcd.ts"
import { temporaryFolder } from "../support/folder.ts"
import { living, publish, untilComplete } from "../support/realNode.ts"
import { run } from "./command.ts"
import { configure, entryLine } from "./configure.ts"
import { type EtcdNode, startLoad, startNode, untilStatus } from "./etcdNodes.ts"

const onEtcd = (cluster: Cluster) =>
  `manifest = "etcd"\netcd_endpoints = ${JSON.stringify(cluster.endpoints)}\nreplication_reconcile_interval_ms = 1000`

const names = ["one", "two", "three"]

if (!hasEtcd) it("runs on real etcd", () => assert.fail(missing("nodes whose manifest is on etcd")))
else {
  describe("three nodes on three members of etcd", () => {
    it.live(
      "agree, and lose nothing, whatever befalls etcd and them under load",
      () =>
        Effect.gen(function*() {
          const folder = yield* temporaryFolder
          const cluster = yield* startCluster({ members: 3, tls: true })
          const { grant, revoke, user } = yield* guard(cluster, "arc-cluster")
          const identity = cluster.identity("DNS:node")
          const files = yield* keepIdentity(identity)
          const secured = (certificate: { readonly cert: string; readonly key: string }) =>
            `manifest = "etcd"
etcd_endpoints = ${JSON.stringify(cluster.endpoints.map((endpoint) => `https://${endpoint}`))}
etcd_ca_file = "${files.ca}"
etcd_cert_file = "${certificate.cert}"
etcd_key_file = "${certificate.key}"
etcd_user = "${user.name}"
etcd_password = "${Redacted.value(user.password)}"
replication_reconcile_interval_ms = 1000`
          const launch = (name: string, more = secured(files)) =>
            Effect.flatMap(configure(folder, name, more), (config) => startNode(name, config))
          // One is shown a stranger's certificate.
          const stranger = yield* keepIdentity((yield* makeAuthority)("DNS:node"))
          const outside = yield* Effect.forkScoped(launch("outside", secured(stranger)))
          const nodes = yield* Effect.forEach(names, (name) => launch(name), { concurrency: "unbounded" })
          const [one, two, three] = nodes
          assert(one !== undefined && two !== undefined && three !== undefined)
          const load = yield* startLoad(folder, () => nodes)
          yield* load.more(10)

          /** It serves and runs on, is not ready, and says why, to programs and to people. */
          const staysOut = Effect.fnUntraced(function*(node: EtcdNode, why: string) {
            const status = yield* untilStatus(node, ({ manifestTrouble, membershipTrouble }) =>
              Option.isSome(manifestTrouble) && Option.isSome(membershipTrouble))
            assert.isFalse(status.ready)
            assert.include(Option.getOrThrow(status.manifestTrouble).detail, why)
            assert.include(Option.getOrThrow(status.membershipTrouble).detail, "not announced to the others")
            const { code, stdout } = yield* run(["status", "--config", join(folder, `${node.name}.toml`)], {
              ARC_SERVER_PORT: new URL(node.url).port
            })
            assert.strictEqual(code, 0)
            assert.match(stdout, /trouble +since .*: the manifest is unavailable/)
            assert.match(stdout, /trouble +since .*: this node is not announced/)
          })
          const leader = yield* cluster.leader
          yield* leader.kill
          yield* load.more(10)
          yield* leader.start
          yield* load.settled

          const frozen = yield* cluster.leader
          yield* frozen.freeze
          // Who was connected to it has left it, and says which one is gone.
          yield* untilStatus(one, ({ manifestTrouble }) =>
            Option.exists(manifestTrouble, ({ detail }) =>
              detail.includes(`1 of 3 members of etcd do not answer: ${frozen.endpoint}`)))
          yield* load.more(10)
          yield* frozen.thaw
          yield* load.settled
          yield* untilStatus(one, ({ manifestTrouble }) =>
            Option.isNone(manifestTrouble))

          // A node past its lease: it is asked no more, and is a member again when it goes on.
          three.process.child.kill("SIGSTOP")
          yield* untilStatus(one, ({ peers }) =>
            Option.contains(peers, 1))
          three.process.child.kill("SIGCONT")
          yield* load.settled
          yield* untilStatus(one, ({ peers }) =>
            Option.contains(peers, 2))

          // By now it has tried for long enough to say so.
          const shutOut = yield* Fiber.join(outside)
          yield* staysOut(shutOut, "the manifest is unavailable")
          shutOut.process.child.kill("SIGTERM")
          assert.strictEqual(yield* shutOut.process.exit, 0)

          // While the role is missing nothing is registered, the reason is shown, and nobody stops.
          yield* revoke
          const denied = yield* untilStatus(two, ({ manifestTrouble }) =>
            Option.isSome(manifestTrouble))
          assert.include(Option.getOrThrow(denied.manifestTrouble).detail, "the role of this user must allow")
          const late = yield* launch("late")
          yield* staysOut(late, "the role of this user must allow")
          yield* grant
          nodes.push(late)

          const backup = join(folder, "backup.db")
          yield* load.whenSettled(cluster.save(backup))
          const saved = new Map(load.acknowledged)
          yield* cluster.killAll
          yield* cluster.startAll
          yield* load.more(10)
          yield* load.settled

          // What a node missed and etcd no longer keeps is found by a walk.
          three.process.child.kill("SIGTERM")
          assert.strictEqual(yield* three.process.exit, 0)
          yield* load.more(5)
          yield* cluster.compact
          nodes[2] = yield* launch("three")

          // What came after the backup is in no manifest any more; it stays on every disk, and nothing else changes.
          const lost = yield* load.whenSettled(Effect.gen(function*() {
            const lost = [...load.acknowledged.keys()].filter((path) =>
              !saved.has(path)
            )
            for (const path of lost) load.acknowledged.delete(path)
            yield* cluster.restore(backup)
            return lost
          }))
          assert.isAbove(lost.length, 15)
          yield* load.more(10)
          const standing = yield* load.settled
          for (const path of lost) {
            assert.isFalse(standing.has(path))
            for (const name of names) assert.isTrue(existsSync(join(folder, name, "data", path)), `${name} ${path}`)
          }
        }),
      300_000
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
