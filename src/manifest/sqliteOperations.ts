/**
 * What is done to the manifest's SQLite file. Runs on the database's own thread and knows nothing of Effect; what it
 * reads from the file goes back unchecked, and is decoded where it arrives.
 *
 * A row is an event and, until a later one for the same path, also the state of that path. Its number `seq` is the
 * revision; `batch` is the number of the last row of the same change, by which a reader keeps changes whole.
 */
import { closeSync, constants, openSync, writeSync } from "node:fs"
import type { SQLOutputValue } from "node:sqlite"
import type { FileEntry } from "../ports/FileEntry.ts"
import { connect, migrate, transaction } from "../sqlite/connect.ts"
import { fileOf, packedRow } from "./sqliteRows.ts"

// `lsn` is text: 64 bits without a sign do not fit SQLite's integer. `superseded` keeps the marks of rows that gave
// way to a tombstone, and the mark at `gc_seq`, so that each cursor from there on can be compared exactly.
const migrations = [
  `CREATE TABLE entry (
    seq INTEGER PRIMARY KEY,
    batch INTEGER NOT NULL,
    mark TEXT NOT NULL DEFAULT (lower(hex(randomblob(8)))),
    path TEXT NOT NULL UNIQUE,
    deleted INTEGER NOT NULL,
    sha256 TEXT,
    size_bytes INTEGER,
    database TEXT,
    measurement TEXT,
    partition_time TEXT,
    origin_node_id TEXT,
    tier TEXT,
    created_at TEXT,
    lsn TEXT,
    reason TEXT,
    removed_at INTEGER
  ) STRICT;
  CREATE UNIQUE INDEX entry_standing ON entry (path) WHERE deleted = 0;
  CREATE INDEX entry_removed ON entry (seq) WHERE deleted = 1;
  CREATE TABLE superseded (seq INTEGER PRIMARY KEY, mark TEXT NOT NULL) STRICT;
  CREATE TABLE meta (epoch TEXT NOT NULL, head INTEGER NOT NULL, gc_seq INTEGER NOT NULL) STRICT;
  INSERT INTO meta VALUES (lower(hex(randomblob(16))), 0, 0)`,
  // Who made the changes from `seq` on: each connection begins an era with its first. None is ever dropped, so that a
  // cursor whose mark was forgotten still tells its history from the one of a backup that was put back.
  "CREATE TABLE era (seq INTEGER PRIMARY KEY, id TEXT NOT NULL DEFAULT (lower(hex(randomblob(8))))) STRICT"
]

/** Touched after each commit, for other processes to watch: the log itself is silent about the last commit. */
export const doorbellOf = (path: string): string => `${path}-doorbell`

type Row = Record<string, SQLOutputValue>

/** A change in the making: the number of its newest row so far. */
interface Change {
  head: number
}

interface Position {
  readonly epoch: string
  readonly revision: number
  readonly mark: string
}

interface Removal {
  readonly path: string
  readonly reason: string
}

/** Thrown in a change, takes it back as a whole, and is what the caller gets to know all the same. */
class TakenBack extends Error {
  readonly answer: unknown
  constructor(answer: unknown) {
    super("taken back")
    this.answer = answer
  }
}

export const open = (path: string) => {
  const database = connect(path)
  migrate(database, "manifest", migrations)
  const doorbell = openSync(doorbellOf(path), constants.O_RDWR | constants.O_CREAT, 0o644)

  const meta = database.prepare("SELECT epoch, head, gc_seq FROM meta")
  const setHead = database.prepare("UPDATE meta SET head = ?")
  const setCollected = database.prepare("UPDATE meta SET gc_seq = ?")
  const find = database.prepare("SELECT * FROM entry WHERE path = ?")
  const findStanding = database.prepare("SELECT * FROM entry INDEXED BY entry_standing WHERE deleted = 0 AND path = ?")
  const findPacked = database.prepare(
    `SELECT ${packedRow} AS file FROM entry INDEXED BY entry_standing WHERE deleted = 0 AND path = ?`
  )
  const firstBelow = database.prepare(
    "SELECT * FROM entry INDEXED BY entry_standing WHERE deleted = 0 AND path > ? AND path < ? ORDER BY path LIMIT 1"
  )
  const pageBehind = database.prepare(
    `SELECT ${packedRow} AS file FROM entry INDEXED BY entry_standing WHERE deleted = 0 AND path > ? ORDER BY path LIMIT ?`
  )
  const rowsBehind = database.prepare("SELECT * FROM entry WHERE seq > ? ORDER BY seq LIMIT ?")
  const restOfChange = database.prepare("SELECT * FROM entry WHERE seq > ? AND seq <= ? ORDER BY seq")
  const closeChange = database.prepare("UPDATE entry SET batch = ? WHERE seq > ?")
  const insertFile = database.prepare(
    `INSERT INTO entry (seq, batch, path, deleted, sha256, size_bytes, database, measurement, partition_time,
      origin_node_id, tier, created_at, lsn) VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
  )
  const insertTombstone = database.prepare(
    "INSERT INTO entry (seq, batch, path, deleted, reason, removed_at) VALUES (?, ?, ?, 1, ?, ?)"
  )
  const drop = database.prepare("DELETE FROM entry WHERE seq = ?")
  const supersede = database.prepare("INSERT OR REPLACE INTO superseded VALUES (?, ?)")
  const forgetMarks = database.prepare("DELETE FROM superseded WHERE seq < ?")
  const markAt = database.prepare(
    "SELECT mark FROM entry WHERE seq = :seq UNION ALL SELECT mark FROM superseded WHERE seq = :seq"
  )
  const collectable = database.prepare(
    `SELECT seq, mark FROM entry INDEXED BY entry_removed
      WHERE deleted = 1 AND seq <= ? AND removed_at <= ? ORDER BY seq LIMIT ?`
  )
  const beginEra = database.prepare("INSERT INTO era (seq) VALUES (?) RETURNING id")
  const hasEra = database.prepare("SELECT 1 FROM era WHERE id = ?")
  const eraAt = database.prepare("SELECT id FROM era WHERE seq <= ? ORDER BY seq DESC LIMIT 1")
  const dataVersion = database.prepare("PRAGMA data_version")

  // The era that this connection has begun, and the newest row of its own.
  let era = ""
  let newest = 0

  /** A backup may be put back beneath an open connection too: its era, or rows of its own, are gone then. */
  const keepEra = (before: number): void => {
    if (newest <= before && hasEra.get(era) !== undefined) return
    era = String(beginEra.get(before + 1)?.["id"])
  }

  const change = <A>(body: (change: Change) => A): A => {
    let changed = false
    let head = newest
    const result = transaction(database, () => {
      const before = metaRow().head
      const current: Change = { head: before }
      const result = body(current)
      changed = current.head !== before
      if (changed) {
        keepEra(before)
        setHead.run(current.head)
        head = current.head
      }
      return result
    })
    if (changed) {
      newest = head
      ring()
    }
    return result
  }

  /** A change that may throw {@link TakenBack}. */
  const attempt = (body: (change: Change) => unknown): unknown => {
    try {
      return change(body)
    } catch (cause) {
      if (cause instanceof TakenBack) return cause.answer
      throw cause
    }
  }

  const ring = () => {
    try {
      writeSync(doorbell, ".", 0)
    } catch {
      // The change is durable; without a bell the others see it when they next look by themselves.
    }
  }

  /** One state of the file for several reads. */
  const reading = <A>(body: () => A): A => {
    database.exec("BEGIN")
    try {
      return body()
    } finally {
      if (database.isTransaction) database.exec("COMMIT")
    }
  }

  const metaRow = () => {
    const row = meta.get()
    if (row === undefined) throw new Error("the table meta is empty: the file is damaged")
    return { epoch: String(row["epoch"]), head: Number(row["head"]), collected: Number(row["gc_seq"]) }
  }

  const markOf = (revision: number): string | undefined => {
    if (revision === 0) return ""
    const row = markAt.get({ seq: revision })
    return row === undefined ? undefined : String(row["mark"])
  }

  const eraOf = (revision: number): string => String(eraAt.get(revision)?.["id"] ?? "")

  /** A cursor's mark: its row's, and its era's unless the row is older than all eras. */
  const withEra = (mark: string, revision: number): string => {
    const id = eraOf(revision)
    return id === "" ? mark : `${mark}.${id}`
  }

  const isOurs = ({ mark, revision }: Position, collected: number): boolean => {
    const own = markOf(revision)
    if (own !== undefined) return mark === withEra(own, revision)
    // Its mark was forgotten with the tombstones. What can't be told by the era either is not called ours.
    const id = eraOf(revision)
    return revision < collected && id !== "" && mark.endsWith(`.${id}`)
  }

  const lost = (cursor: Position) => {
    const { collected, epoch, head } = metaRow()
    if (cursor.epoch !== epoch || cursor.revision > head || !isOurs(cursor, collected)) return "EpochChanged" as const
    return cursor.revision < collected ? "Compacted" as const : undefined
  }

  /** The file in whose way a new path stands: one of the path's folders, or one below the path. */
  const inTheWay = (path: string): Row | undefined => {
    for (let at = path.indexOf("/"); at !== -1; at = path.indexOf("/", at + 1)) {
      const row = findStanding.get(path.slice(0, at))
      if (row !== undefined) return row
    }
    // "0" is the character behind "/".
    return firstBelow.get(`${path}/`, `${path}0`)
  }

  const add = (current: Change, entry: FileEntry) => {
    const row = find.get(entry.path)
    if (row !== undefined) {
      if (row["deleted"] === 1) return { _tag: "Gone", reason: row["reason"] } as const
      return row["sha256"] === entry.sha256 && row["size_bytes"] === entry.size_bytes
        ? { _tag: "Standing", file: fileOf(row) } as const
        : { _tag: "Taken", kind: "OtherBytes", standing: fileOf(row) } as const
    }
    const other = inTheWay(entry.path)
    if (other !== undefined) return { _tag: "Taken", kind: "FolderAndFile", standing: fileOf(other) } as const
    const seq = ++current.head
    insertFile.run(
      seq,
      seq,
      entry.path,
      entry.sha256,
      entry.size_bytes,
      entry.database,
      entry.measurement,
      entry.partition_time,
      entry.origin_node_id,
      entry.tier,
      entry.created_at,
      String(entry.lsn)
    )
    return { _tag: "Added", revision: seq } as const
  }

  const bury = (current: Change, { path, reason }: Removal, now: number): number => {
    const row = find.get(path)
    if (row?.["deleted"] === 1) return Number(row["seq"])
    if (row !== undefined) {
      supersede.run(Number(row["seq"]), String(row["mark"]))
      drop.run(Number(row["seq"]))
    }
    const seq = ++current.head
    insertTombstone.run(seq, seq, path, reason, now)
    return seq
  }

  return {
    /** Adds each entry or says why not, all in one transaction; each is a change of its own. */
    register: (entries: ReadonlyArray<FileEntry>) => change((current) => entries.map((entry) => add(current, entry))),

    /** Adds every entry, or none when one is refused. */
    registerTogether: (entries: ReadonlyArray<FileEntry>) =>
      attempt((current) => {
        const answers = entries.map((entry) => add(current, entry))
        if (answers.some(({ _tag }) => _tag === "Gone" || _tag === "Taken")) throw new TakenBack(answers)
        return answers
      }),

    /** What `register` would answer: it is done and taken back, so that the entries meet each other too. */
    check: (entries: ReadonlyArray<FileEntry>) =>
      attempt((current) => {
        throw new TakenBack(entries.map((entry) => add(current, entry)))
      }),

    remove: (removal: Removal, now: number) => change((current) => bury(current, removal, now)),

    /** Removes first, so that a folder's files can give way to a file of its name. */
    replace: (adds: ReadonlyArray<FileEntry>, removals: ReadonlyArray<Removal>, now: number) =>
      attempt((current) => {
        const before = current.head
        let revision = 0
        for (const removal of removals) revision = Math.max(revision, bury(current, removal, now))
        for (const entry of adds) {
          const answer = add(current, entry)
          if (answer._tag === "Gone" || answer._tag === "Taken") throw new TakenBack({ ...answer, path: entry.path })
          revision = Math.max(revision, answer._tag === "Added" ? answer.revision : Number(answer.file.revision))
        }
        closeChange.run(current.head, before)
        return { _tag: "Done", revision }
      }),

    /** The files of many paths, in one text, as far as they stand; `unpacked` reads them. */
    getAll: (paths: string): string =>
      paths.split("\0").flatMap((path) => findPacked.get(path)?.["file"] ?? []).join(","),

    /** At most `limit` files behind a path, `""` for the first page; `unpacked` reads them. */
    page: (after: string, limit: number): string => pageBehind.all(after, limit).map((row) => row["file"]).join(","),

    head: (): Position =>
      reading(() => {
        const { epoch, head } = metaRow()
        const mark = markOf(head)
        if (mark === undefined) throw new Error(`row ${head} is missing: the file is damaged`)
        return { epoch, revision: head, mark: withEra(mark, head) }
      }),

    /** Why nothing can go on from a cursor. */
    lost: (cursor: Position) => reading(() => lost(cursor)),

    /** About `limit` events behind a cursor, whole changes only, and the cursor behind them. */
    events: (after: Position, limit: number) =>
      reading(() => {
        const reason = lost(after)
        if (reason !== undefined) return { _tag: "Lost", reason } as const
        const { epoch } = metaRow()
        const rows = rowsBehind.all(after.revision, limit)
        const cut = rows.at(-1)
        if (cut !== undefined && cut["batch"] !== cut["seq"]) {
          rows.push(...restOfChange.all(Number(cut["seq"]), Number(cut["batch"])))
        }
        const last = rows.at(-1)
        return last === undefined
          ? { _tag: "Nothing" } as const
          : {
            _tag: "Batch",
            cursor: {
              epoch,
              revision: last["seq"],
              mark: withEra(String(last["mark"]), Number(last["seq"]))
            },
            events: rows.map(eventOf)
          } as const
      }),

    /** Drops at most `limit` tombstones at or below a revision, made at or before a time; gives how many. */
    collect: (through: number, madeBy: number, limit: number): number =>
      transaction(database, () => {
        const { collected, head } = metaRow()
        const rows = collectable.all(Math.min(through, head), madeBy, limit)
        for (const row of rows) drop.run(Number(row["seq"]))
        const last = rows.at(-1)
        if (last !== undefined && Number(last["seq"]) > collected) {
          supersede.run(Number(last["seq"]), String(last["mark"]))
          setCollected.run(Number(last["seq"]))
          forgetMarks.run(Number(last["seq"]))
        }
        return rows.length
      }),

    /** Another number than before when another connection has changed the file meanwhile. */
    dataVersion: (): number => Number(dataVersion.get()?.["data_version"]),

    close: (): void => {
      database.close()
      closeSync(doorbell)
    }
  }
}
export type ManifestOperations = ReturnType<typeof open>

const eventOf = (row: Row) =>
  row["deleted"] === 0
    ? { _tag: "Put", file: fileOf(row) } as const
    : { _tag: "Removed", path: row["path"], revision: row["seq"], reason: row["reason"] } as const
