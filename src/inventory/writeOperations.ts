/** What is done to the inventory's file: many writes in one transaction. Runs on the database's own thread. */
import type { DatabaseSync, SQLOutputValue } from "node:sqlite"
import { leftNote } from "../ports/notes.ts"
import {
  type Bytes,
  noTotals,
  onForget,
  onOwe,
  onRelease,
  onSettle,
  recount,
  type Standing,
  type Totals
} from "./transition.ts"

/** A file as it crosses to this thread: `entry` is its JSON. */
export interface StoredFile {
  readonly path: string
  readonly revision: number
  readonly bytes: Bytes
  readonly entry: string
}

export type StoredChange =
  | { readonly _tag: "Owe"; readonly file: StoredFile; readonly reason: string; readonly due: number }
  | { readonly _tag: "Forget"; readonly path: string; readonly revision: number; readonly due: number }
  | {
    readonly _tag: "Lost"
    readonly path: string
    readonly mtime: string
    readonly inode: string
    readonly reason: string
    readonly due: number
  }
  | { readonly _tag: "NewHistory" }
  | { readonly _tag: "Release"; readonly path: string }

export interface StoredCursor {
  readonly epoch: string
  readonly revision: number
  readonly mark: string
}

/** One write; several share a transaction. */
export type Write =
  | {
    readonly _tag: "Apply"
    readonly changes: ReadonlyArray<StoredChange>
    readonly cursor: StoredCursor | undefined
    readonly now: number
  }
  | {
    readonly _tag: "Pend"
    readonly path: string
    readonly bytes: Bytes
    readonly entry: string
    readonly token: string
  }
  | { readonly _tag: "Unpend"; readonly path: string }
  | {
    readonly _tag: "Settle"
    readonly file: StoredFile
    readonly held: Bytes
    readonly mtime: string
    readonly inode: string
  }
  | { readonly _tag: "Unlinked"; readonly path: string; readonly revision: number }
  | { readonly _tag: "Remember"; readonly name: string; readonly text: string | undefined }
  | {
    readonly _tag: "Postpone"
    readonly path: string
    readonly revision: number
    readonly due: number
    readonly reason: string
    readonly answers: string
  }

/** Which debts to bring forward, and into which span of time. */
export interface StoredSpan {
  readonly from: number
  readonly until: number
  readonly behind: number
  readonly limit: number
}

export type StoredRow = Record<string, SQLOutputValue>

const absent: Standing = { _tag: "Absent" }

const standingOf = (row: StoredRow | undefined): Standing => {
  if (row === undefined) return absent
  const revision = Number(row["revision"])
  const bytes = { sha256: String(row["sha256"]), size: Number(row["size"]) }
  switch (row["state"]) {
    case "Owed":
      return { _tag: "Owed", revision, bytes }
    case "Verified":
      return { _tag: "Verified", revision, bytes }
    case "Unlinking":
      return { _tag: "Unlinking", revision }
    default:
      throw new Error(`a damaged row: its state is ${String(row["state"])}`)
  }
}

interface State {
  readonly totals: Totals
  readonly cursor: StoredCursor | undefined
}

export const makeWriter = (database: DatabaseSync) => {
  const standing = database.prepare(
    "SELECT state, revision, sha256, size, mtime, inode FROM inventory_file WHERE path = ?"
  )
  const put = database.prepare(`
    INSERT INTO inventory_file (path, state, revision, sha256, size, entry, since, rounds, due, reason, answers, mtime, inode)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET state = excluded.state, revision = excluded.revision, sha256 = excluded.sha256,
      size = excluded.size, entry = excluded.entry, since = excluded.since, rounds = excluded.rounds,
      due = excluded.due, reason = excluded.reason, answers = excluded.answers, mtime = excluded.mtime,
      inode = excluded.inode
  `)
  const renew = database.prepare(
    "UPDATE inventory_file SET revision = ?, entry = ?, due = iif(state = 'Owed', min(due, ?), due) WHERE path = ?"
  )
  const confirm = database.prepare(`
    UPDATE inventory_file SET state = 'Verified', since = NULL, rounds = NULL, due = NULL, reason = NULL,
      answers = NULL, mtime = ?, inode = ? WHERE path = ?
  `)
  const postpone = database.prepare(`
    UPDATE inventory_file SET rounds = rounds + 1, due = ?, reason = ?, answers = ?
    WHERE path = ? AND state = 'Owed' AND revision = ?
  `)
  const lose = database.prepare(`
    UPDATE inventory_file SET state = 'Owed', since = ?, rounds = 0, due = ?, reason = ?, answers = '[]', mtime = NULL,
      inode = NULL WHERE path = ?
  `)
  const rebase = database.prepare("UPDATE inventory_file SET revision = 0 WHERE revision <> 0")
  const note = database.prepare(
    "INSERT INTO inventory_note VALUES (?, ?) ON CONFLICT DO UPDATE SET text = excluded.text"
  )
  const dropNote = database.prepare("DELETE FROM inventory_note WHERE name = ?")
  const remove = database.prepare("DELETE FROM inventory_file WHERE path = ?")
  const pending = database.prepare("SELECT sha256, size FROM inventory_pending WHERE path = ?")
  const pend = database.prepare(`
    INSERT INTO inventory_pending VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET sha256 = excluded.sha256, size = excluded.size, entry = excluded.entry,
      token = excluded.token
  `)
  const unpend = database.prepare("DELETE FROM inventory_pending WHERE path = ?")
  const readState = database.prepare("SELECT * FROM inventory_total")
  const writeState = database.prepare(`
    UPDATE inventory_total SET owed_files = ?, owed_bytes = ?, verified_files = ?, verified_bytes = ?, unlinking = ?,
      epoch = ?, revision = ?, mark = ?
  `)

  const state = (): State => {
    const row = readState.get()
    if (row === undefined) return { totals: noTotals, cursor: undefined }
    return {
      totals: {
        owedFiles: Number(row["owed_files"]),
        owedBytes: BigInt(String(row["owed_bytes"])),
        verifiedFiles: Number(row["verified_files"]),
        verifiedBytes: BigInt(String(row["verified_bytes"])),
        unlinking: Number(row["unlinking"])
      },
      cursor: row["epoch"] === null
        ? undefined
        : { epoch: String(row["epoch"]), revision: Number(row["revision"]), mark: String(row["mark"]) }
    }
  }

  const standingAt = (path: string): Standing => standingOf(standing.get(path))

  const pendingAt = (path: string): Bytes | undefined => {
    const row = pending.get(path)
    return row === undefined ? undefined : { sha256: String(row["sha256"]), size: Number(row["size"]) }
  }

  const owe = (totals: Totals, change: Extract<StoredChange, { _tag: "Owe" }>, now: number): Totals => {
    const { bytes, entry, path, revision } = change.file
    const before = standingAt(path)
    switch (onOwe(before, revision, bytes)._tag) {
      case "Owe":
        put.run(
          path,
          "Owed",
          revision,
          bytes.sha256,
          bytes.size,
          entry,
          now,
          0,
          change.due,
          change.reason,
          "[]",
          null,
          null
        )
        return recount(totals, before, { _tag: "Owed", revision, bytes })
      case "Renew":
        renew.run(revision, entry, change.due, path)
        return totals
      case "Keep":
      case "Unlink":
        return totals
    }
  }

  const forget = (totals: Totals, change: Extract<StoredChange, { _tag: "Forget" }>): Totals => {
    const { due, path, revision } = change
    const before = standingAt(path)
    if (onForget(before, pendingAt(path) !== undefined, revision)._tag !== "Unlink") return totals
    unpend.run(path)
    put.run(path, "Unlinking", revision, "", 0, "", null, null, due, null, null, null, null)
    return recount(totals, before, { _tag: "Unlinking", revision })
  }

  const lost = (totals: Totals, change: Extract<StoredChange, { _tag: "Lost" }>, now: number): Totals => {
    const row = standing.get(change.path)
    const before = standingOf(row)
    if (before._tag !== "Verified" || row?.["mtime"] !== change.mtime || row["inode"] !== change.inode) return totals
    lose.run(now, change.due, change.reason, change.path)
    return recount(totals, before, { ...before, _tag: "Owed" })
  }

  const release = (totals: Totals, path: string): Totals => {
    const before = standingAt(path)
    if (!onRelease(before)) return totals
    note.run(leftNote(path), "another history of the manifest does not know it")
    remove.run(path)
    return recount(totals, before, absent)
  }

  const settle = (totals: Totals, write: Extract<Write, { _tag: "Settle" }>): Totals | undefined => {
    const { bytes, entry, path, revision } = write.file
    const before = standingAt(path)
    const pended = pendingAt(path)
    switch (onSettle(before, pended, write.file, write.held)._tag) {
      case "Refuse":
        return undefined
      case "Verify":
        put.run(
          path,
          "Verified",
          revision,
          bytes.sha256,
          bytes.size,
          entry,
          null,
          null,
          null,
          null,
          null,
          write.mtime,
          write.inode
        )
        break
      case "Confirm":
        confirm.run(write.mtime, write.inode, path)
        break
    }
    if (pended !== undefined) unpend.run(path)
    return recount(totals, before, { _tag: "Verified", revision, bytes })
  }

  const run = (writes: ReadonlyArray<Write>): Array<boolean> => {
    const { cursor: cursorBefore, totals: totalsBefore } = state()
    let totals = totalsBefore
    let cursor = cursorBefore
    const answers = writes.map((write) => {
      switch (write._tag) {
        case "Apply":
          for (const change of write.changes) {
            switch (change._tag) {
              case "Owe":
                totals = owe(totals, change, write.now)
                break
              case "Forget":
                totals = forget(totals, change)
                break
              case "Lost":
                totals = lost(totals, change, write.now)
                break
              case "NewHistory":
                rebase.run()
                cursor = undefined
                break
              case "Release":
                totals = release(totals, change.path)
                break
            }
          }
          cursor = write.cursor ?? cursor
          return true
        case "Pend":
          pend.run(write.path, write.bytes.sha256, write.bytes.size, write.entry, write.token)
          return true
        case "Unpend":
          unpend.run(write.path)
          return true
        case "Remember":
          if (write.text === undefined) dropNote.run(write.name)
          else note.run(write.name, write.text)
          return true
        case "Settle": {
          const after = settle(totals, write)
          totals = after ?? totals
          return after !== undefined
        }
        case "Unlinked": {
          const before = standingAt(write.path)
          if (before._tag !== "Unlinking" || before.revision !== write.revision) return false
          remove.run(write.path)
          totals = recount(totals, before, absent)
          return true
        }
        case "Postpone":
          return Number(postpone.run(write.due, write.reason, write.answers, write.path, write.revision).changes) > 0
      }
    })
    if (totals !== totalsBefore || cursor !== cursorBefore) {
      writeState.run(
        totals.owedFiles,
        String(totals.owedBytes),
        totals.verifiedFiles,
        String(totals.verifiedBytes),
        totals.unlinking,
        cursor?.epoch ?? null,
        cursor?.revision ?? null,
        cursor?.mark ?? null
      )
    }
    return answers
  }
  return Object.assign(run, { state })
}
