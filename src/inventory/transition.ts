/**
 * How one path's row goes from state to state. Pure: both implementations decide here and only carry out.
 *
 * Revisions are compared within one history; a row of an earlier one has revision 0. A batch that is applied twice
 * changes nothing the second time.
 */

/** The bytes of a file, as far as a decision needs them. */
export interface Bytes {
  readonly sha256: string
  readonly size: number
}

/** A path's row, as far as a decision needs it. */
export type Standing =
  | { readonly _tag: "Absent" }
  | { readonly _tag: "Owed"; readonly revision: number; readonly bytes: Bytes }
  | { readonly _tag: "Verified"; readonly revision: number; readonly bytes: Bytes }
  | { readonly _tag: "Unlinking"; readonly revision: number }

/** What one change of what the manifest asks for does to a row. */
export type Outcome =
  /** Nothing. */
  | { readonly _tag: "Keep" }
  /** The row becomes a new debt. */
  | { readonly _tag: "Owe" }
  /** The row keeps its state and takes the new entry and revision. */
  | { readonly _tag: "Renew" }
  /** The row becomes a debt to unlink; a pending record of the path goes. */
  | { readonly _tag: "Unlink" }

const keep: Outcome = { _tag: "Keep" }
const owe: Outcome = { _tag: "Owe" }
const renew: Outcome = { _tag: "Renew" }
const unlink: Outcome = { _tag: "Unlink" }

const sameBytes = (a: Bytes, b: Bytes): boolean => a.sha256 === b.sha256 && a.size === b.size

/** The file must be here. */
export const onOwe = (standing: Standing, revision: number, bytes: Bytes): Outcome => {
  switch (standing._tag) {
    case "Absent":
      return owe
    case "Owed":
    case "Verified":
      if (!sameBytes(standing.bytes, bytes)) return owe
      // Not only a higher one: a row of an earlier history has revision 0.
      return standing.revision === revision ? keep : renew
    case "Unlinking":
      return standing.revision < revision ? owe : keep
  }
}

/** The file must go. */
export const onForget = (standing: Standing, pending: boolean, revision: number): Outcome => {
  switch (standing._tag) {
    case "Absent":
      // A pending file may already lie under its final name.
      return pending ? unlink : keep
    case "Owed":
    case "Verified":
      return standing.revision <= revision ? unlink : keep
    case "Unlinking":
      return standing.revision < revision ? unlink : keep
  }
}

/** Whether a debt goes that comes from an earlier history. */
export const onRelease = (standing: Standing): boolean => standing._tag === "Owed" && standing.revision === 0

/** What recording a file as verified does: `Refuse` leaves everything as it is. */
export type Settlement =
  | { readonly _tag: "Refuse" }
  /** Verified with the entry and revision that were given. */
  | { readonly _tag: "Verify" }
  /** Verified with the entry and revision of the row, which come from the manifest's events. */
  | { readonly _tag: "Confirm" }

const refuse: Settlement = { _tag: "Refuse" }
const verify: Settlement = { _tag: "Verify" }
const confirm: Settlement = { _tag: "Confirm" }

/**
 * The bytes of `file` were hashed on this disk as `held`. `pending`: the bytes of the path's pending record.
 */
export const onSettle = (
  standing: Standing,
  pending: Bytes | undefined,
  file: { readonly revision: number; readonly bytes: Bytes },
  held: Bytes
): Settlement => {
  if (!sameBytes(file.bytes, held)) return refuse
  const ours = pending !== undefined && sameBytes(pending, held)
  switch (standing._tag) {
    case "Absent":
      return ours ? verify : refuse
    case "Owed":
    case "Verified":
      // Right for what is owed now, whatever the history was when the bytes were asked for.
      if (sameBytes(standing.bytes, held)) return confirm
      return ours && standing.revision < file.revision ? verify : refuse
    case "Unlinking":
      return ours && standing.revision < file.revision ? verify : refuse
  }
}

/** Totals over all rows. Bytes may be more than a `number` counts exactly. */
export interface Totals {
  readonly owedFiles: number
  readonly owedBytes: bigint
  readonly verifiedFiles: number
  readonly verifiedBytes: bigint
  readonly unlinking: number
}

export const noTotals: Totals = { owedFiles: 0, owedBytes: 0n, verifiedFiles: 0, verifiedBytes: 0n, unlinking: 0 }

/** The totals when one row has gone from one state to another. */
export const recount = (totals: Totals, before: Standing, after: Standing): Totals =>
  count(count(totals, before, -1), after, 1)

const count = (totals: Totals, standing: Standing, by: 1 | -1): Totals => {
  switch (standing._tag) {
    case "Absent":
      return totals
    case "Owed":
      return {
        ...totals,
        owedFiles: totals.owedFiles + by,
        owedBytes: totals.owedBytes + BigInt(by) * BigInt(standing.bytes.size)
      }
    case "Verified":
      return {
        ...totals,
        verifiedFiles: totals.verifiedFiles + by,
        verifiedBytes: totals.verifiedBytes + BigInt(by) * BigInt(standing.bytes.size)
      }
    case "Unlinking":
      return { ...totals, unlinking: totals.unlinking + by }
  }
}

/** Everything up to this revision is here: what was taken from the events, less what is owed. */
export const verifiedThrough = (cursor: number | undefined, lowestOwed: number | undefined): number =>
  Math.max(0, Math.min(cursor ?? 0, lowestOwed === undefined ? Infinity : lowestOwed - 1))
