/**
 * Peer-to-peer replication of immutable files, as Effect layers.
 *
 * `Replication.layerNode` is a whole node, `Replication.layer` one behind the gate; `ReplicationConfig.layer` configures
 * either. Every port can be replaced: see `Replication.layerPorts`.
 */

// The graph and its configuration
export * as Replication from "./Replication.ts"
export * as ReplicationConfig from "./ReplicationConfig.ts"

// Ports
export * as Backend from "./ports/Backend.ts"
export * as ByteSink from "./ports/ByteSink.ts"
export * as FetchClient from "./ports/FetchClient.ts"
export * as FileEntry from "./ports/FileEntry.ts"
export * as FilePath from "./ports/FilePath.ts"
export * as Inventory from "./ports/Inventory.ts"
export * as Manifest from "./ports/Manifest.ts"
export * as Membership from "./ports/Membership.ts"
export * as PeerResolver from "./ports/PeerResolver.ts"

// What a node does
export * as Background from "./replication/Background.ts"
export * as CatchUp from "./replication/CatchUp.ts"
export * as Copies from "./replication/Copies.ts"
export * as Drain from "./replication/Drain.ts"
export * as Identity from "./replication/Identity.ts"
export * as Leases from "./replication/Leases.ts"
export * as LocalCheck from "./replication/LocalCheck.ts"
export * as Monitoring from "./replication/Monitoring.ts"
export * as Placement from "./replication/Placement.ts"
export * as Puller from "./replication/Puller.ts"
export * as Readiness from "./replication/Readiness.ts"
export * as Registrar from "./replication/Registrar.ts"
export * as Scrub from "./replication/Scrub.ts"
export * as Status from "./replication/Status.ts"
export * as View from "./replication/View.ts"

// What it tells
export * as Metrics from "./telemetry/Metrics.ts"

// Implementations of the ports
export * as BackendLocal from "./backend/BackendLocal.ts"
export * as BackendMemory from "./backend/BackendMemory.ts"
export * as EtcdClient from "./etcd/EtcdClient.ts"
export * as InventoryMemory from "./inventory/InventoryMemory.ts"
export * as InventorySqlite from "./inventory/InventorySqlite.ts"
export * as ManifestEtcd from "./manifest/ManifestEtcd.ts"
export * as ManifestMemory from "./manifest/ManifestMemory.ts"
export * as ManifestSqlite from "./manifest/ManifestSqlite.ts"
export * as MembershipEtcd from "./membership/MembershipEtcd.ts"
export * as MembershipSqlite from "./membership/MembershipSqlite.ts"
export * as MembershipStatic from "./membership/MembershipStatic.ts"
export * as PeerResolverOriginFirst from "./membership/PeerResolverOriginFirst.ts"
export * as FetchClientTcp from "./peer/FetchClientTcp.ts"
export * as FetchServer from "./peer/FetchServer.ts"
export * as RateLimits from "./peer/RateLimits.ts"
