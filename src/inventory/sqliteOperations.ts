/** What is asked of the inventory's file. Runs on the database's own thread. */
import type { SQLOutputValue } from "node:sqlite"
import { giantBytes } from "../ports/giant.ts"
import { connect, migrate, transaction } from "../sqlite/connect.ts"
import type { Totals } from "./transition.ts"
import { makeWriter, type StoredCursor, type StoredRow, type StoredSpan, type Write } from "./writeOperations.ts"

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
const migrations = [
  `
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
`,
  `
  CREATE INDEX inventory_failed ON inventory_file (state) WHERE state = 'Owed' AND rounds > 0;
`,
  `
  CREATE TABLE inventory_note (name TEXT PRIMARY KEY, text TEXT NOT NULL) STRICT;
`,
  `
  CREATE INDEX inventory_fresh ON inventory_file (due, revision) WHERE state = 'Owed' AND rounds = 0;
  CREATE INDEX inventory_again ON inventory_file (due, revision) WHERE state = 'Owed' AND rounds > 0;
`,
  `
  DROP INDEX inventory_fresh;
  CREATE INDEX inventory_small ON inventory_file (revision) WHERE state = 'Owed' AND rounds = 0 AND size < 8388608;
  CREATE INDEX inventory_giant ON inventory_file (revision) WHERE state = 'Owed' AND rounds = 0 AND size >= 8388608;
`,
  `
  CREATE INDEX inventory_orphan ON inventory_file (state) WHERE state = 'Verified' AND revision = 0;
`
]

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
  const ready = (which: string, condition: string, order: string, index = "") => `
    SELECT ${columns} FROM inventory_file ${index} WHERE ${which} AND due IS NOT NULL AND due ${condition} AND NOT EXISTS (
      SELECT 1 FROM inventory_pending WHERE inventory_pending.path = inventory_file.path AND state = 'Owed'
    ) ORDER BY ${order} LIMIT ?
  `
  const fresh = (size: string, index: string) =>
    ready(`state = 'Owed' AND rounds = 0 AND size ${size}`, "<= ?", "revision DESC", `INDEXED BY ${index}`)
  const selectSmall = database.prepare(fresh(`< ${giantBytes}`, "inventory_small"))
  const selectGiant = database.prepare(fresh(`>= ${giantBytes}`, "inventory_giant"))
  const selectAgain = database.prepare(ready("state = 'Owed' AND rounds > 0", "<= ?", "due, revision"))
  const selectUnlinks = database.prepare(ready("state = 'Unlinking'", "<= ?", "due, revision"))
  const selectNext = database.prepare(ready("state = ?", "> ?", "due"))
  const selectPage = database.prepare(
    `SELECT ${columns} FROM inventory_file WHERE path > ? ORDER BY path LIMIT ?`
  )
  // Joined by SQLite: an object a row costs three times as much.
  const brief = ["path", "state", "revision", "size", "coalesce(mtime, 0)", "coalesce(inode, 0)"]
  const selectBriefs = database.prepare(
    `SELECT ${brief.join(" || char(0) || ")} AS brief FROM inventory_file WHERE path > ? ORDER BY path LIMIT ?`
  )
  const selectKnown = database.prepare(
    "SELECT 1 FROM inventory_file WHERE path = ? UNION ALL SELECT 1 FROM inventory_pending WHERE path = ? LIMIT 1"
  )
  const selectNote = database.prepare("SELECT text FROM inventory_note WHERE name = ?")
  const selectBehind = database.prepare(
    "SELECT path FROM inventory_file WHERE state = 'Owed' AND due > ? ORDER BY due, revision LIMIT ?"
  )
  const setDue = database.prepare("UPDATE inventory_file SET due = ? WHERE path = ?")
  const selectPending = database.prepare("SELECT entry, token FROM inventory_pending WHERE path = ?")
  const selectPendings = database.prepare("SELECT entry, token FROM inventory_pending ORDER BY rowid")
  const selectLowest = database.prepare("SELECT min(revision) AS lowest FROM inventory_file WHERE state = 'Owed'")
  const selectOldest = database.prepare("SELECT min(since) AS oldest FROM inventory_file WHERE state = 'Owed'")

  const countFailed = database.prepare(
    "SELECT count(*) AS files FROM inventory_file WHERE state = 'Owed' AND rounds > 0"
  )
  const countOrphans = database.prepare(
    "SELECT count(*) AS files FROM inventory_file WHERE state = 'Verified' AND revision = 0"
  )

  return {
    /** All of them in one durable transaction; one answer each. */
    write: (writes: ReadonlyArray<Write>): Array<boolean> => transaction(database, () => writer(writes)),
    row: (path: string): StoredRow | undefined => select.get(path),
    look: (paths: ReadonlyArray<string>): Array<StoredLocal> =>
      paths.map((path) => ({ row: select.get(path), pending: selectPending.get(path) })),
    /** `inHand`: path and revision of each, all in one text. */
    due: (now: number, limit: number, inHand: string): Array<StoredRow> => {
      const known = new Map<string, string>()
      const fields = inHand === "" ? [] : inHand.split("\0")
      for (let at = 0; at < fields.length; at += 2) known.set(fields[at] ?? "", fields[at + 1] ?? "")
      return [selectSmall, selectGiant, selectAgain].flatMap((select) => {
        const found: Array<StoredRow> = []
        for (const row of select.iterate(now, limit + known.size)) {
          if (known.get(String(row["path"])) === String(row["revision"])) continue
          if (found.push(row) === limit) break
        }
        return found
      })
    },
    dueUnlinks: (now: number, limit: number): Array<StoredRow> => selectUnlinks.all(now, limit),
    nextDue: (now: number): number | undefined => {
      const times = ["Owed", "Unlinking"].flatMap((state) => optional(selectNext.get(state, now, 1)?.["due"]) ?? [])
      return times.length === 0 ? undefined : Math.min(...times)
    },
    page: (after: string, limit: number): Array<StoredRow> => selectPage.all(after, limit),
    /** Six texts a row, all in one: it crosses to another thread at a fraction of what as many objects cost. */
    briefs: (after: string, limit: number): string =>
      selectBriefs.all(after, limit).map((row) => row["brief"]).join("\0"),
    unknown: (paths: ReadonlyArray<string>): Array<string> =>
      paths.filter((path) => selectKnown.get(path, path) === undefined),
    recall: (name: string): StoredRow | undefined => selectNote.get(name),
    pendings: (): Array<StoredRow> => selectPendings.all(),
    rearm: ({ behind, from, limit, until }: StoredSpan): number =>
      transaction(database, () => {
        const found = selectBehind.all(behind, limit)
        for (const [n, row] of found.entries()) {
          setDue.run(Math.floor(from + (until - from) * n / found.length), row["path"] ?? "")
        }
        return found.length
      }),
    progress: (): StoredProgress => ({
      ...writer.state(),
      lowestOwed: optional(selectLowest.get()?.["lowest"]),
      oldestOwed: optional(selectOldest.get()?.["oldest"])
    }),
    failed: (): number => Number(countFailed.get()?.["files"]),
    orphans: (): number => writer.state().cursor === undefined ? 0 : Number(countOrphans.get()?.["files"]),
    close: (): void => database.close()
  }
}
export type InventoryOperations = ReturnType<typeof open>
