/** What is done to the inventory's file. Runs on the database's own thread. */
import type { DatabaseSync, SQLOutputValue } from "node:sqlite"
import { connect, migrate, transaction } from "../sqlite/connect.ts"
import { type Bytes, noTotals, onForget, onOwe, onSettle, recount, type Standing, type Totals } from "./transition.ts"

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
  | {
    readonly _tag: "Postpone"
    readonly path: string
    readonly revision: number
    readonly due: number
    readonly reason: string
    readonly answers: string
  }

export type StoredRow = Record<string, SQLOutputValue>

/** What is known of one path. */
export interface StoredLocal {
  readonly row: StoredRow | undefined
  readonly pending: StoredRow | undefined
}

export interface StoredProgress {
  readonly cursor: StoredCursor | undefined
  readonly totals: Totals
  readonly lowestOwed: number | undefined
  readonly oldestOwed: number | undefined
}

// Every question that is asked all the time is answered by one of these indexes.
const migrations = [`
  CREATE TABLE inventory_file (
    path TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('Owed', 'Verified', 'Unlinking')),
    revision INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    entry TEXT NOT NULL,
    since INTEGER,
    rounds INTEGER,
    due INTEGER,
    reason TEXT,
    answers TEXT,
    mtime TEXT,
    inode TEXT
  ) STRICT;
  CREATE INDEX inventory_due ON inventory_file (state, due, revision) WHERE due IS NOT NULL;
  CREATE INDEX inventory_owed ON inventory_file (revision) WHERE state = 'Owed';
  CREATE INDEX inventory_since ON inventory_file (since) WHERE state = 'Owed';
  CREATE TABLE inventory_pending (
    path TEXT NOT NULL UNIQUE,
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    entry TEXT NOT NULL,
    token TEXT NOT NULL
  ) STRICT;
  CREATE TABLE inventory_total (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    owed_files INTEGER NOT NULL,
    owed_bytes TEXT NOT NULL,
    verified_files INTEGER NOT NULL,
    verified_bytes TEXT NOT NULL,
    unlinking INTEGER NOT NULL,
    epoch TEXT,
    revision INTEGER,
    mark TEXT
  ) STRICT;
  INSERT INTO inventory_total VALUES (1, 0, '0', 0, '0', 0, NULL, NULL, NULL);
`]

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

const optional = (value: SQLOutputValue | undefined): number | undefined =>
  value === null || value === undefined ? undefined : Number(value)

export const open = (path: string) => {
  const database = connect(path)
  // A catch-up writes rows in the order of revisions and so all over the index of paths: keep most of it at hand, and
  // copy the log back in larger pieces.
  database.exec("PRAGMA cache_size = -32768; PRAGMA wal_autocheckpoint = 8000")
  migrate(database, "inventory", migrations)
  const writer = makeWriter(database)
  const columns = "path, state, revision, entry, since, rounds, due, reason, answers, mtime, inode"

  const select = database.prepare(`SELECT ${columns} FROM inventory_file WHERE path = ?`)
  const ready = (condition: string, order: string) => `
    SELECT ${columns} FROM inventory_file WHERE state = ? AND due IS NOT NULL AND due ${condition} AND NOT EXISTS (
      SELECT 1 FROM inventory_pending WHERE inventory_pending.path = inventory_file.path AND state = 'Owed'
    ) ORDER BY ${order} LIMIT ?
  `
  const selectDue = database.prepare(ready("<= ?", "due, revision"))
  const selectNext = database.prepare(ready("> ?", "due"))
  const selectPage = database.prepare(
    `SELECT ${columns} FROM inventory_file WHERE path > ? ORDER BY path LIMIT ?`
  )
  const selectPending = database.prepare("SELECT entry, token FROM inventory_pending WHERE path = ?")
  const selectPendings = database.prepare("SELECT entry, token FROM inventory_pending ORDER BY rowid")
  const selectLowest = database.prepare("SELECT min(revision) AS lowest FROM inventory_file WHERE state = 'Owed'")
  const selectOldest = database.prepare("SELECT min(since) AS oldest FROM inventory_file WHERE state = 'Owed'")

  return {
    /** All of them in one durable transaction; one answer each. */
    write: (writes: ReadonlyArray<Write>): Array<boolean> => transaction(database, () => writer(writes)),
    row: (path: string): StoredRow | undefined => select.get(path),
    look: (paths: ReadonlyArray<string>): Array<StoredLocal> =>
      paths.map((path) => ({ row: select.get(path), pending: selectPending.get(path) })),
    due: (state: "Owed" | "Unlinking", now: number, limit: number): Array<StoredRow> =>
      selectDue.all(state, now, limit),
    nextDue: (now: number): number | undefined => {
      const times = ["Owed", "Unlinking"].flatMap((state) => optional(selectNext.get(state, now, 1)?.["due"]) ?? [])
      return times.length === 0 ? undefined : Math.min(...times)
    },
    page: (after: string, limit: number): Array<StoredRow> => selectPage.all(after, limit),
    pendings: (): Array<StoredRow> => selectPendings.all(),
    progress: (): StoredProgress => ({
      ...writer.state(),
      lowestOwed: optional(selectLowest.get()?.["lowest"]),
      oldestOwed: optional(selectOldest.get()?.["oldest"])
    }),
    close: (): void => database.close()
  }
}
export type InventoryOperations = ReturnType<typeof open>

interface State {
  readonly totals: Totals
  readonly cursor: StoredCursor | undefined
}

const makeWriter = (database: DatabaseSync) => {
  const standing = database.prepare("SELECT state, revision, sha256, size FROM inventory_file WHERE path = ?")
  const put = database.prepare(`
    INSERT INTO inventory_file (path, state, revision, sha256, size, entry, since, rounds, due, reason, answers, mtime, inode)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET state = excluded.state, revision = excluded.revision, sha256 = excluded.sha256,
      size = excluded.size, entry = excluded.entry, since = excluded.since, rounds = excluded.rounds,
      due = excluded.due, reason = excluded.reason, answers = excluded.answers, mtime = excluded.mtime,
      inode = excluded.inode
  `)
  const renew = database.prepare("UPDATE inventory_file SET revision = ?, entry = ? WHERE path = ?")
  const confirm = database.prepare(`
    UPDATE inventory_file SET state = 'Verified', since = NULL, rounds = NULL, due = NULL, reason = NULL,
      answers = NULL, mtime = ?, inode = ? WHERE path = ?
  `)
  const postpone = database.prepare(`
    UPDATE inventory_file SET rounds = rounds + 1, due = ?, reason = ?, answers = ?
    WHERE path = ? AND state = 'Owed' AND revision = ?
  `)
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
        renew.run(revision, entry, path)
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

  const settle = (totals: Totals, write: Extract<Write, { _tag: "Settle" }>): Totals | undefined => {
    const { bytes, entry, path, revision } = write.file
    const before = standingAt(path)
    switch (onSettle(before, pendingAt(path), write.file, write.held)._tag) {
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
    unpend.run(path)
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
            totals = change._tag === "Owe" ? owe(totals, change, write.now) : forget(totals, change)
          }
          cursor = write.cursor ?? cursor
          return true
        case "Pend":
          pend.run(write.path, write.bytes.sha256, write.bytes.size, write.entry, write.token)
          return true
        case "Unpend":
          unpend.run(write.path)
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
