/** What the HTTP API answers where it is no shape of the library's: for its definition, and for whoever asks it. */
import { Schema } from "effect"
import { FileEntry, NodeId, Revision } from "../ports/FileEntry.ts"
import { FilePath } from "../ports/FilePath.ts"
import { Cursor } from "../ports/Manifest.ts"
import { Address, Role, Watermark } from "../ports/Membership.ts"
import { Sighting } from "../replication/Copies.ts"
import { Forgotten, Search } from "../replication/lost.ts"
import { Imported } from "../replication/manifestLines.ts"
import { PauseReason } from "../replication/Pauses.ts"
import { Status } from "../replication/Status.ts"
import { statuses } from "./refusals.ts"

export const Health = Schema.Struct({
  status: Schema.Literal("ok"),
  node: NodeId,
  role: Role,
  version: Schema.String
})

/** Of a process whose node is not there yet: the manifest or the members may not have answered. */
export const Starting = Schema.Struct({ status: Schema.Literal("starting"), version: Schema.String })

/** Said with 503: the status of a node that is not ready, or why there is none. */
export const NotReady = Schema.Union([
  Status,
  Schema.Struct({ ready: Schema.Literal(false), reason: Schema.String })
]).annotate({ httpApiStatus: 503, identifier: "NotReady" })

export const Member = Schema.Struct({
  id: NodeId,
  role: Role,
  /** Whether it is the node that answers. */
  self: Schema.Boolean,
  alive: Schema.Boolean,
  address: Schema.NullOr(Address),
  version: Schema.String,
  /** How far it says that it holds everything. */
  watermark: Schema.NullOr(Watermark),
  /** It is about to leave. */
  draining: Schema.Boolean
}).annotate({ identifier: "Member" })

export const Cluster = Schema.Struct({ node: NodeId, members: Schema.Array(Member) })

/** What `POST /verify` has found so far, or in the end. */
export const Verification = Schema.Struct({
  running: Schema.Boolean,
  started_ms: Schema.Int,
  checked: Schema.Natural,
  bytes: Schema.Natural,
  /** Files with wrong bytes, set aside and owed again. */
  damaged: Schema.Natural,
  /** Files that were gone, owed again. */
  missing: Schema.Natural,
  /** What ended it before its end. */
  error: Schema.NullOr(Schema.String)
}).annotate({ identifier: "Verification" })

export const NodeStatus = Schema.Struct({
  node: NodeId,
  role: Role,
  version: Schema.String,
  /** The newest position of the manifest; `null` while it can't be asked. */
  head: Schema.NullOr(Cursor),
  status: Status,
  pulls: Schema.Struct({
    /** Files that wait for a worker. */
    queued: Schema.Natural,
    in_flight: Schema.Natural,
    /** Since the start of this process. */
    pulled: Schema.Natural,
    bytes: Schema.Natural,
    attempts: Schema.Natural,
    failed: Schema.Natural,
    checksum_mismatches: Schema.Natural
  }),
  /** Bytes that may still be written, beside the reserve and what is promised. */
  free_bytes: Schema.NullOr(Schema.Natural),
  /** The verification on demand that runs or ran last. */
  verification: Schema.NullOr(Verification)
}).annotate({ identifier: "NodeStatus" })

export const Registration = Schema.Struct({ entry: FileEntry, revision: Revision }).annotate({
  identifier: "Registration"
})

export const Deletion = Schema.Struct({ path: FilePath, revision: Revision, reason: Schema.String })

/** On which nodes a file is, verified. */
export const CopiesOf = Schema.Struct({
  path: FilePath,
  revision: Revision,
  /** How many nodes hold it. */
  held: Schema.Natural,
  /** This node first, then each other member. */
  sightings: Schema.Array(Sighting)
}).annotate({ identifier: "Copies" })

/** What every node says of a file that may be lost, and what was done. */
export const Forgetting = Schema.Struct({
  ...Search.fields,
  /** `null`: nothing was done. */
  forgotten: Schema.NullOr(Forgotten)
}).annotate({ identifier: "Forgetting" })

export const RemovedMember = Schema.Struct({ removed: NodeId })

const Rate = Schema.Natural.check(
  Schema.makeFilter((rate: number) => rate === 0 || rate >= 65_536 || "0 for no limit, or 65536 at least")
)

/** Bytes per second that this node takes from its peers and gives to them, all connections together; 0: no limit. */
export const Limits = Schema.Struct({ pull_bytes_per_second: Rate, serve_bytes_per_second: Rate })
  .annotate({ identifier: "Limits" })

/** What keeps new pulls from beginning; empty: nothing does. */
export const Pulling = Schema.Struct({ paused: Schema.Array(PauseReason) })

/** Some lines were not imported: the refusal, and what became of the others. */
export const NotImported = Schema.Struct({
  error: Schema.Struct({ code: Schema.Literal("NotImported"), message: Schema.String }),
  ...Imported.fields
}).annotate({ httpApiStatus: statuses.NotImported, identifier: "NotImported" })
