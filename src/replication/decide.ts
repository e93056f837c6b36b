/** What one event of the manifest means for this node. Pure: whoever asks carries it out. */
import { type FileEntry, type NodeId, sameBytes } from "../ports/FileEntry.ts"
import type { Change, Local, Owed, Row } from "../ports/Inventory.ts"
import type { ManifestEvent } from "../ports/Manifest.ts"

/** Whether a row says that these very bytes are verified here. */
export const isVerified = (row: Row | undefined, entry: FileEntry): boolean =>
  row?._tag === "Verified" && sameBytes(row.file.entry, entry)

export interface Context {
  readonly self: NodeId
  /** Milliseconds since 1970. */
  readonly now: number
  /** Between a delete event and the unlink, milliseconds. */
  readonly deleteGraceMillis: number
}

export type Decision =
  /** Ours, and here. */
  | { readonly _tag: "SkipSelf"; readonly change: Change }
  /** Somebody else's, and here already. */
  | { readonly _tag: "SkipLocal"; readonly change: Change }
  /** Must be pulled. */
  | { readonly _tag: "Owe"; readonly change: Change }
  /** Must leave this node. */
  | { readonly _tag: "Forget"; readonly change: Change }

/**
 * A change goes with every decision, because `Inventory` must know the revision of what stands here too. It guards
 * itself: a file that was verified between this decision and its record stays verified.
 */
export const decide = (event: ManifestEvent, local: Local, context: Context): Decision => {
  if (event._tag === "Removed") {
    return {
      _tag: "Forget",
      change: {
        _tag: "Forget",
        path: event.path,
        revision: event.revision,
        due: context.now + context.deleteGraceMillis
      }
    }
  }
  const { entry } = event.file
  const pending = local.pending !== undefined && sameBytes(local.pending.entry, entry)
  const reason = pending ? "its bytes are on this disk and not shown yet" : "not pulled yet"
  const owe: Change = { _tag: "Owe", file: event.file, reason, due: context.now }
  const verified = isVerified(local.row, entry)
  if (!pending && !verified) return { _tag: "Owe", change: owe }
  return { _tag: entry.origin_node_id === context.self ? "SkipSelf" : "SkipLocal", change: owe }
}

/** The row that a debt becomes where nothing was known of its path. */
export const newlyOwed = (
  { due, file, reason }: Extract<Change, { readonly _tag: "Owe" }>,
  since: number
): Owed => ({ _tag: "Owed", file, since, rounds: 0, due, reason, answers: [] })
