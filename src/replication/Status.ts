/**
 * Where a node stands, for applications, tools and people. Encoded it is the JSON of `GET /ready` and of
 * `file-replication status --json`: its names are stable, times are milliseconds since 1970, and what is not known is
 * `null`.
 */
import { Option, Schema } from "effect"
import { NodeId, Revision } from "../ports/FileEntry.ts"
import { Cursor } from "../ports/Manifest.ts"
import { Trouble } from "../ports/Membership.ts"
import { PauseReason } from "./Pauses.ts"

const Amount = Schema.Struct({ files: Schema.Natural, bytes: Schema.Natural })

/** How the walk over the manifest goes, the last one or the one that runs. */
const CatchUp = Schema.Struct({
  running: Schema.Boolean,
  started: Schema.OptionFromNullOr(Schema.Int),
  completed: Schema.OptionFromNullOr(Schema.Int),
  /** `reached`: the manifest has told its newest position at the start; `timedOut`: not in time. */
  barrier: Schema.Literals(["waiting", "reached", "timedOut"]),
  /** Entries looked at. */
  walked: Schema.Natural,
  /** Of these, those that were missing here and are pulled. */
  enqueued: Schema.Natural,
  /** Of these, those that were here. */
  skipped: Schema.Natural,
  /** Files here that the manifest does not know. */
  orphans: Schema.Natural,
  confirmed: Schema.Boolean,
  lastError: Schema.OptionFromNullOr(Schema.String)
}).pipe(Schema.encodeKeys({ started: "started_ms", completed: "completed_ms", lastError: "last_error" }))

export const Status = Schema.Struct({
  node: NodeId,
  ready: Schema.Boolean,
  /** Why not, in a sentence; `""` when ready. */
  reason: Schema.String,
  /** The position of the manifest that must be reached; `none` while the manifest has not told it. */
  barrier: Schema.OptionFromNullOr(Cursor),
  /** How far the manifest's events have been taken. */
  cursor: Schema.OptionFromNullOr(Cursor),
  /** Everything up to this revision is here, verified. */
  verifiedThrough: Revision,
  /** Whether this start has compared every verified file with the disk. */
  checked: Schema.Boolean,
  verified: Amount,
  /** What must still arrive; files in flight count in full until they are verified. */
  owed: Amount,
  /** Since when the oldest of them has been owed. */
  oldestOwed: Schema.OptionFromNullOr(Schema.Int),
  /** Owed files for which at least one round of attempts has ended without them. */
  failed: Schema.Natural,
  /** Files that a worker has taken up. */
  inFlight: Schema.Natural,
  /** What keeps new pulls from beginning; empty: nothing does. */
  paused: Schema.Array(PauseReason),
  /** Files that were deleted and must still be unlinked. */
  unlinking: Schema.Natural,
  /** What comes over the wire, over the last seconds. */
  bytesPerSecond: Schema.Natural,
  /** How long the owed bytes take at this rate, milliseconds; `none` when nothing comes, or pulling pauses. */
  eta: Schema.OptionFromNullOr(Schema.Natural),
  /** Other members that are alive and could be asked; `none` when it is not known. */
  peers: Schema.OptionFromNullOr(Schema.Natural),
  /** Since when the manifest has not answered, or its engine complains, and of what. */
  manifestTrouble: Schema.OptionFromNullOr(Trouble),
  /** What keeps this node from seeing the other members or from being seen. */
  membershipTrouble: Schema.OptionFromNullOr(Trouble),
  catchUp: CatchUp
}).pipe(Schema.encodeKeys({
  verifiedThrough: "verified_through",
  oldestOwed: "oldest_owed_ms",
  inFlight: "in_flight",
  bytesPerSecond: "bytes_per_second",
  eta: "eta_ms",
  manifestTrouble: "manifest_trouble",
  membershipTrouble: "membership_trouble",
  catchUp: "catch_up"
}))
export interface Status extends Schema.Schema.Type<typeof Status> {}

export const encodeStatus = Schema.encodeSync(Status)

const earliestRetry = 1000
const latestRetry = 60_000
const usualRetry = 5000

/** Pure: when it is worth asking again, milliseconds. */
export const retryAfterMillis = (status: Status): number =>
  Option.match(status.eta, {
    onNone: () => usualRetry,
    onSome: (eta) => Math.min(Math.max(eta, earliestRetry), latestRetry)
  })
