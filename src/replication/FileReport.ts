/**
 * All that a node knows of one file, for tools and people: what the manifest says, what is here, and why it is not.
 * Encoded it is the JSON of `file-replication why --json` and of the HTTP API: its names are stable, times are
 * milliseconds since 1970, and what is not known is `null`.
 */
import { Duration, Effect, Option, Schema } from "effect"
import { Backend } from "../ports/Backend.ts"
import { FileEntry, NodeId, Revision, Sha256 } from "../ports/FileEntry.ts"
import { FilePath } from "../ports/FilePath.ts"
import { Inventory, type PeerAnswer, type Row } from "../ports/Inventory.ts"
import { Gone, Manifest, Unavailable } from "../ports/Manifest.ts"

/** How long the manifest may take before the rest is told without it. */
const patience = Duration.seconds(2)

/** What the manifest says of a path. */
export const InManifest = Schema.Union([
  Schema.Struct({ state: Schema.Literal("listed"), revision: Revision, entry: FileEntry }),
  Schema.Struct({ state: Schema.Literal("deleted"), reason: Schema.String }),
  Schema.Struct({ state: Schema.Literal("unknown") }),
  Schema.Struct({ state: Schema.Literal("unavailable"), reason: Schema.String })
])
export type InManifest = typeof InManifest.Type

const Answer = Schema.Struct({
  peer: NodeId,
  at_ms: Schema.Int,
  /** The tag of the error: `FileNotOnPeer`, `PeerUnreachable`, … */
  kind: Schema.String,
  /** A sentence for people. */
  detail: Schema.String,
  wrong_times: Schema.Natural,
  not_before_ms: Schema.NullOr(Schema.Int)
})

/** A file that must still arrive, and why it has not. */
export const OwedState = Schema.Struct({
  state: Schema.Literal("owed"),
  revision: Revision,
  /** Since when. */
  since_ms: Schema.Int,
  /** Rounds of attempts that ended without the file. */
  rounds: Schema.Natural,
  /** When it is tried next. */
  next_ms: Schema.Int,
  reason: Schema.String,
  /** What each peer that was asked said last. */
  answers: Schema.Array(Answer)
})

const Unknown = Schema.Struct({ state: Schema.Literal("unknown") })

/** What of a path is on this node, as its inventory has it. */
export const LocalState = Schema.Union([
  Unknown,
  OwedState,
  Schema.Struct({
    state: Schema.Literal("verified"),
    revision: Revision,
    sha256: Sha256,
    size_bytes: Schema.Natural
  }),
  Schema.Struct({ state: Schema.Literal("unlinking"), revision: Revision, next_ms: Schema.Int })
])
export type LocalState = typeof LocalState.Type

export const FileReport = Schema.Struct({
  path: FilePath,
  manifest: InManifest,
  local: LocalState,
  /** Whether this node has it sealed in staging, or lying in place, and has not registered it yet. */
  pending: Schema.Boolean,
  /** What lies under this name in the data folder; nothing is known of its bytes. */
  on_disk: Schema.NullOr(Schema.Struct({ size_bytes: Schema.Natural, mtime_ms: Schema.Int })),
  /**
   * Whether this node calls it verified and what lies there is not as it was then: the next check looks at its bytes. An
   * older node leaves this out.
   */
  suspect: Schema.optionalKey(Schema.Boolean),
  /** Why the disk could not say so. */
  disk_error: Schema.NullOr(Schema.String)
})
export type FileReport = typeof FileReport.Type

/** A tombstone shows itself only to who wants to register: so it is asked what a registration would be answered. */
const registration = (path: FilePath): FileEntry => ({
  path,
  sha256: Sha256.make("0".repeat(64)),
  size_bytes: 0,
  database: "",
  measurement: "",
  partition_time: "1970-01-01T00:00:00Z",
  origin_node_id: NodeId.make("nobody"),
  tier: "hot",
  created_at: "1970-01-01T00:00:00Z",
  lsn: 0
})

/** What the manifest says of a path; fails with `Unavailable` rather than to say that it is. */
export const inManifest = Effect.fnUntraced(function*(path: FilePath) {
  const manifest = yield* Manifest
  const file = yield* manifest.get(path)
  if (Option.isSome(file)) return { state: "listed", ...file.value } satisfies InManifest
  const [answer] = yield* manifest.check([registration(path)])
  return answer instanceof Gone
    ? { state: "deleted", reason: answer.reason } satisfies InManifest
    : { state: "unknown" } satisfies InManifest
})

const answer = ({ at, detail, kind, notBefore, peer, wrongTimes }: PeerAnswer): typeof Answer.Type => ({
  peer,
  at_ms: at,
  kind,
  detail,
  wrong_times: wrongTimes ?? 0,
  not_before_ms: notBefore ?? null
})

/** Pure: a row of the inventory as it is told. */
export const localState = (row: Row | undefined): LocalState => {
  switch (row?._tag) {
    case undefined:
      return { state: "unknown" }
    case "Owed":
      return {
        state: "owed",
        revision: row.file.revision,
        since_ms: row.since,
        rounds: row.rounds,
        next_ms: row.due,
        reason: row.reason,
        answers: row.answers.map(answer)
      }
    case "Verified":
      return {
        state: "verified",
        revision: row.file.revision,
        sha256: row.held.sha256,
        size_bytes: row.held.size
      }
    case "Unlinking":
      return { state: "unlinking", revision: row.revision, next_ms: row.due }
  }
}

/** Pure: the same of a file that waits for room on the disk or for others, which only the node itself knows. */
export const waiting = <A extends LocalState>(local: A, why: Option.Option<string>): A =>
  local.state === "owed" && Option.isSome(why) ? { ...local, reason: why.value } : local

/** All that is known of a path. A manifest or a disk that does not answer is part of it. */
export const report = Effect.fn("FileReport.report")(function*(path: FilePath) {
  const inventory = yield* Inventory
  const backend = yield* Backend
  const manifest: InManifest = yield* inManifest(path).pipe(
    Effect.timeoutOrElse({
      duration: patience,
      orElse: () => Effect.fail(new Unavailable({ operation: "get", detail: "it does not answer" }))
    }),
    Effect.catchTag(
      "Unavailable",
      ({ message }) => Effect.succeed<InManifest>({ state: "unavailable", reason: message })
    )
  )
  const [local] = yield* inventory.look([path])
  const onDisk = yield* Effect.result(backend.stat(path))
  const verified = local?.row?._tag === "Verified" ? [{ path, ...local.row.held }] : []
  const differing = yield* Effect.orElseSucceed(backend.differing(verified), () => [])
  return {
    path,
    manifest,
    local: localState(local?.row),
    pending: local?.pending !== undefined,
    on_disk: onDisk._tag === "Success" && Option.isSome(onDisk.success)
      ? { size_bytes: onDisk.success.value.size, mtime_ms: Number(onDisk.success.value.mtime / 1_000_000n) }
      : null,
    suspect: differing.length > 0,
    disk_error: onDisk._tag === "Failure" ? onDisk.failure.message : null
  } satisfies FileReport
})
