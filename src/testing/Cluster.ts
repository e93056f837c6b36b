/**
 * Nodes for the tests of an application: in memory, in this process, without a disk or a socket, on whatever clock the
 * test has.
 *
 * ```ts
 * const cluster = yield* Cluster.make(["writer", "reader"])
 * const writer = yield* Layer.build(cluster.layerTest("writer"))
 * const reader = yield* Layer.build(cluster.layerTest("reader"))
 * ```
 *
 * Everything but the edges is the real thing: what one publishes the other follows, pulls, verifies and shows. A node
 * whose scope has closed is unreachable; what it held in memory is gone.
 */
import { Context, Effect, Layer, Schema } from "effect"
import * as BackendMemory from "../backend/BackendMemory.ts"
import * as InventoryMemory from "../inventory/InventoryMemory.ts"
import * as ManifestMemory from "../manifest/ManifestMemory.ts"
import * as MembershipStatic from "../membership/MembershipStatic.ts"
import * as PeerResolverOriginFirst from "../membership/PeerResolverOriginFirst.ts"
import { Backend } from "../ports/Backend.ts"
import { explain } from "../ports/explain.ts"
import { FetchClient, FileNotOnPeer, PeerRejected, PeerUnreachable } from "../ports/FetchClient.ts"
import { NodeId } from "../ports/FileEntry.ts"
import { Inventory } from "../ports/Inventory.ts"
import { Manifest } from "../ports/Manifest.ts"
import { MembershipError } from "../ports/Membership.ts"
import type { Ports } from "../Replication.ts"
import * as Background from "../replication/Background.ts"
import * as CatchUp from "../replication/CatchUp.ts"
import * as Contact from "../replication/Contact.ts"
import * as Leases from "../replication/Leases.ts"
import * as LocalCheck from "../replication/LocalCheck.ts"
import * as PathLock from "../replication/PathLock.ts"
import * as Placement from "../replication/Placement.ts"
import * as Puller from "../replication/Puller.ts"
import * as Readiness from "../replication/Readiness.ts"
import * as Registrar from "../replication/Registrar.ts"
import * as Room from "../replication/Room.ts"
import * as Scrub from "../replication/Scrub.ts"
import * as Unlinker from "../replication/Unlinker.ts"

/** What a node in memory offers: all that an application uses of a real one, without its listener. */
export type Node =
  | Ports
  | Background.Background
  | CatchUp.CatchUp
  | Leases.Leases
  | LocalCheck.LocalCheck
  | Puller.Puller
  | Readiness.Readiness
  | Registrar.Registrar
  | Scrub.Scrub

export interface Cluster {
  /** One of the nodes. Each build is a node that begins with nothing. Fails where the cluster has none of that id. */
  readonly layerTest: (id: string) => Layer.Layer<Node, MembershipError>
  /** What a test does to the manifest behind everybody's back: takes it away, puts a backup back. */
  readonly manifest: ManifestMemory.Control
}

/** What the others ask of a node. */
type Held = Backend | Inventory

/** Moves the bytes from one node's memory into another's. */
const client = (nodes: ReadonlyMap<string, Context.Context<Held>>) =>
  Layer.succeed(FetchClient, {
    fetch: (peer, entry, offset, sink) =>
      Effect.gen(function*() {
        const asked = { peer: peer.id, path: entry.path }
        const node = nodes.get(peer.id)
        if (node === undefined) return yield* new PeerUnreachable({ ...asked, detail: "it does not run" })
        const held = yield* Context.get(node, Inventory).verified(entry.path).pipe(
          Effect.mapError(() => new PeerRejected({ ...asked, code: "backend" }))
        )
        if (held._tag === "None" || held.value.file.entry.sha256 !== entry.sha256) {
          return yield* new FileNotOnPeer({ ...asked, code: "not_found" })
        }
        // The sink may fail with an error of the same class as the disk it is read from.
        yield* Context.get(node, Backend).read(entry.path, offset, entry.size_bytes - offset, {
          write: (chunk) => Effect.mapError(sink.write(chunk), (error) => new OfSink(error))
        }).pipe(
          Effect.mapError((error) =>
            error instanceof OfSink ? error.error : new PeerRejected({ ...asked, code: "backend" })
          )
        )
      })
  })

class OfSink<E> {
  readonly error: E
  constructor(error: E) {
    this.error = error
  }
}

const behaviour = Readiness.layer({ readyMaxLagMillis: 0, gated: true }).pipe(
  Layer.provide(Contact.layer),
  Layer.provideMerge(CatchUp.layer({
    deleteGraceMillis: 500,
    enabled: true,
    barrierTimeoutMillis: 10_000,
    highWater: 800,
    walkIntervalMillis: 0
  })),
  Layer.provideMerge(Scrub.layer({ bytesPerSecond: 0, intervalMillis: 0 })),
  Layer.provideMerge(LocalCheck.layer({ reconcileIntervalMillis: 0 })),
  Layer.provideMerge(Puller.layer({ workers: 4, queueSize: 1000, maxAttempts: 3, initialBackoffMillis: 100 })),
  Layer.provide(Unlinker.layer),
  Layer.provideMerge(Leases.layer),
  Layer.provideMerge(
    Registrar.layer({ queueSize: 1000, drainMillis: 1000, finishesPending: true, reconcileIntervalMillis: 60_000 })
  ),
  Layer.provide(Placement.layer),
  Layer.provide(PathLock.layer),
  Layer.provide(Room.layer({ minFreeBytes: 0 })),
  Layer.provideMerge(Background.layer)
)

const decodeIds = Schema.decodeUnknownEffect(Schema.Array(NodeId))

/**
 * Nodes that share a manifest and know each other; those named `writer…` are writers. Fails where one of the names is no
 * id of a node.
 */
export const make = (ids: ReadonlyArray<string>): Effect.Effect<Cluster, MembershipError> =>
  Effect.gen(function*() {
    const { control, manifest } = yield* ManifestMemory.make
    const nodes = new Map<string, Context.Context<Held>>()
    const nodeIds = yield* Effect.mapError(
      decodeIds(ids),
      (error) => new MembershipError({ operation: "open", detail: explain(error) })
    )
    const peers = nodeIds.map((id, n) => ({ id, address: { host: "memory", port: n + 1 } }))

    /** Known to the others as long as it lives. */
    const reachable = (id: string) =>
      Layer.effectDiscard(Effect.flatMap(Effect.context<Held>(), (context) =>
        Effect.acquireRelease(
          Effect.sync(() => nodes.set(id, context)),
          () => Effect.sync(() => nodes.delete(id))
        )))

    const layerOf = (id: NodeId): Layer.Layer<Node, MembershipError> =>
      behaviour.pipe(
        Layer.provideMerge(reachable(id)),
        Layer.provideMerge(PeerResolverOriginFirst.layer),
        Layer.provideMerge(Layer.mergeAll(
          Layer.succeed(Manifest, manifest),
          Layer.fresh(BackendMemory.layer),
          Layer.fresh(InventoryMemory.layer),
          client(nodes),
          MembershipStatic.layer({
            self: { id, role: id.startsWith("writer") ? "writer" : "reader" },
            peers
          })
        ))
      )

    const layerTest = (name: string): Layer.Layer<Node, MembershipError> => {
      const id = nodeIds.find((id) => id === name)
      if (id !== undefined) return layerOf(id)
      const detail = `${JSON.stringify(name)} is none of the nodes of this cluster: ${nodeIds.join(", ")}`
      return Layer.unwrap(Effect.fail(new MembershipError({ operation: "open", detail })))
    }

    return { layerTest, manifest: control }
  })

/** A node that is alone. */
export const layerMemory: Layer.Layer<Node, MembershipError> = Layer.unwrap(
  Effect.map(make(["writer"]), ({ layerTest }) => layerTest("writer"))
)
