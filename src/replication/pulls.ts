/** What the puller says of its work: an answer, a receipt, counts. */
import { Option } from "effect"
import type { NodeId, Registered } from "../ports/FileEntry.ts"
import type { OthersFirst } from "./crowds.ts"

/** What became of a request to pull. `Dropped`: the queue is full; the file stays owed and is pulled later. */
export type Enqueued = "Enqueued" | "SkippedSelf" | "SkippedLocal" | "SkippedDuplicate" | "Dropped"

/** Counts since the start of this process, but for the last two. */
export interface PullerStats {
  /** Accepted into the queue. */
  readonly enqueued: number
  /** Written by this node, and here. */
  readonly skippedSelf: number
  /** Verified here already. */
  readonly skippedLocal: number
  /** Queued or in flight already. */
  readonly skippedDuplicate: number
  /** Arrived, verified and visible. */
  readonly pulled: number
  /** Rounds of attempts that ended without the file. */
  readonly failed: number
  /** Not accepted because the queue was full, or given away for a newer one. */
  readonly dropped: number
  /** Attempts to pull a file, each of which may ask several peers. */
  readonly attempts: number
  /** Answers or bytes whose digest was not the manifest's. */
  readonly checksumMismatches: number
  /** How often each peer has sent a whole body of wrong bytes, all of them its own. */
  readonly wrongBytes: ReadonlyMap<NodeId, number>
  /** Attempts that had nobody to ask. */
  readonly peerLookupFailures: number
  /** Refusals to begin at an offset. */
  readonly badOffsets: number
  /** Bytes that came over the wire, those of pulls in flight included. */
  readonly bytes: number
  /** Of those that wait for a worker now, the small ones that have not failed before. */
  readonly queuedSmall: number
  /** Files that wait for a worker now, or for others that they are to go with. */
  readonly queueDepth: number
  /** Files that are being pulled now. */
  readonly inFlight: number
}

export type Receipt =
  | { readonly _tag: "Pulled"; readonly file: Registered; readonly from: Option.Option<NodeId>; readonly bytes: number }
  /** A worker took it up and found it verified. */
  | { readonly _tag: "Skipped"; readonly file: Registered }
  /** A round of attempts ended without it; it is tried again at `due`, milliseconds since 1970. */
  | { readonly _tag: "Postponed"; readonly file: Registered; readonly reason: string; readonly due: number }
  /** Deleted or replaced meanwhile. */
  | { readonly _tag: "Withdrawn"; readonly file: Registered }

/** What the trace of a file tells of one try to pull it. */
export const told = (receipt: Receipt | OthersFirst): Readonly<Record<string, unknown>> => {
  switch (receipt._tag) {
    case "Pulled":
      return { outcome: receipt._tag, bytes: receipt.bytes, from: Option.getOrElse(receipt.from, () => "") }
    case "Postponed":
    case "OthersFirst":
      return { outcome: receipt._tag, reason: receipt.reason }
    default:
      return { outcome: receipt._tag }
  }
}
