import { assert, describe, it } from "@effect/vitest"
import { Context, Data, Deferred, Effect, Exit, Fiber, Layer, Option, Redacted, Schedule, Scope, Stream } from "effect"
import { existsSync } from "node:fs"
import { writeFile } from "node:fs/promises"
import { connect } from "node:net"
import { join } from "node:path"
import { FetchServer } from "../src/peer/FetchServer.ts"
import type { TlsIdentity } from "../src/peer/transport/Tls.ts"
import { Backend } from "../src/ports/Backend.ts"
import { FetchClient } from "../src/ports/FetchClient.ts"
import { NodeId } from "../src/ports/FileEntry.ts"
import { Manifest } from "../src/ports/Manifest.ts"
import { Membership } from "../src/ports/Membership.ts"
import { type Peer, PeerResolver } from "../src/ports/PeerResolver.ts"
import * as Replication from "../src/Replication.ts"
import { Puller } from "../src/replication/Puller.ts"
import { Readiness } from "../src/replication/Readiness.ts"
import { Registrar } from "../src/replication/Registrar.ts"
import * as ReplicationConfig from "../src/ReplicationConfig.ts"
import { makeAuthority } from "./peer/support/certificates.ts"
import { temporaryFolder } from "./support/folder.ts"

const configure = (folder: string, name: string, given: Partial<ReplicationConfig.Settings> = {}) =>
  ReplicationConfig.layer({
    nodeId: Option.some(NodeId.make(name)),
    localPath: join(folder, name, "data"),
    manifestPath: Option.some(join(folder, "manifest.db")),
    coordinatorAddr: "127.0.0.1:0",
    minFreeBytes: 0,
    ...given,
    sharedSecret: Redacted.make("a secret of the tests")
  })

const text = (value: string) => new TextEncoder().encode(value)

/** A node with everything real, its services by name. */
const startNode = (folder: string, name: string, ports = Replication.layerPorts()) =>
  Layer.build(
    Replication.layerActive.pipe(Layer.provideMerge(ports), Layer.provide(configure(folder, name)))
  )

/** Waits until a node holds everything that the manifest has now. */
const untilComplete = (node: Context.Context<Readiness | Manifest>) =>
  Effect.flatMap(Context.get(node, Manifest).head, Context.get(node, Readiness).await)

const read = (
  node: Context.Context<Backend>,
  entry: { readonly path: typeof import("../src/ports/FilePath.ts").FilePath.Type; readonly size_bytes: number }
) =>
  Effect.gen(function*() {
    const chunks: Array<Uint8Array> = []
    yield* Context.get(node, Backend).read(entry.path, 0, entry.size_bytes, {
      write: (chunk) => Effect.sync(() => void chunks.push(chunk.slice()))
    })
    return Buffer.concat(chunks).toString()
  })

describe("Replication", () => {
  it.live("carries a file from the node that published it to another, over the real wire", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* startNode(folder, "writer")
      const reader = yield* startNode(folder, "reader")
      const { entry } = yield* Context.get(writer, Registrar).publish({ path: "db/cpu/a" }, text("hello"))
      yield* untilComplete(reader)
      assert.strictEqual(yield* read(reader, entry), "hello")
      assert.isTrue(yield* Context.get(reader, Readiness).ready)
    }))

  it.live("replicates many small files at once, each with its own bytes on the disk", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* startNode(folder, "writer")
      const reader = yield* startNode(folder, "reader")
      // Of many sizes around the buffers' and longer than a socket's, each with bytes of its own.
      const sizes = Array.from({ length: 60 }, (_, n) => (n * 48_271) % 900_000)
      const published = yield* Effect.forEach(sizes, (size, n) =>
        Context.get(writer, Registrar).publish({ path: `db/cpu/${n}` }, new Uint8Array(size).fill(n)), {
        concurrency: 8
      })
      yield* untilComplete(reader)
      for (const [n, { entry }] of published.entries()) {
        const held = yield* Context.get(reader, Backend).adopt(entry.path)
        assert.deepStrictEqual(
          Option.map(held, ({ sha256 }) =>
            sha256),
          Option.some(entry.sha256),
          `file ${n}`
        )
      }
    }))

  it.live("replicates over mutual TLS by configuration alone, and not with a node that has another authority", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const identity = Effect.fnUntraced(function*(name: string, certificates: (name: string) => TlsIdentity) {
        const { authority, certificate, key } = certificates("IP:127.0.0.1")
        const files = { ca: authority, cert: certificate, key: Redacted.value(key) }
        for (const [kind, text] of Object.entries(files)) {
          yield* Effect.promise(() => writeFile(join(folder, `${name}.${kind}`), text))
        }
        return {
          tlsEnabled: true,
          tlsCaFile: Option.some(join(folder, `${name}.ca`)),
          tlsCertFile: Option.some(join(folder, `${name}.cert`)),
          tlsKeyFile: Option.some(join(folder, `${name}.key`))
        }
      })
      const start = (name: string, given: Partial<ReplicationConfig.Settings>) =>
        Layer.build(
          Replication.layerNode.pipe(Layer.provide(configure(folder, name, { retryMaxAttempts: 1, ...given })))
        )
      const ours = yield* makeAuthority
      const writer = yield* start("writer", yield* identity("writer", ours))
      const reader = yield* start("reader", yield* identity("reader", ours))
      const stranger = yield* start("stranger", yield* identity("stranger", yield* makeAuthority))
      const refused = yield* Context.get(stranger, Puller).receipts
      const { entry } = yield* Context.get(writer, Registrar).publish({ path: "db/cpu/a" }, text("hello"))
      yield* untilComplete(reader)
      assert.strictEqual(yield* read(reader, entry), "hello")
      const [receipt] = yield* Stream.runCollect(Stream.take(refused, 1))
      assert.strictEqual(receipt?._tag, "Postponed")
      assert.isFalse(yield* Context.get(stranger, Readiness).ready)
    }))

  describe("of which one graph of layers has two", () => {
    class A extends Context.Service<A, string>()("test/A") {}
    class B extends Context.Service<B, string>()("test/B") {}
    const id = Effect.map(Membership, ({ self }) => self.id)
    const both = <E>(node: (name: string) => Layer.Layer<Membership, E>) =>
      Effect.scoped(Layer.build(Layer.mergeAll(
        Layer.effect(A, id).pipe(Layer.provide(node("a"))),
        Layer.effect(B, id).pipe(Layer.provide(node("b")))
      )))

    it.live("refuses the second configuration: Effect would build one node for both", () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const gated = Replication.layer()
        const kinds = [
          (name: string) => Layer.provide(Replication.layerNode, configure(folder, name)),
          (name: string) =>
            Layer.provide(
              Layer.effect(
                Membership,
                Effect.map(Replication.Replication, (replication) =>
                  replication._tag === "Active"
                    ? Context.get(replication.services, Membership)
                    : assert.fail(replication.reason))
              ),
              Layer.provide(gated, configure(folder, name))
            )
        ]
        for (const kind of kinds) {
          const error = yield* Effect.flip(both(kind))
          assert.strictEqual(error._tag, "ConfigError")
          assert.match(error.message, /another configuration already.+put Layer\.fresh around each whole node/)
        }
      }))

    it.live("has two with Layer.fresh around each, and one where both have the same configuration", () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const node = (name: string) => Layer.provide(Replication.layerNode, configure(folder, name))
        const two = yield* both((name) => Layer.fresh(node(name)))
        assert.deepStrictEqual([Context.get(two, A), Context.get(two, B)], ["a", "b"])
        const one = yield* both(() => node("c"))
        assert.deepStrictEqual([Context.get(one, A), Context.get(one, B)], ["c", "c"])
      }))
  })

  it.live("tells the errors of all ports that are given, by their types", () =>
    Effect.gen(function*() {
      class First extends Data.TaggedError("First")<{}> {}
      class Second extends Data.TaggedError("Second")<{}> {}
      const ports = Replication.layerPorts({
        manifest: Layer.effect(Manifest, new First()),
        backend: Layer.effect(Backend, new Second())
      })
      const folder = yield* temporaryFolder
      const error: Replication.StartError | First | Second = yield* Effect.flip(
        Layer.build(Layer.provide(ports, configure(folder, "a")))
      )
      assert.strictEqual(error._tag, "First")
    }))

  it.live("takes a port of your own in place of ours", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* startNode(folder, "writer")
      const asked = yield* Deferred.make<string>()
      const { address } = Context.get(writer, FetchServer)
      const peers: ReadonlyArray<Peer> = [{ id: NodeId.make("writer"), address }]
      const resolver = Layer.succeed(PeerResolver, {
        candidates: (_origin, path) => Effect.as(Deferred.succeed(asked, path), peers)
      })
      const reader = yield* startNode(folder, "reader", Replication.layerPorts({ peerResolver: resolver }))
      yield* Context.get(writer, Registrar).publish({ path: "db/cpu/a" }, text("hello"))
      yield* untilComplete(reader)
      assert.strictEqual(yield* Deferred.await(asked), "db/cpu/a")
    }))

  for (
    const [what, given] of [
      ["cluster.enabled is false", { clusterEnabled: false }],
      ["cluster.replication_enabled is false", { replicationEnabled: false }]
    ] as const
  ) {
    it.live(`opens no socket and no file when ${what}`, () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const state = yield* Layer.build(Replication.layer().pipe(Layer.provide(configure(folder, "node", given))))
        const replication = Context.get(state, Replication.Replication)
        assert.deepStrictEqual(replication, { _tag: "Inactive", reason: what })
        assert.isFalse(existsSync(join(folder, "node")))
        assert.isFalse(existsSync(join(folder, "manifest.db")))
      }))
  }

  it.live("asks the gate once, before anything is built, and stays away when it is denied", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      let asked = 0
      const gate = Effect.sync((): Replication.Admission => {
        asked++
        return { allowed: false, reason: "not licensed" }
      })
      const state = yield* Layer.build(Replication.layer().pipe(Layer.provide(configure(folder, "node")))).pipe(
        Effect.provideService(Replication.ReplicationGate, gate)
      )
      assert.deepStrictEqual(Context.get(state, Replication.Replication), { _tag: "Inactive", reason: "not licensed" })
      assert.strictEqual(asked, 1)
      assert.isFalse(existsSync(join(folder, "node")))
    }))

  it.live("is active with its services when nothing speaks against it, and has asked the gate once", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      let asked = 0
      const gate = Effect.sync((): Replication.Admission => {
        asked++
        return { allowed: true }
      })
      const state = yield* Layer.build(Replication.layer().pipe(Layer.provide(configure(folder, "node")))).pipe(
        Effect.provideService(Replication.ReplicationGate, gate)
      )
      assert.strictEqual(asked, 1)
      const replication = Context.get(state, Replication.Replication)
      assert.strictEqual(replication._tag, "Active")
      if (replication._tag !== "Active") return
      const { entry } = yield* Context.get(replication.services, Registrar).publish({ path: "db/a" }, text("x"))
      assert.strictEqual(entry.origin_node_id, "node")
    }))

  it.live("gives a nameless node an id that it keeps", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const originOf = (path: string) =>
        Effect.scoped(Effect.gen(function*() {
          const node = yield* Layer.build(
            Replication.layerNode.pipe(Layer.provide(configure(folder, "node", { nodeId: Option.none() })))
          )
          const { entry } = yield* Context.get(node, Registrar).publish({ path }, text(path))
          return entry.origin_node_id
        }))
      const first = yield* originOf("db/a")
      assert.match(first, /^node-[0-9a-f]{12}$/)
      assert.strictEqual(yield* originOf("db/b"), first)
    }))

  it.live("closes pulls first, then drains the registrar, then stops to listen, and its ports last", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const order: Array<string> = []
      const note = (what: string) => Effect.sync(() => void order.push(what))
      const pulling = yield* Deferred.make<void>()

      // A client that never gets a byte, and says when it is interrupted.
      const client = Layer.succeed(FetchClient, {
        fetch: () =>
          Deferred.succeed(pulling, undefined).pipe(
            Effect.andThen(Effect.never),
            Effect.onInterrupt(() => note("pull interrupted"))
          )
      })
      // A manifest that says what it is asked last, and when it closes.
      const release = yield* Deferred.make<void>()
      const registering = yield* Deferred.make<void>()
      const manifest = Layer.effect(
        Manifest,
        Effect.gen(function*() {
          const inner = yield* Manifest
          yield* Effect.addFinalizer(() => note("manifest closed"))
          return Manifest.of({
            ...inner,
            registerAll: (entries) =>
              Deferred.succeed(registering, undefined).pipe(
                Effect.andThen(Deferred.await(release)),
                Effect.andThen(inner.registerAll(entries)),
                Effect.tap(() => note("registered"))
              )
          })
        })
      ).pipe(Layer.provide(Replication.layerManifest))

      const scope = yield* Scope.make()
      const node = yield* startNode(folder, "node", Replication.layerPorts({ fetchClient: client, manifest })).pipe(
        Scope.provide(scope)
      )
      // Owed to this node, from a peer that it knows.
      const other = yield* startNode(folder, "other")
      yield* Context.get(other, Registrar).publish({ path: "db/theirs" }, text("theirs"))
      yield* Deferred.await(pulling)
      const published = yield* Effect.forkChild(
        Context.get(node, Registrar).publish({ path: "db/ours" }, text("ours"))
      )
      yield* Deferred.await(registering)

      const { port } = Context.get(node, FetchServer).address
      const socket = connect(port, "127.0.0.1")
      const connected = yield* Deferred.make<void>()
      socket.on("connect", () => Deferred.doneUnsafe(connected, Effect.void))
      socket.on("close", () => order.push("connection closed"))
      socket.on("error", () => undefined)
      yield* Deferred.await(connected)

      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* Effect.repeat(Effect.yieldNow, { until: () => order.includes("pull interrupted") })
      yield* Deferred.succeed(release, undefined)
      yield* Fiber.join(closing)
      assert.strictEqual((yield* Fiber.join(published)).entry.path, "db/ours")
      assert.deepStrictEqual(order, ["pull interrupted", "registered", "connection closed", "manifest closed"])
    }))

  it.live("says at a start that its port is taken", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const first = yield* startNode(folder, "first")
      const { port } = Context.get(first, FetchServer).address
      const error = yield* Layer.build(
        Replication.layerNode.pipe(Layer.provide(configure(folder, "second", { coordinatorAddr: `127.0.0.1:${port}` })))
      ).pipe(Effect.flip)
      assert.strictEqual(error._tag, "ListenFailed")
      assert.include(error.message, String(port))
    }))

  it.live("tells the others how far it holds everything", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* startNode(folder, "writer")
      const { revision } = yield* Context.get(writer, Registrar).publish({ path: "db/a" }, text("x"))
      const reader = yield* startNode(folder, "reader")
      // How far a member has got changes all the time, and is no change of the members.
      yield* Effect.repeat(Context.get(reader, Membership).members, {
        until: (members) =>
          members.length === 2 &&
          members.every(({ watermark }) => Option.exists(watermark, ({ through }) => through === revision)),
        schedule: Schedule.spaced("20 millis")
      })
    }))

  it.live("says at a start that another node runs on its folder", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      yield* startNode(folder, "node")
      const error = yield* Layer.build(
        Replication.layerNode.pipe(
          Layer.provide(configure(folder, "node", { nodeId: Option.some(NodeId.make("other")) }))
        )
      ).pipe(Effect.flip)
      assert.strictEqual(error._tag, "FolderTaken")
    }))

  it.live("counts one pull for each file, and one skip for each of its own", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* startNode(folder, "writer")
      const reader = yield* startNode(folder, "reader")
      const receipts = yield* Context.get(reader, Puller).receipts
      const pulls = yield* receipts.pipe(
        Stream.filter(({ _tag }) => _tag === "Pulled"),
        Stream.take(5),
        Stream.runDrain,
        Effect.forkChild({ startImmediately: true })
      )
      for (let n = 0; n < 5; n++) {
        yield* Context.get(writer, Registrar).publish({ path: `db/${n}` }, text(String(n)))
      }
      yield* Fiber.join(pulls)
      const wrote = yield* Context.get(writer, Puller).stats
      assert.deepStrictEqual([wrote.pulled, wrote.skippedSelf], [0, 5])
      assert.strictEqual((yield* Context.get(reader, Puller).stats).pulled, 5)
    }))
})
