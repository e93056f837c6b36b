/**
 * The whole graph, as layers.
 *
 * Layers close in the reverse of the order in which they are built, along one chain. Read `layerActive` from its end:
 *
 * 1. the ports: manifest, inventory, backend, membership, and the two that stand on them — closed last
 * 2. the listener — stops accepting; bodies in flight get their grace, then they are cut
 * 3. the registrar — drains its queue into the manifest
 * 4. puller, catch-up, local check and scrub — no new pulls, those in flight are interrupted at once
 * 5. the watch folder — closed first
 */
import { Context, Effect, Layer, Option } from "effect"
import { dirname } from "node:path"
import * as BackendLocal from "./backend/BackendLocal.ts"
import { nodeIdOf } from "./backend/NodeIdFile.ts"
import { parsePeer } from "./config/settings.ts"
import * as EtcdClient from "./etcd/EtcdClient.ts"
import { fromConfig, oneConfig } from "./fromConfig.ts"
import { advertised, etcdNamespace, etcdOptions, listenAddress, makeFolder, tlsIdentity, wire } from "./fromSettings.ts"
import * as InventorySqlite from "./inventory/InventorySqlite.ts"
import * as ManifestEtcd from "./manifest/ManifestEtcd.ts"
import * as ManifestSqlite from "./manifest/ManifestSqlite.ts"
import * as MembershipEtcd from "./membership/MembershipEtcd.ts"
import * as MembershipSqlite from "./membership/MembershipSqlite.ts"
import * as MembershipStatic from "./membership/MembershipStatic.ts"
import * as PeerResolverOriginFirst from "./membership/PeerResolverOriginFirst.ts"
import * as FetchClientTcp from "./peer/FetchClientTcp.ts"
import * as FetchServer from "./peer/FetchServer.ts"
import * as RateLimits from "./peer/RateLimits.ts"
import type { ListenFailed } from "./peer/transport/listen.ts"
import type { TlsInvalid } from "./peer/transport/Tls.ts"
import type { Backend, BackendError } from "./ports/Backend.ts"
import type { FetchClient } from "./ports/FetchClient.ts"
import type { Inventory, InventoryError } from "./ports/Inventory.ts"
import type { Manifest, Unavailable } from "./ports/Manifest.ts"
import { Membership, type MembershipError, type NodeIdTaken } from "./ports/Membership.ts"
import type { PeerResolver } from "./ports/PeerResolver.ts"
import * as Background from "./replication/Background.ts"
import * as CatchUp from "./replication/CatchUp.ts"
import * as Contact from "./replication/Contact.ts"
import * as Copies from "./replication/Copies.ts"
import * as Drain from "./replication/Drain.ts"
import * as Identity from "./replication/Identity.ts"
import * as Leases from "./replication/Leases.ts"
import * as Leftovers from "./replication/Leftovers.ts"
import * as LocalCheck from "./replication/LocalCheck.ts"
import * as Monitoring from "./replication/Monitoring.ts"
import * as PathLock from "./replication/PathLock.ts"
import * as Placement from "./replication/Placement.ts"
import * as Puller from "./replication/Puller.ts"
import * as Readiness from "./replication/Readiness.ts"
import * as Registrar from "./replication/Registrar.ts"
import * as Room from "./replication/Room.ts"
import * as Scrub from "./replication/Scrub.ts"
import * as Tombstones from "./replication/Tombstones.ts"
import * as Unlinker from "./replication/Unlinker.ts"
import * as WatchFolder from "./replication/WatchFolder.ts"
import * as Watermark from "./replication/Watermark.ts"
import { ConfigError, folders, ReplicationConfig, type Settings } from "./ReplicationConfig.ts"
import * as FolderLock from "./sqlite/FolderLock.ts"
import { version } from "./version.ts"

/** Everything that can keep a node from starting. */
export type StartError =
  | BackendError
  | ConfigError
  | FolderLock.FolderTaken
  | Identity.IdentityError
  | InventoryError
  | ListenFailed
  | MembershipError
  | NodeIdTaken
  | TlsInvalid
  | Unavailable

// -----------------------------------------------------------------------------
// Ports
// -----------------------------------------------------------------------------

/** What the graph stands on. Each can be replaced by a layer of your own. */
export type Ports = Manifest | Inventory | Backend | Membership | PeerResolver | FetchClient

/** One layer a port. A resolver and a client may use what stands below them. */
export interface PortLayers<E> {
  readonly manifest: Layer.Layer<Manifest, E, ReplicationConfig>
  readonly backend: Layer.Layer<Backend, E, ReplicationConfig>
  readonly inventory: Layer.Layer<Inventory, E, ReplicationConfig | Backend>
  readonly membership: Layer.Layer<Membership, E, ReplicationConfig>
  readonly peerResolver: Layer.Layer<PeerResolver, E, ReplicationConfig | Membership | Inventory>
  readonly fetchClient: Layer.Layer<FetchClient, E, ReplicationConfig | Membership>
}

const nodeId = (settings: Settings) =>
  Option.match(settings.nodeId, { onNone: () => nodeIdOf(folders(settings).state), onSome: Effect.succeed })

const backend = (guest: boolean) =>
  fromConfig(Effect.fnUntraced(function*(settings) {
    const { data, state } = folders(settings)
    // Two nodes on one folder would sweep each other's staging, and one copy would count as two.
    if (!guest) yield* FolderLock.acquire(state)
    return BackendLocal.layer({ dataFolder: data, stateFolder: state, fsync: settings.fsync, guest })
  }))

/** One layer, so that the client, the server and whoever changes them have the same limits. */
const rateLimits = fromConfig((settings) =>
  Effect.succeed(RateLimits.layer({
    pullBytesPerSecond: settings.maxPullBytesPerSecond,
    serveBytesPerSecond: settings.maxServeBytesPerSecond
  }))
)

/** One client for all that is kept in etcd. */
const etcdClient = fromConfig((settings) =>
  Effect.map(etcdOptions(settings), (options) =>
    EtcdClient.layer(options).pipe(
      Layer.catchTag("EtcdError", ({ detail }) =>
        Layer.effect(EtcdClient.EtcdClient, new ConfigError({ offences: [`cluster.etcd_*: ${detail}`] })))
    ))
)

const defaultPorts: PortLayers<StartError> = {
  manifest: fromConfig(Effect.fnUntraced(function*(settings) {
    if (settings.manifest === "etcd") {
      return ManifestEtcd.layer({ namespace: etcdNamespace(settings) }).pipe(Layer.provide(etcdClient))
    }
    const path = folders(settings).manifest
    yield* makeFolder(dirname(path))
    return ManifestSqlite.layer({ path })
  })),
  backend: backend(false),
  inventory: fromConfig((settings) => Effect.succeed(InventorySqlite.layer({ path: folders(settings).inventory }))),
  membership: fromConfig(Effect.fnUntraced(function*(settings) {
    const self = { id: yield* nodeId(settings), role: settings.role }
    if (Option.getOrElse(settings.membership, () => settings.manifest) === "static") {
      const peers = settings.peers.flatMap((peer) => parsePeer(peer) ?? [])
      return MembershipStatic.layer({ self, peers })
    }
    if (Option.getOrElse(settings.membership, () => settings.manifest) === "etcd") {
      return MembershipEtcd.layer({ namespace: etcdNamespace(settings), self, version }).pipe(Layer.provide(etcdClient))
    }
    const path = folders(settings).manifest
    yield* makeFolder(dirname(path))
    return MembershipSqlite.layer({ path, self, version })
  })),
  peerResolver: PeerResolverOriginFirst.layer,
  fetchClient: fromConfig(Effect.fnUntraced(function*(settings) {
    const tls = yield* tlsIdentity(settings)
    return Layer.unwrap(
      Effect.map(Membership, ({ self }) =>
        FetchClientTcp.layer({
          ...wire(settings),
          nodeId: self.id,
          tls,
          fetchTimeoutMillis: settings.fetchTimeoutMillis,
          fetchesAtOnce: Math.max(12, settings.pullWorkers),
          requireSignedAcks: settings.requireSignedAcks
        }))
    ).pipe(Layer.provide(rateLimits))
  }))
}

/** The manifest alone, for tools. */
export const layerManifest: Layer.Layer<Manifest, StartError, ReplicationConfig> = defaultPorts.manifest

/** The files of a node for a tool that runs beside it. */
export const layerGuestBackend: Layer.Layer<Backend, StartError, ReplicationConfig> = backend(true)

/** Before anything is done with them, whether the data folder and the inventory belong together. */
const identity = fromConfig((settings) => {
  const { data, inventory } = folders(settings)
  return Effect.succeed(Identity.layer({ dataFolder: data, inventory }))
})

/** The ports of a node, from its configuration; those that are given replace ours, each with errors of its own. */
export const layerPorts = <M = never, B = never, I = never, S = never, R = never, F = never>(
  given: {
    readonly manifest?: PortLayers<M>["manifest"]
    readonly backend?: PortLayers<B>["backend"]
    readonly inventory?: PortLayers<I>["inventory"]
    readonly membership?: PortLayers<S>["membership"]
    readonly peerResolver?: PortLayers<R>["peerResolver"]
    readonly fetchClient?: PortLayers<F>["fetchClient"]
  } = {}
): Layer.Layer<Ports, StartError | M | B | I | S | R | F, ReplicationConfig> => {
  const ports: PortLayers<StartError | M | B | I | S | R | F> = { ...defaultPorts, ...given }
  return Layer.mergeAll(ports.peerResolver, ports.fetchClient).pipe(
    Layer.provideMerge(ports.membership),
    Layer.provideMerge(Layer.provideMerge(identity, ports.inventory)),
    Layer.provideMerge(ports.backend),
    Layer.provideMerge(ports.manifest),
    oneConfig
  )
}

// -----------------------------------------------------------------------------
// The graph
// -----------------------------------------------------------------------------

/** What a running node offers to the application around it, besides its ports. */
export type Services =
  | Background.Background
  | CatchUp.CatchUp
  | Copies.Copies
  | Drain.Drain
  | FetchServer.FetchServer
  | Leases.Leases
  | LocalCheck.LocalCheck
  | Monitoring.Monitoring
  | Puller.Puller
  | RateLimits.RateLimits
  | Readiness.Readiness
  | Registrar.Registrar
  | Room.Room
  | Scrub.Scrub

const listener = fromConfig(Effect.fnUntraced(function*(settings) {
  const tls = yield* tlsIdentity(settings)
  const { host, port } = listenAddress(settings)
  return FetchServer.layer({
    ...wire(settings),
    host,
    port,
    tls,
    serveTimeoutMillis: settings.serveTimeoutMillis,
    maxConnections: settings.maxConnections,
    maxServes: settings.maxServes
  })
}))

/** Tells the other members where this node listens, once it does. */
const announcement = Layer.effectDiscard(Effect.gen(function*() {
  const settings = yield* ReplicationConfig
  const { address } = yield* FetchServer.FetchServer
  const membership = yield* Membership
  yield* membership.announce(yield* advertised(settings, address.port))
}))

/** Room on the disk, for whoever writes there. */
export const layerRoom = fromConfig((settings) => Effect.succeed(Room.layer({ minFreeBytes: settings.minFreeBytes })))

/**
 * Small files that go alone are pulled by more at once; most go together, whoever takes them up. 128 of them cost half as
 * much processor time again, for all that a peer is asked for before it has said that it takes bundles goes alone.
 */
const smallWorkers = (workers: number): number => workers === 1 ? 0 : Math.max(0, 32 - workers)

const puller = fromConfig((settings) =>
  Effect.succeed(Puller.layer({
    workers: settings.pullWorkers,
    smallWorkers: smallWorkers(settings.pullWorkers),
    queueSize: settings.queueSize,
    maxAttempts: settings.retryMaxAttempts,
    initialBackoffMillis: settings.retryInitialBackoffMillis
  }))
)

const registrar = fromConfig((settings) =>
  Effect.succeed(Registrar.layer({
    queueSize: settings.queueSize,
    drainMillis: Math.floor(settings.shutdownTimeoutMillis / 2),
    finishesPending: true,
    reconcileIntervalMillis: settings.reconcileIntervalMillis
  }))
)

const readiness = fromConfig((settings) =>
  Effect.succeed(Readiness.layer({
    readyMaxLagMillis: settings.readyMaxLagMillis,
    gated: settings.queryGateOnCatchup
  }))
)

const catchUp = fromConfig((settings) =>
  Effect.succeed(CatchUp.layer({
    deleteGraceMillis: settings.deleteGraceMillis,
    enabled: settings.catchupEnabled,
    barrierTimeoutMillis: settings.catchupBarrierTimeoutMillis,
    highWater: settings.catchupQueueHighWater * settings.queueSize,
    walkIntervalMillis: settings.walkIntervalMillis
  }))
)

const localCheck = fromConfig((settings) =>
  Effect.succeed(LocalCheck.layer({ reconcileIntervalMillis: settings.reconcileIntervalMillis }))
)

const scrub = fromConfig((settings) =>
  Effect.succeed(Scrub.layer({ bytesPerSecond: 0, intervalMillis: settings.scrubIntervalMillis }))
)

const monitoring = fromConfig((settings) =>
  Effect.succeed(Monitoring.layer({ version, scrubIntervalMillis: settings.scrubIntervalMillis }))
)

const watchFolder = fromConfig((settings) =>
  Effect.succeed(
    settings.watch
      ? WatchFolder.layer({
        settleMillis: 2000,
        unseenSettleMillis: settings.watchUnseenSettleMillis,
        walkIntervalMillis: settings.reconcileIntervalMillis,
        restMillis: 30_000
      })
      : Layer.empty
  )
)

const leftovers = fromConfig((settings) =>
  Effect.succeed(Leftovers.layer({
    partials: { maxBytes: settings.maxPartialBytes, maxAgeMillis: settings.maxPartialAgeMillis },
    quarantined: { maxBytes: settings.maxQuarantineBytes, maxAgeMillis: settings.maxQuarantineAgeMillis },
    intervalMillis: settings.reconcileIntervalMillis
  }))
)

/** A node that replicates, on ports from outside. */
export const layerActive: Layer.Layer<Services, StartError, Ports | ReplicationConfig> = Layer.mergeAll(
  monitoring,
  watchFolder,
  leftovers,
  Watermark.layer,
  Tombstones.layer
).pipe(
  Layer.provideMerge(readiness),
  Layer.provide(Contact.layer),
  Layer.provideMerge(catchUp),
  Layer.provideMerge(scrub),
  Layer.provideMerge(localCheck),
  Layer.provideMerge(Drain.layer),
  Layer.provideMerge(Copies.layer),
  Layer.provideMerge(puller),
  Layer.provide(Unlinker.layer),
  Layer.provideMerge(Leases.layer),
  Layer.provideMerge(registrar),
  Layer.provideMerge(announcement),
  Layer.provideMerge(listener),
  Layer.provideMerge(rateLimits),
  Layer.provide(Placement.layer),
  Layer.provide(PathLock.layer),
  Layer.provideMerge(layerRoom),
  Layer.provideMerge(Background.layer),
  oneConfig
)

/** Where spans, metrics and logs of everything above it go, besides where they go anyway. */
const telemetry: Layer.Layer<never, StartError, ReplicationConfig> = fromConfig(({
  clusterName,
  nodeId,
  otlpEndpoint,
  role
}) =>
  Effect.succeed(Option.match(otlpEndpoint, {
    onNone: () => Layer.empty,
    onSome: (endpoint) =>
      // Loaded by those that use it: a client for HTTP comes along.
      Layer.unwrap(Effect.map(
        Effect.promise(() => import("./telemetry/Otlp.ts")),
        (Otlp) => Otlp.layer({ endpoint, version, clusterName, role, node: Option.getOrUndefined(nodeId) })
      ))
  }))
)

/** A node in full: {@link layerActive} on {@link layerPorts}. */
export const layerNode: Layer.Layer<Services | Ports, StartError, ReplicationConfig> = layerActive.pipe(
  Layer.provideMerge(layerPorts()),
  Layer.provide(telemetry),
  oneConfig
)

// -----------------------------------------------------------------------------
// The gate
// -----------------------------------------------------------------------------

export type Admission = { readonly allowed: true } | { readonly allowed: false; readonly reason: string }

/**
 * Asked once, before anything of the graph is built: an application may refuse replication, for a licence or a mode of
 * its own, whatever the configuration says. Allowed by default.
 */
export const ReplicationGate = Context.Reference<Effect.Effect<Admission>>("file-replication/ReplicationGate", {
  defaultValue: () => Effect.succeed<Admission>({ allowed: true })
})

/**
 * Replication as one part of a larger application: active with its services, or inactive and without a socket, a fiber
 * or a file.
 */
export class Replication extends Context.Service<
  Replication,
  | { readonly _tag: "Inactive"; readonly reason: string }
  | { readonly _tag: "Active"; readonly services: Context.Context<Services | Ports> }
>()("file-replication/Replication") {}

const inactive = (reason: string) => Layer.succeed(Replication, { _tag: "Inactive", reason })

/** {@link Replication}, behind the configuration and the gate, on the ports of a node or on those that are given. */
export const layer = <E = StartError>(
  ports?: Layer.Layer<Ports, E, ReplicationConfig>
): Layer.Layer<Replication, StartError | E, ReplicationConfig> =>
  fromConfig(Effect.fnUntraced(function*(settings) {
    if (!settings.clusterEnabled) return inactive("cluster.enabled is false")
    if (!settings.replicationEnabled) return inactive("cluster.replication_enabled is false")
    const admission = yield* Effect.flatten(ReplicationGate)
    if (!admission.allowed) return inactive(admission.reason)
    const standing: Layer.Layer<Ports, StartError | E, ReplicationConfig> = ports ?? layerPorts()
    const active: Layer.Layer<Replication, StartError | E, ReplicationConfig> = Layer.effect(
      Replication,
      Effect.map(Effect.context<Services | Ports>(), (services) => ({ _tag: "Active", services }))
    ).pipe(Layer.provide(layerActive), Layer.provide(standing), Layer.provide(telemetry))
    return active
  }))
