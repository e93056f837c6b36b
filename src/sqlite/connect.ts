/** What every database of ours has in common: its settings and its migrations. Runs on the database's own thread. */
import { DatabaseSync } from "node:sqlite"

/**
 * Opens a database: write-ahead log, every commit durable. A lock that another process holds is waited for only
 * briefly, because this thread answers nothing meanwhile; whoever asked may ask again.
 */
export const connect = (path: string): DatabaseSync => {
  const database = new DatabaseSync(path, { timeout: 100 })
  // Several processes may open a new file at once; the change to a write-ahead log needs it for itself.
  retryBusy(() => database.exec("PRAGMA journal_mode = WAL"))
  database.exec("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON")
  return database
}

/**
 * Brings one component's tables to their newest version: `migrations[n]` leads from version n to n + 1. Several
 * components may share a file, so each keeps its own version.
 */
export const migrate = (database: DatabaseSync, component: string, migrations: ReadonlyArray<string>): void =>
  retryBusy(() =>
    transaction(database, () => {
      database.exec("CREATE TABLE IF NOT EXISTS component (name TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT")
      const row = database.prepare("SELECT version FROM component WHERE name = ?").get(component)
      const version = Number(row?.["version"] ?? 0)
      if (version > migrations.length) {
        throw new Error(`made by a newer version of this software (${component} ${version}); upgrade this node`)
      }
      for (const migration of migrations.slice(version)) database.exec(migration)
      database.prepare("INSERT INTO component VALUES (?, ?) ON CONFLICT DO UPDATE SET version = excluded.version")
        .run(component, migrations.length)
    })
  )

/** Runs `body` in one write transaction: all of it or nothing. */
export const transaction = <A>(database: DatabaseSync, body: () => A): A => {
  database.exec("BEGIN IMMEDIATE")
  try {
    const result = body()
    database.exec("COMMIT")
    return result
  } catch (cause) {
    if (database.isTransaction) database.exec("ROLLBACK")
    throw cause
  }
}

const retryBusy = (body: () => void): void => {
  for (let tries = 0;; tries++) {
    try {
      return body()
    } catch (cause) {
      const code: unknown = cause instanceof Error ? Reflect.get(cause, "errcode") : undefined
      if (typeof code !== "number" || (code & 0xff) !== 5 || tries === 50) throw cause
      // This thread has nothing else to do before the file is open.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20)
    }
  }
}
