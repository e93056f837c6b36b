/** Failures that take a process with them, and races between nodes. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Deferred, Effect, Exit, Fiber, Layer, Option, Queue, Redacted, Scope, Stream } from "effect"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { Backend } from "../../src/ports/Backend.ts"
import { NodeId } from "../../src/ports/FileEntry.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Manifest, Unavailable } from "../../src/ports/Manifest.ts"
import { addressText } from "../../src/ports/Membership.ts"
import type { Peer } from "../../src/ports/PeerResolver.ts"
import * as Replication from "../../src/Replication.ts"
import { Readiness } from "../../src/replication/Readiness.ts"
import { Registrar } from "../../src/replication/Registrar.ts"
import * as ReplicationConfig from "../../src/ReplicationConfig.ts"
import { type Running, start } from "../cluster/command.ts"
import { configure } from "../cluster/configure.ts"
import { temporaryFolder } from "../support/folder.ts"
import { badPeer, bytesOf, entryOf, MiB, receiptsOf, sends, visibleFiles } from "./support.ts"

const configuration = (folder: string, peer: Peer) =>
  configure(folder, "reader", `membership = "static"\npeers = ["${peer.id}@${addressText(peer.address)}"]`)

const settingsOf = (folder: string, name: string, given: Partial<ReplicationConfig.Settings> = {}) =>
  ReplicationConfig.layer({
    nodeId: Option.some(NodeId.make(name)),
    localPath: join(folder, name, "data"),
    manifestPath: Option.some(join(folder, "manifest.db")),
    coordinatorAddr: "127.0.0.1:0",
    minFreeBytes: 0,
    deleteGraceMillis: 0,
    retryInitialBackoffMillis: 10,
    ...given,
    sharedSecret: Redacted.make("a secret of the tests")
  })

const startNode = (folder: string, name: string, ports = Replication.layerPorts()) =>
  Layer.build(Replication.layerActive.pipe(Layer.provideMerge(ports), Layer.provide(settingsOf(folder, name))))

type Node = Context.Context<Replication.Services | Replication.Ports>

/** Waits until a node has taken every event and owes nothing, and has nothing to unlink. */
const untilSettled = (node: Node) =>
  Effect.gen(function*() {
    const head = yield* Context.get(node, Manifest).head
    yield* Context.get(node, Readiness).await(head)
    yield* Context.get(node, Inventory).changes.pipe(
      Stream.filter(({ owed, unlinking }) => owed.files === 0 && unlinking === 0),
      Stream.runHead
    )
  })

/** The first line of progress that says so many bytes or more came. */
const untilReceived = (running: Running, bytes: number) =>
  Effect.repeat(Queue.take(running.lines), {
    until: (line) => Number(/"pulled":\d+,"bytes":(\d+)/.exec(line)?.[1] ?? 0) >= bytes
  })

it.live(
  "half a staging file after kill -9: only the rest is sent, less the last unfinished 16 KiB",
  () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const content = bytesOf(3, 8 * MiB + 99)
      const entry = entryOf("db/m/big", content, "peer-1")
      const half = 4 * MiB + 350_000
      const kept = 4 * MiB + 336 * 1024
      const files = [[entry, 3]] as const
      const peer = yield* badPeer("peer-1", sends(files, { count: half, afterwards: "stall" }), sends(files))
      const manifest = yield* Layer.build(Replication.layerManifest.pipe(Layer.provide(settingsOf(folder, "reader"))))
      yield* Context.get(manifest, Manifest).register(entry)
      const config = yield* configuration(folder, peer)

      const first = yield* start(["node", "--supervised", "--config", config])
      yield* untilReceived(first, half)
      first.child.kill("SIGKILL")
      assert.strictEqual(yield* first.exit, "SIGKILL")
      assert.deepStrictEqual(visibleFiles(folder), [])

      const second = yield* start(["node", "--supervised", "--config", config])
      yield* untilReceived(second, content.length - kept)
      yield* Effect.repeat(Queue.take(second.lines), { until: (line) => line.includes("\"ready\":true") })
      assert.deepStrictEqual(yield* peer.requests, [{ path: entry.path, offset: 0 }, {
        path: entry.path,
        offset: kept
      }])
      assert.isTrue(readFileSync(join(folder, "reader", "data", entry.path)).equals(content))
    }),
  60_000
)

describe("two nodes", () => {
  it.live("that publish one path with different bytes: one wins, and both show the winner's", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const nodes = yield* Effect.all([startNode(folder, "one"), startNode(folder, "two")])
      const contents = [bytesOf(11, 300_000), bytesOf(12, 300_000)]
      for (let n = 0; n < 5; n++) {
        const path = `db/m/${n}`
        const exits = yield* Effect.forEach(
          nodes,
          (node, at) => Effect.exit(Context.get(node, Registrar).publish({ path }, contents[at] ?? new Uint8Array())),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(exits.map(Exit.isSuccess).sort(), [false, true], `round ${n}`)
        yield* Effect.forEach(nodes, untilSettled)
        const winner = contents[exits.findIndex(Exit.isSuccess)] ?? Buffer.alloc(0)
        for (const name of ["one", "two"]) {
          assert.isTrue(readFileSync(join(folder, name, "data", path)).equals(winner), `${name}, round ${n}`)
        }
      }
    }))

  it.live("one of which was away while a file was deleted: it does not come back through it", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const one = yield* startNode(folder, "one")
      const away = yield* Scope.make()
      const two = yield* startNode(folder, "two").pipe(Scope.provide(away))
      const { entry } = yield* Context.get(two, Registrar).publish({ path: "db/m/a" }, bytesOf(1, 1000))
      yield* untilSettled(one)
      yield* Scope.close(away, Exit.void)

      yield* Context.get(one, Manifest).remove(entry.path, "while it was away")
      yield* untilSettled(one)
      assert.deepStrictEqual(visibleFiles(folder, "one"), [])
      assert.deepStrictEqual(visibleFiles(folder, "two"), ["db/m/a"])

      const back = yield* startNode(folder, "two")
      yield* untilSettled(back)
      yield* untilSettled(one)
      assert.deepStrictEqual([visibleFiles(folder, "one"), visibleFiles(folder, "two")], [[], []])
      assert.isTrue(Option.isNone(yield* Context.get(back, Manifest).get(entry.path)))
      const error = yield* Context.get(back, Registrar).publish({ path: entry.path }, bytesOf(1, 1000)).pipe(
        Effect.flip
      )
      assert.strictEqual(error._tag, "Gone")
    }))

  it.live("do not bring a deleted file back through a registration whose answer was lost", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const registered = yield* Deferred.make<void>()
      const deleted = yield* Deferred.make<void>()
      let lost = false
      // The manifest takes the registration, and its answer never comes; meanwhile the file is deleted.
      const forgetful = Layer.effect(
        Manifest,
        Effect.map(Manifest, (inner) =>
          Manifest.of({
            ...inner,
            registerAll: (entries) =>
              Effect.suspend(() => {
                if (lost) return inner.registerAll(entries)
                lost = true
                return inner.registerAll(entries).pipe(
                  Effect.andThen(Deferred.succeed(registered, undefined)),
                  Effect.andThen(Deferred.await(deleted)),
                  Effect.andThen(new Unavailable({ operation: "registerAll", detail: "the answer was lost" }))
                )
              })
          }))
      ).pipe(Layer.provide(Replication.layerManifest))
      const one = yield* startNode(folder, "one", Replication.layerPorts({ manifest: forgetful }))
      const two = yield* startNode(folder, "two")
      const publishing = yield* Effect.forkChild(
        Effect.exit(Context.get(one, Registrar).publish({ path: "db/m/a" }, bytesOf(1, 1000)))
      )
      yield* Deferred.await(registered)
      const path = entryOf("db/m/a", bytesOf(1, 1000), "one").path
      yield* Context.get(two, Manifest).remove(path, "before the answer")
      yield* Deferred.succeed(deleted, undefined)
      yield* Fiber.join(publishing)
      yield* Effect.forEach([one, two], untilSettled)
      assert.isTrue(Option.isNone(yield* Context.get(two, Manifest).get(path)))
      assert.deepStrictEqual([visibleFiles(folder, "one"), visibleFiles(folder, "two")], [[], []])
      assert.isTrue(Option.isNone(yield* Context.get(one, Backend).stat(path)))
    }))

  it.live("whose origin has left: a third gets everything from the other one", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const away = yield* Scope.make()
      const origin = yield* startNode(folder, "origin").pipe(Scope.provide(away))
      const other = yield* startNode(folder, "other")
      const contents = Array.from({ length: 8 }, (_, n) => bytesOf(n, 50_000 + n))
      yield* Effect.forEach(contents, (content, n) =>
        Context.get(origin, Registrar).publish({ path: `db/m/${n}` }, content), { concurrency: 4 })
      yield* untilSettled(other)
      yield* Scope.close(away, Exit.void)
      const third = yield* startNode(folder, "third")
      yield* untilSettled(third)
      for (const [n, content] of contents.entries()) {
        assert.isTrue(readFileSync(join(folder, "third", "data", `db/m/${n}`)).equals(content))
      }
    }))

  it.live(
    "one of which comes back with what the other owes: it is asked within seconds, whatever the backoff",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const away = yield* Scope.make()
        const origin = yield* startNode(folder, "origin").pipe(Scope.provide(away))
        const published = yield* Effect.forEach(
          [1, 2, 3],
          (n) => Context.get(origin, Registrar).publish({ path: `db/m/${n}` }, bytesOf(n, 1000))
        )
        yield* Scope.close(away, Exit.void)
        const patient = settingsOf(folder, "reader", { retryMaxAttempts: 1, retryInitialBackoffMillis: 60_000 })
        const reader = yield* Layer.build(
          Replication.layerActive.pipe(Layer.provideMerge(Replication.layerPorts()), Layer.provide(patient))
        )
        const inventory = Context.get(reader, Inventory)
        const isPostponed = Effect.map(
          inventory.due(Number.MAX_SAFE_INTEGER, 9),
          (rows) => rows.length === published.length && rows.every(({ rounds }) => rounds > 0)
        )
        const { next } = yield* receiptsOf(reader)
        yield* Effect.repeat(next, { until: () => isPostponed })
        const before = yield* Clock.currentTimeMillis
        yield* startNode(folder, "origin")
        let pulled = 0
        while (pulled < published.length) if ((yield* next)._tag === "Pulled") pulled++
        assert.isBelow((yield* Clock.currentTimeMillis) - before, 30_000)
      }),
    60_000
  )
})
