/**
 * Three nodes in memory, and random interleavings of everything that can happen to them: publishing, deleting, crashes
 * and restarts, files that vanish or are damaged, a manifest that is away. Afterwards the cluster must come to rest with
 * every promise kept. The seed is in the test's name; `SEED=n` tries another, `RUNS=n` more of them, and
 * `npm run soak:interleavings` 10,000 of them.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Layer, Option, Random, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as BackendMemory from "../../src/backend/BackendMemory.ts"
import * as InventoryMemory from "../../src/inventory/InventoryMemory.ts"
import * as ManifestMemory from "../../src/manifest/ManifestMemory.ts"
import * as MembershipStatic from "../../src/membership/MembershipStatic.ts"
import * as PeerResolverOriginFirst from "../../src/membership/PeerResolverOriginFirst.ts"
import { Backend } from "../../src/ports/Backend.ts"
import { FetchClient, FileNotOnPeer, PeerUnreachable, ShortBody } from "../../src/ports/FetchClient.ts"
import { NodeId, sameBytes } from "../../src/ports/FileEntry.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import * as Background from "../../src/replication/Background.ts"
import * as CatchUp from "../../src/replication/CatchUp.ts"
import * as Leases from "../../src/replication/Leases.ts"
import * as LocalCheck from "../../src/replication/LocalCheck.ts"
import * as PathLock from "../../src/replication/PathLock.ts"
import * as Placement from "../../src/replication/Placement.ts"
import * as Puller from "../../src/replication/Puller.ts"
import * as Registrar from "../../src/replication/Registrar.ts"
import * as Room from "../../src/replication/Room.ts"
import * as Unlinker from "../../src/replication/Unlinker.ts"
import { entryOf } from "../support/entries.ts"
import { peer } from "./node.ts"

const names = ["node-1", "node-2", "node-3"]
const paths = ["db/a", "db/b", "db/c", "db/d"].map((path) => FilePath.make(path))

/** What survives a crash: the disk and the inventory. What runs is there or not. */
interface SimulatedNode {
  readonly id: NodeId
  readonly backend: Backend["Service"]
  readonly inventory: Inventory["Service"]
  running: { readonly scope: Scope.Closeable; readonly registrar: Registrar.Registrar["Service"] } | undefined
}

/** What lies under a path, as text; `undefined` when nothing does. */
const textOf = Effect.fnUntraced(function*(node: SimulatedNode, path: FilePath) {
  const stat = yield* node.backend.stat(path)
  if (Option.isNone(stat)) return undefined
  const chunks: Array<Uint8Array> = []
  yield* node.backend.read(path, 0, stat.value.size, {
    write: (chunk) => Effect.sync(() => void chunks.push(chunk.slice()))
  })
  return Buffer.concat(chunks).toString()
})

/** A disk on which much else may happen between a file's name and the answer that it has it. */
const slowDisk = (backend: Backend["Service"]): Backend["Service"] => {
  const pause = Effect.flatMap(
    Random.nextIntBetween(0, 30),
    (turns) => Effect.forEach(Array.from({ length: turns }), () => Effect.yieldNow, { discard: true })
  )
  return Backend.of({
    ...backend,
    stage: (path, expected) =>
      Effect.map(backend.stage(path, expected), (staged) => ({
        ...staged,
        commit: (digest) => Effect.tap(staged.commit(digest), () => pause)
      }))
  })
}

const makeWorld = Effect.gen(function*() {
  const { control, manifest } = yield* ManifestMemory.make
  const nodes = yield* Effect.forEach(
    names,
    (name) =>
      Effect.map(
        Layer.build(Layer.merge(Layer.fresh(BackendMemory.layer), Layer.fresh(InventoryMemory.layer))),
        (disk) => {
          const node: SimulatedNode = {
            id: NodeId.make(name),
            backend: slowDisk(Context.get(disk, Backend)),
            inventory: Context.get(disk, Inventory),
            running: undefined
          }
          return node
        }
      )
  )

  // The wire: a node that runs serves what it has verified, as it lies on its disk; it may break in mid-body.
  const client = FetchClient.of({
    fetch: (asked, entry, offset, sink) =>
      Effect.gen(function*() {
        const about = { peer: asked.id, path: entry.path }
        const other = nodes.find(({ id }) => id === asked.id)
        yield* Effect.yieldNow
        if (other?.running === undefined) return yield* new PeerUnreachable({ ...about, detail: "it is down" })
        const held = yield* Effect.orDie(other.inventory.verified(entry.path))
        if (Option.isNone(held) || !sameBytes(held.value.file.entry, entry)) {
          return yield* new FileNotOnPeer({ ...about, code: "not_found" })
        }
        const text = yield* Effect.orDie(textOf(other, entry.path))
        if (text === undefined || text.length !== entry.size_bytes) {
          return yield* new FileNotOnPeer({ ...about, code: "not_found" })
        }
        const bytes = Buffer.from(text).subarray(offset)
        const half = bytes.length >> 1
        yield* sink.write(bytes.subarray(0, half))
        if ((yield* Random.next) < 0.2) {
          return yield* new ShortBody({ ...about, expected: bytes.length, received: half })
        }
        yield* Effect.yieldNow
        yield* sink.write(bytes.subarray(half))
      })
  })

  const start = Effect.fnUntraced(function*(node: SimulatedNode) {
    if (node.running !== undefined) return
    const scope = yield* Scope.make()
    const ports = Layer.mergeAll(
      Layer.succeed(Backend, node.backend),
      Layer.succeed(Inventory, node.inventory),
      Layer.succeed(Manifest, manifest),
      Layer.succeed(FetchClient, client),
      Layer.provideMerge(
        PeerResolverOriginFirst.layer,
        MembershipStatic.layer({ self: { id: node.id, role: "writer" }, peers: names.map(peer) })
      )
    )
    const layer = CatchUp.layer({
      deleteGraceMillis: 500,
      enabled: true,
      barrierTimeoutMillis: 10_000,
      highWater: 3,
      walkIntervalMillis: 600_000
    }).pipe(
      Layer.provideMerge(LocalCheck.layer({ reconcileIntervalMillis: 300_000 })),
      Layer.provideMerge(Puller.layer({ workers: 2, queueSize: 4, maxAttempts: 2, initialBackoffMillis: 100 })),
      Layer.provideMerge(Unlinker.layer),
      Layer.provide(Leases.layer),
      Layer.provideMerge(
        Registrar.layer({ queueSize: 8, drainMillis: 100, finishesPending: true, reconcileIntervalMillis: 60_000 })
      ),
      Layer.provideMerge(Placement.layer),
      Layer.provide(Room.layer({ minFreeBytes: 0 })),
      Layer.provideMerge(Layer.mergeAll(PathLock.layer, Background.layer)),
      Layer.provideMerge(ports)
    )
    const context = yield* Layer.buildWithScope(Layer.fresh(layer), scope)
    node.running = { scope, registrar: Context.get(context, Registrar.Registrar) }
  })

  /** Stops a node wherever it is. Its drain may wait for a manifest that is away, so time goes on meanwhile. */
  const stop = Effect.fnUntraced(function*(node: SimulatedNode) {
    const { running } = node
    node.running = undefined
    if (running === undefined) return
    const closing = yield* Effect.forkChild(Scope.close(running.scope, Exit.void), { startImmediately: true })
    while (closing.pollUnsafe() === undefined) {
      yield* TestClock.adjust("1 second")
      yield* Effect.yieldNow
    }
  })
  return { control, manifest, nodes, start, stop }
})

type World = Effect.Success<typeof makeWorld>

const pick = <A>(from: ReadonlyArray<A>) => Effect.map(Random.choice(from), (chosen) => chosen)

const step = Effect.fnUntraced(function*({ control, manifest, nodes, start, stop }: World) {
  const node = yield* pick(nodes)
  const path = yield* pick(paths)
  const dice = yield* Random.next
  if (dice < 0.3) {
    // Two nodes may well publish one path with other bytes.
    const text = `${path} ${yield* Random.nextIntBetween(0, 2)} ${"x".repeat(yield* Random.nextIntBetween(0, 40))}`
    if (node.running === undefined) return
    yield* node.running.registrar.publish({ path }, new TextEncoder().encode(text)).pipe(
      Effect.ignore,
      Effect.forkDetach({ startImmediately: true })
    )
  } else if (dice < 0.38) yield* Effect.ignore(manifest.remove(path, "retention"))
  else if (dice < 0.5) yield* stop(node)
  else if (dice < 0.68) yield* start(node)
  else if (dice < 0.74) yield* node.backend.remove(path)
  else if (dice < 0.8) {
    // Bytes of the same length, and others.
    const text = yield* textOf(node, path)
    if (text === undefined || text === "") return
    yield* node.backend.remove(path)
    const wrong = `!${text.slice(1)}`
    yield* Effect.scoped(Effect.gen(function*() {
      const staged = yield* node.backend.stage(path)
      yield* staged.write(new TextEncoder().encode(wrong))
      yield* staged.commit((yield* staged.seal).sha256)
    }))
  } else if (dice < 0.85) yield* control.setUnavailable(Option.some("away"))
  else if (dice < 0.9) yield* control.setUnavailable(Option.none())
  else yield* TestClock.adjust(`${yield* Random.nextIntBetween(1, 2000)} millis`)
  for (let n = yield* Random.nextIntBetween(0, 8); n > 0; n--) yield* Effect.yieldNow
})

/** Whether every node has everything and nothing to do. */
const atRest = Effect.fnUntraced(function*({ manifest, nodes }: World) {
  const head = yield* manifest.head
  for (const { inventory } of nodes) {
    const { cursor, owed, unlinking } = yield* inventory.progress
    if (owed.files + unlinking > 0 || !Option.exists(cursor, ({ revision }) => revision === head.revision)) return false
    if ((yield* inventory.pendings).length > 0) return false
  }
  return true
})

/**
 * Everything up and undisturbed, at least until files have been compared with the disk again, and until nothing is left
 * to do; where a file is lost everywhere that is never, so there is an end.
 */
const settle = Effect.fnUntraced(function*(world: World) {
  yield* world.control.setUnavailable(Option.none())
  yield* Effect.forEach(world.nodes, world.start)
  for (let minute = 0; minute < 40; minute++) {
    yield* TestClock.adjust("1 minute")
    for (let n = 0; n < 20; n++) yield* Effect.yieldNow
    if (minute > 6 && (yield* atRest(world))) return
  }
})

const check = Effect.fnUntraced(function*({ manifest, nodes }: World) {
  const head = yield* manifest.head
  for (const path of paths) {
    const standing = yield* manifest.get(path)
    const texts = yield* Effect.forEach(nodes, (node) => textOf(node, path))
    const rows = yield* Effect.forEach(nodes, (node) => node.inventory.why(path))
    const right = texts.map((text) =>
      text !== undefined &&
      Option.exists(standing, ({ entry }) => sameBytes(entry, { ...entry, ...digest(path, text) }))
    )
    for (const [n, node] of nodes.entries()) {
      const row = rows[n] ?? Option.none()
      const at = `${path} on ${node.id}`
      if (Option.isNone(standing)) {
        assert.isUndefined(texts[n], `${at} is deleted, and yet there`)
        assert.isTrue(Option.isNone(row), `${at} is deleted, and yet in the inventory`)
      } else if (Option.isSome(row) && row.value._tag === "Verified") {
        assert.isTrue(right[n], `${at} is verified, and wrong`)
      } else {
        assert.isTrue(Option.isSome(row) && row.value._tag === "Owed", `${at} is neither here nor owed`)
        assert.isUndefined(texts[n], `${at} is visible, and not verified`)
        assert.isFalse(right.includes(true), `${at} is still owed, and a live node has it`)
      }
    }
  }
  for (const { id, inventory } of nodes) {
    const { cursor, owed, verifiedThrough } = yield* inventory.progress
    assert.strictEqual(Option.getOrThrow(cursor).revision, head.revision, `${id} has not taken every event`)
    if (owed.files === 0) assert.strictEqual(verifiedThrough, head.revision)
    assert.deepStrictEqual(yield* inventory.pendings, [], `${id} has something pending`)
  }
})

const digest = (path: string, text: string) => {
  const { sha256, size_bytes } = entryOf(path, text)
  return { sha256, size_bytes }
}

const runs = Number(process.env["RUNS"] ?? "250")
const seed = process.env["SEED"] ?? String(process.hrtime.bigint() % 1_000_000n)

describe("any interleaving", () => {
  it.effect(`of ${runs}, from seed ${seed}, ends with every promise kept`, () =>
    Effect.forEach(
      Array.from({ length: runs }, (_, run) => run),
      (run) =>
        Effect.scoped(Effect.gen(function*() {
          const world = yield* makeWorld
          yield* Effect.forEach(world.nodes, world.start)
          for (let n = yield* Random.nextIntBetween(5, 30); n > 0; n--) yield* step(world)
          yield* settle(world)
          // What nobody has any more stays owed; what some node has is everywhere; what is deleted is nowhere.
          yield* check(world)
          yield* Effect.forEach(world.nodes, world.stop)
        })).pipe(
          Random.withSeed(`${seed}/${run}`),
          Effect.catchCause((cause) => Effect.die(new Error(`run ${run} of ${seed}`, { cause: Cause.squash(cause) })))
        ),
      { discard: true }
    ), 60_000 + runs * 1000)
})
