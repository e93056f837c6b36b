/** One node in memory, with peers whose answers a test scripts. */
import { Clock, Context, Deferred, Effect, Layer, Option, Queue, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as BackendMemory from "../../src/backend/BackendMemory.ts"
import * as InventoryMemory from "../../src/inventory/InventoryMemory.ts"
import * as ManifestMemory from "../../src/manifest/ManifestMemory.ts"
import * as MembershipStatic from "../../src/membership/MembershipStatic.ts"
import * as PeerResolverOriginFirst from "../../src/membership/PeerResolverOriginFirst.ts"
import { Backend } from "../../src/ports/Backend.ts"
import type { ByteSink } from "../../src/ports/ByteSink.ts"
import {
  type Elsewhere,
  FetchClient,
  type FetchError,
  type FetchTogether,
  PeerUnreachable
} from "../../src/ports/FetchClient.ts"
import { type FileEntry, NodeId, type Registered, Revision } from "../../src/ports/FileEntry.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory, type InventoryError } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import type { Membership } from "../../src/ports/Membership.ts"
import type { Peer } from "../../src/ports/PeerResolver.ts"
import * as Background from "../../src/replication/Background.ts"
import * as CatchUp from "../../src/replication/CatchUp.ts"
import * as Contact from "../../src/replication/Contact.ts"
import * as Leases from "../../src/replication/Leases.ts"
import * as LocalCheck from "../../src/replication/LocalCheck.ts"
import * as PathLock from "../../src/replication/PathLock.ts"
import * as Placement from "../../src/replication/Placement.ts"
import * as Puller from "../../src/replication/Puller.ts"
import * as Readiness from "../../src/replication/Readiness.ts"
import * as Registrar from "../../src/replication/Registrar.ts"
import * as Room from "../../src/replication/Room.ts"
import * as Scrub from "../../src/replication/Scrub.ts"
import type { Status } from "../../src/replication/Status.ts"
import * as Unlinker from "../../src/replication/Unlinker.ts"
import { entryOf } from "../support/entries.ts"

export const self = NodeId.make("self")
export const peer = (name: string) => ({ id: NodeId.make(name), address: { host: "127.0.0.1", port: 9 } })

/** A file of another node, at a revision. */
export const fileOf = (path: string, revision = 1, origin = "node-1"): Registered => ({
  entry: entryOf(path, path, { origin_node_id: origin }),
  revision: Revision.make(revision)
})

/** The bytes of a file that `fileOf` makes: its path. */
export const bytesOf = (entry: FileEntry): Uint8Array => new TextEncoder().encode(entry.path)

/** What a peer does with a request: fails, or sends bytes into the sink. */
export type Script = <E>(
  peer: Peer,
  entry: FileEntry,
  offset: number,
  sink: ByteSink<E>,
  elsewhere?: Elsewhere
) => Effect.Effect<void, FetchError | E>

/** Sends the right bytes. */
export const honest: Script = (_peer, entry, offset, sink) => sink.write(bytesOf(entry).subarray(offset))

export const unreachable: Script = (peer, entry) =>
  Effect.fail(new PeerUnreachable({ peer: peer.id, path: entry.path, detail: "refused" }))

/** Every dial, in order. */
export class Dials extends Context.Service<Dials, {
  readonly all: Array<{ readonly peer: string; readonly path: string; readonly offset: number }>
  /** One for each dial, to wait for. */
  readonly next: Effect.Effect<string>
}>()("test/Dials") {}

/** Who was dialled, and from which offset on unless it was 0. */
export const dialled = Effect.map(
  Dials,
  ({ all }) => all.map(({ offset, peer }) => (offset === 0 ? peer : `${peer}@${offset}`))
)

const client = (script: Script, together: ((peer: Peer) => Option.Option<FetchTogether>) | undefined) =>
  Layer.unwrap(Effect.gen(function*() {
    const queue = yield* Queue.unbounded<string>()
    const all: Array<{ peer: string; path: string; offset: number }> = []
    return Layer.merge(
      Layer.succeed(FetchClient, {
        fetch: (peer, entry, offset, sink, elsewhere) =>
          Effect.suspend(() => {
            all.push({ peer: peer.id, path: entry.path, offset })
            Queue.offerUnsafe(queue, peer.id)
            return script(peer, entry, offset, sink, elsewhere)
          }),
        ...(together === undefined ? {} : { together })
      }),
      Layer.succeed(Dials, { all, next: Queue.take(queue) })
    )
  }))

export interface NodeOptions extends Partial<Puller.PullerOptions> {
  readonly script?: Script
  /** How peers are asked for several files at once; nobody is, unless told. */
  readonly together?: (peer: Peer) => Option.Option<FetchTogether>
  readonly peers?: ReadonlyArray<string>
  /** Whether the manifest is walked. */
  readonly catchUp?: boolean
  readonly walkIntervalMillis?: number
  readonly scrubIntervalMillis?: number
  readonly minFreeBytes?: number
  readonly reconcileIntervalMillis?: number
  /** The manifest does not answer until its control says otherwise. */
  readonly manifestAway?: boolean
  /** Stands between the node and the manifest. */
  readonly manifest?: (inner: Manifest["Service"]) => Manifest["Service"]
  /** The gate is shut while the node is not ready. */
  readonly gated?: boolean
  /** Stands between the puller and the disk. */
  readonly backend?: Layer.Layer<Backend, never, Backend>
  /** In place of an empty one. */
  readonly inventory?: Inventory["Service"]
  /** In place of a fixed list of `peers`. */
  readonly membership?: Layer.Layer<Membership>
  /** What has happened before the node starts. */
  readonly before?: Effect.Effect<void, InventoryError, Inventory>
}

const defaults: Puller.PullerOptions = { workers: 2, queueSize: 4, maxAttempts: 3, initialBackoffMillis: 100 }

export const nodeLayer = (options: NodeOptions = {}) =>
  Puller.layer({ ...defaults, ...options }).pipe(
    Layer.provideMerge(Placement.layer),
    Layer.provideMerge(Room.layer({ minFreeBytes: options.minFreeBytes ?? 0 })),
    Layer.provideMerge(Layer.effectDiscard(options.before ?? Effect.void)),
    Layer.provideMerge(Layer.mergeAll(PathLock.layer, Background.layer, PeerResolverOriginFirst.layer)),
    Layer.provideMerge(Layer.mergeAll(
      options.backend === undefined ? BackendMemory.layer : Layer.provide(options.backend, BackendMemory.layer),
      options.inventory === undefined ? InventoryMemory.layer : Layer.succeed(Inventory, options.inventory),
      client(options.script ?? honest, options.together),
      options.membership
        ?? MembershipStatic.layer({
          self: { id: self, role: "reader" },
          peers: (options.peers ?? ["node-1"]).map(peer)
        })
    ))
  )

/** What a test does to the manifest behind everybody's back. */
export class ManifestControl
  extends Context.Service<ManifestControl, ManifestMemory.Control>()("test/ManifestControl")
{}

const makeManifest = (away: boolean, between = (inner: Manifest["Service"]) => inner) =>
  Layer.unwrap(Effect.gen(function*() {
    const { control, manifest } = yield* ManifestMemory.make
    if (away) yield* control.setUnavailable(Option.some("away"))
    return Layer.merge(Layer.succeed(Manifest, between(manifest)), Layer.succeed(ManifestControl, control))
  }))

export const manifestLayer = makeManifest(false)

/** A node with a manifest: it publishes, follows, pulls and unlinks. */
export const clusterLayer = (options: NodeOptions = {}) =>
  Readiness.layer({ readyMaxLagMillis: 0, gated: options.gated ?? false }).pipe(
    Layer.provideMerge(Contact.layer),
    Layer.provideMerge(CatchUp.layer({
      deleteGraceMillis: 500,
      enabled: options.catchUp ?? true,
      barrierTimeoutMillis: 10_000,
      highWater: 0.8 * (options.queueSize ?? defaults.queueSize),
      walkIntervalMillis: options.walkIntervalMillis ?? 0
    })),
    Layer.provideMerge(Scrub.layer({ bytesPerSecond: 0, intervalMillis: options.scrubIntervalMillis ?? 0 })),
    Layer.provideMerge(LocalCheck.layer({ reconcileIntervalMillis: options.reconcileIntervalMillis ?? 0 })),
    Layer.provideMerge(Unlinker.layer),
    Layer.provideMerge(Leases.layer),
    Layer.provideMerge(
      Registrar.layer({ queueSize: 8, drainMillis: 1000, finishesPending: true, reconcileIntervalMillis: 60_000 })
    ),
    Layer.provideMerge(nodeLayer(options)),
    Layer.provideMerge(makeManifest(options.manifestAway ?? false, options.manifest))
  )

/** Runs a test on a node of its own. */
export const onNode = (options: NodeOptions) => <A, E, R>(test: Effect.Effect<A, E, R>) =>
  Effect.provide(test, nodeLayer(options))

/** The receipts of the puller, one at a time, from now on. */
export const receiptsOf = Effect.gen(function*() {
  const { receipts } = yield* Puller.Puller
  const queue = yield* Queue.unbounded<Puller.Receipt>()
  const stream = yield* receipts
  yield* Effect.forkScoped(Stream.runForEach(stream, (receipt) => Queue.offer(queue, receipt)))
  return Queue.take(queue)
})

/** Records a file as verified and lays its bytes down, as if it had been pulled long ago. */
export const hold = Effect.fnUntraced(function*(file: Registered) {
  const backend = yield* Backend
  const inventory = yield* Inventory
  const due = yield* Clock.currentTimeMillis
  yield* inventory.apply([{ _tag: "Owe", file, reason: "", due }])
  yield* Effect.scoped(Effect.gen(function*() {
    const staged = yield* backend.stage(file.entry.path, file.entry.sha256)
    yield* staged.write(bytesOf(file.entry))
    yield* inventory.settle(file, yield* staged.commit(file.entry.sha256))
  }))
})

/** The text that lies under a path; `none` when nothing does. */
export const textUnder = Effect.fnUntraced(function*(path: string) {
  const backend = yield* Backend
  const at = FilePath.make(path)
  const stat = yield* backend.stat(at)
  if (Option.isNone(stat)) return Option.none<string>()
  const chunks: Array<Uint8Array> = []
  yield* backend.read(at, 0, stat.value.size, {
    write: (chunk) => Effect.sync(() => void chunks.push(chunk.slice()))
  })
  return Option.some(Buffer.concat(chunks).toString())
})

/** A script that waits until it is told to go on, and says when it was interrupted. */
export const makeGate = Effect.gen(function*() {
  const open = yield* Deferred.make<void>()
  const interrupted = yield* Queue.unbounded<string>()
  const script: Script = (peer, entry, offset, sink) =>
    Deferred.await(open).pipe(
      Effect.onInterrupt(() => Queue.offer(interrupted, entry.path)),
      Effect.andThen(honest(peer, entry, offset, sink))
    )
  return { script, open: Deferred.succeed(open, undefined), interrupted: Queue.take(interrupted) }
})

/** Waits for something while time passes: fibers that hash begin their sleeps when they get there. */
export const passing = <A, E, R>(awaited: Effect.Effect<A, E, R>) =>
  Effect.raceFirst(awaited, Effect.forever(Effect.andThen(TestClock.adjust("50 millis"), Effect.yieldNow)))

/** Lets time pass until the status says so. */
export const untilStatus = Effect.fnUntraced(function*(holds: (status: Status) => boolean) {
  const readiness = yield* Readiness.Readiness
  yield* Effect.repeat(
    Effect.flatMap(
      readiness.status,
      (status) => holds(status) ? Effect.succeed(true) : Effect.as(TestClock.adjust("1 second"), false)
    ),
    { until: (held) => held }
  )
})
export const untilReady = untilStatus(({ ready }) => ready)
