/**
 * What a node serves over HTTP, as one definition: its handlers, its description for programs at `/openapi.json` and
 * its pages for people at `/docs` all follow from it.
 *
 * Times are milliseconds since 1970, and what is not known is `null`. Whatever is refused is refused in the one shape
 * of `refusals.ts`. A log sequence number beyond 2^53 is a string, because most programs would round it.
 */
import { Schema } from "effect"
import { HttpApi, HttpApiEndpoint, HttpApiGroup, HttpApiSchema, OpenApi } from "effect/http-api"
import { NodeId } from "../ports/FileEntry.ts"
import { FilePath } from "../ports/FilePath.ts"
import { DrainStatus } from "../replication/Drain.ts"
import { Files, Owed } from "../replication/FileList.ts"
import { FileReport } from "../replication/FileReport.ts"
import { Imported } from "../replication/manifestLines.ts"
import { Status } from "../replication/Status.ts"
import { version } from "../version.ts"
import {
  Cluster,
  CopiesOf,
  Deletion,
  Forgetting,
  Health,
  Limits,
  NodeStatus,
  NotImported,
  NotReady,
  Pulling,
  Registration,
  RemovedMember,
  Starting,
  Verification
} from "./answers.ts"
import { Authorization } from "./Authorization.ts"
import { refusals } from "./refusals.ts"

const described = (summary: string, description?: string) => OpenApi.annotations({ summary, description })

// -----------------------------------------------------------------------------
// The node itself
// -----------------------------------------------------------------------------

export class NodeGroup extends HttpApiGroup.make("node")
  .add(
    HttpApiEndpoint.get("health", "/health", { success: Schema.Union([Health, Starting]) })
      .annotateMerge(
        described("Whether the process serves", "200 from its start on; `starting` until the node is there.")
      ),
    HttpApiEndpoint.get("ready", "/ready", { success: Status, error: NotReady })
      .annotateMerge(described(
        "Whether the node holds everything",
        "200 with its status, or 503 with it and `Retry-After`."
      ))
  )
  .annotateMerge(OpenApi.annotations({ title: "Node", description: "For orchestrators and monitoring" }))
{}

// -----------------------------------------------------------------------------
// The cluster
// -----------------------------------------------------------------------------

const Limit = (fallback: number) =>
  Schema.optional(
    Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1000 }, { expected: "an integer from 1 to 1000" }))
      .annotate({ default: fallback })
  )

/** A path of a file in an address: the rest of it, `/` included, each part percent-encoded. */
const inAddress = { path: Schema.String }

/** A position in a writer's log, as digits. */
const Lsn = Schema.BigIntFromString.check(
  Schema.isBetweenBigInt({ minimum: 0n, maximum: 2n ** 64n - 1n }, {
    expected: "an integer from 0 to 18446744073709551615"
  })
)

const Described = Schema.Struct({
  path: Schema.String,
  database: Schema.optionalKey(Schema.String),
  measurement: Schema.optionalKey(Schema.String),
  partition_time: Schema.optionalKey(Schema.String),
  tier: Schema.optionalKey(Schema.String),
  lsn: Schema.optionalKey(Schema.Union([Schema.Natural, Schema.BigInt]))
})

const Reason = Schema.String.check(
  Schema.isPattern(/^[^]{1,1000}$/, { expected: "a reason of 1 to 1000 characters" })
)

export class ClusterGroup extends HttpApiGroup.make("cluster")
  .add(
    HttpApiEndpoint.get("members", "/api/v1/cluster", { success: Cluster, error: refusals("Unavailable") })
      .annotateMerge(described("Every member that is known, alive or not")),
    HttpApiEndpoint.get("status", "/api/v1/cluster/status", { success: NodeStatus, error: refusals("Unavailable") })
      .annotateMerge(described("Where this node stands")),
    HttpApiEndpoint.get("owed", "/api/v1/cluster/owed", {
      query: { limit: Limit(100) },
      success: Owed,
      error: refusals("Unavailable")
    }).annotateMerge(described("Files that this node owes, and why", "Those that are tried next come first.")),
    HttpApiEndpoint.get("files", "/api/v1/cluster/files", {
      query: {
        cursor: Schema.optional(FilePath),
        limit: Limit(100),
        prefix: Schema.optional(Schema.String)
      },
      success: Files,
      error: refusals("BadRequest", "Unavailable")
    }).annotateMerge(described(
      "A page of the manifest, in the order of the paths' bytes",
      "With what of each file is on this node."
    )),
    HttpApiEndpoint.get("file", "/api/v1/cluster/files/:path/*", {
      params: inAddress,
      success: FileReport,
      error: refusals("BadPath", "NotFound", "Unavailable")
    }).annotateMerge(described("All that this node knows of a file, and why it is not here")),
    HttpApiEndpoint.get("drain", "/api/v1/cluster/drain", { success: DrainStatus }).annotateMerge(described(
      "Whether this node is about to leave, and which of its files no other node holds"
    ))
  )
  .annotateMerge(OpenApi.annotations({ title: "Cluster", description: "What there is, and where it stands" }))
{}

export class OperationGroup extends HttpApiGroup.make("operation")
  .add(
    HttpApiEndpoint.post("register", "/api/v1/cluster/files", {
      payload: Described,
      success: [Registration, Registration.pipe(HttpApiSchema.status(201))],
      error: refusals(
        "BadPath",
        "BadRequest",
        "NotFound",
        "Conflict",
        "Gone",
        "NotRegistered",
        "Unavailable",
        "NoSpace"
      )
    }).annotateMerge(described(
      "Register a file that already lies in the data folder",
      "The file must be complete: it is read and hashed where it lies, and must not change afterwards. 201, or 200 "
        + "when the same bytes are registered already. When other bytes are registered, 409, the file is set aside "
        + "in quarantine, because no node may show two contents under one path; with 410 it stays where it is."
    )),
    HttpApiEndpoint.delete("remove", "/api/v1/cluster/files/:path/*", {
      params: inAddress,
      query: { reason: Schema.optional(Reason) },
      success: Deletion,
      error: refusals("BadPath", "NotFound", "Gone", "PreconditionFailed", "Unavailable")
    }).annotateMerge(described(
      "Delete a file from every node, for good",
      "Nothing can be published under its path again. `If-Match` is honoured."
    )),
    HttpApiEndpoint.post("verify", "/api/v1/cluster/verify", {
      query: {
        rate: Schema.optional(
          Schema.Natural.annotate({ description: "MiB per second at most; 0: as fast as it goes", default: 128 })
        )
      },
      success: Verification.pipe(HttpApiSchema.status(202)),
      error: refusals("Unavailable")
    }).annotateMerge(described(
      "Hash every file of this node again",
      "It runs on its own; `verification` of the status says how it goes. One that runs already is not begun again. "
        + "What is damaged is set aside and pulled again."
    )),
    HttpApiEndpoint.post("pause", "/api/v1/cluster/pause", { success: Pulling, error: refusals("Unavailable") })
      .annotateMerge(described(
        "Begin no new pull until told to resume",
        "Pulls in flight end. It outlives a restart of the node."
      )),
    HttpApiEndpoint.post("resume", "/api/v1/cluster/resume", { success: Pulling, error: refusals("Unavailable") })
      .annotateMerge(described("Pull again")),
    HttpApiEndpoint.post("limits", "/api/v1/cluster/limits", {
      payload: Schema.Struct({
        pull_bytes_per_second: Schema.optional(Limits.fields.pull_bytes_per_second),
        serve_bytes_per_second: Schema.optional(Limits.fields.serve_bytes_per_second)
      }),
      success: Limits
    }).annotateMerge(described(
      "Change how fast this node takes from its peers and gives to them",
      "At once, for transfers in flight too, until the process ends. What is not given stays as it is; `{}` only asks."
    )),
    HttpApiEndpoint.post("drain", "/api/v1/cluster/drain", { success: DrainStatus, error: refusals("Unavailable") })
      .annotateMerge(described(
        "Prepare this node to leave",
        "It is asked for files last, and its copies don't count any more. `done` says that every file that it holds is "
          + "on another node too: then it can be stopped. It ends with the process."
      )),
    HttpApiEndpoint.delete("stay", "/api/v1/cluster/drain", { success: DrainStatus, error: refusals("Unavailable") })
      .annotateMerge(described("Keep this node after all")),
    HttpApiEndpoint.get("copies", "/api/v1/cluster/copies/:path/*", {
      params: inAddress,
      success: CopiesOf,
      error: refusals("BadPath", "NotFound", "Unavailable")
    }).annotateMerge(described(
      "On which nodes a file is, verified",
      "Members that can't vouch for it are asked. Whoever gives no sign of life or is about to leave does not count."
    )),
    HttpApiEndpoint.post("forget", "/api/v1/cluster/forget", {
      payload: Schema.Struct({
        path: Schema.String,
        confirmed: Schema.optionalKey(Schema.Boolean),
        force: Schema.optionalKey(Schema.Boolean)
      }),
      success: Forgetting,
      error: refusals("BadPath", "BadRequest", "NotFound", "Gone", "NotLost", "Unavailable")
    }).annotateMerge(described(
      "Delete a file for good that no node has any more",
      "Every node is asked for it. With `confirmed` it is deleted and recorded on this node, unless a node may still "
        + "have it and `force` is not said; without, nothing is changed, and `objection` says whether it could be."
    )),
    HttpApiEndpoint.delete("removeMember", "/api/v1/cluster/members/:id", {
      params: { id: NodeId },
      success: RemovedMember,
      error: refusals("BadRequest", "NotRemoved", "Unavailable")
    }).annotateMerge(described(
      "Take a member that never comes back out of the list",
      "No file is touched. Refused while the member is alive."
    ))
  )
  .middleware(Authorization)
  .annotateMerge(OpenApi.annotations({ title: "Operation", description: "What changes the node or the cluster" }))
{}

// -----------------------------------------------------------------------------
// Bytes
// -----------------------------------------------------------------------------

const anyBytes = HttpApiSchema.StreamUint8Array()

export class BytesGroup extends HttpApiGroup.make("bytes")
  .add(
    HttpApiEndpoint.get("download", "/api/v1/files/:path/*", {
      params: inAddress,
      success: [anyBytes, HttpApiSchema.Empty(304)],
      error: refusals("BadPath", "NotFound", "Gone", "RangeNotSatisfiable", "NotVerified", "Unavailable")
    }).annotateMerge(described(
      "The verified bytes of a file",
      "`ETag` is its SHA-256. One range at a time; `If-None-Match` and `If-Range` are honoured, and HEAD is answered. "
        + "A whole file is hashed while it is sent, and cut before its last bytes when the disk gave others."
    ))
  )
  .annotateMerge(OpenApi.annotations({ title: "Bytes", description: "Files themselves" }))
{}

export class UploadGroup extends HttpApiGroup.make("upload")
  .add(
    HttpApiEndpoint.put("upload", "/api/v1/files/:path/*", {
      params: inAddress,
      query: {
        database: Schema.optionalKey(Schema.String),
        measurement: Schema.optionalKey(Schema.String),
        partition_time: Schema.optionalKey(Schema.String),
        tier: Schema.optionalKey(Schema.String),
        lsn: Schema.optionalKey(Lsn)
      },
      payload: anyBytes,
      success: [Registration, Registration.pipe(HttpApiSchema.status(201))],
      error: refusals(
        "BadPath",
        "BadRequest",
        "TooSlow",
        "Conflict",
        "Gone",
        "LengthRequired",
        "PreconditionFailed",
        "TooLarge",
        "WrongMediaType",
        "NotRegistered",
        "Unavailable",
        "NoSpace"
      )
    }).annotateMerge(described(
      "Publish a file",
      "The body is the file, of any media type, with its `Content-Length` or chunked. 201, or 200 when the same bytes are "
        + "registered already. What does not arrive whole leaves nothing behind. `If-Match` and `If-None-Match` are honoured. 503 after the last byte: with "
        + "`NotRegistered` the file is safe here and is registered once the manifest answers; with another code send it "
        + "again, which does no harm."
    ))
  )
  .middleware(Authorization)
  .annotateMerge(OpenApi.annotations({ title: "Upload" }))
{}

export class ManifestGroup extends HttpApiGroup.make("manifest")
  .add(
    HttpApiEndpoint.post("import", "/api/v1/cluster/manifest", {
      query: { keep_going: Schema.optionalKey(Schema.Literals(["true", "false"])) },
      payload: anyBytes,
      success: Imported,
      error: [...refusals("BadRequest", "TooSlow", "TooLarge", "WrongMediaType", "Unavailable"), NotImported]
    }).annotateMerge(described(
      "Register entries that come as lines of JSON",
      "One entry a line, as `manifest export` prints them; no bytes of a file. All of them or none, of at most 16 MiB; "
        + "with `keep_going=true` whatever is right, of any length, piece by piece."
    ))
  )
  .middleware(Authorization)
  .annotateMerge(OpenApi.annotations({ title: "Manifest" }))
{}

// -----------------------------------------------------------------------------

/** The rest of an address, behind its first part: programs that describe it know one name for both. */
const joinPaths = (spec: Record<string, unknown>): Record<string, unknown> => {
  const paths = spec["paths"]
  if (typeof paths !== "object" || paths === null) return spec
  return {
    ...spec,
    paths: Object.fromEntries(Object.entries(paths).map(([path, item]) => [path.replace(/\/\*$/, ""), item]))
  }
}

export class Api extends HttpApi.make("file-replication")
  .add(NodeGroup)
  .add(ClusterGroup)
  .add(OperationGroup)
  .add(BytesGroup)
  .add(UploadGroup)
  .add(ManifestGroup)
  .annotateMerge(OpenApi.annotations({
    title: "file-replication",
    version,
    description: "One node of a cluster that replicates immutable files. Reading is open; what changes something needs "
      + "the bearer token of `server.api_token`, where one is set.",
    transform: joinPaths
  }))
{}
