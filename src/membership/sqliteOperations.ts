/**
 * What is done to the list of members in a SQLite file. Runs on the database's own thread and knows nothing of
 * Effect. Times are milliseconds since 1970, given by the caller.
 */
import { connect, migrate, transaction } from "../sqlite/connect.ts"
import { ownProcess, runs } from "./process.ts"

const migrations = [
  `CREATE TABLE node (
    id TEXT PRIMARY KEY,
    instance TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started TEXT NOT NULL,
    role TEXT NOT NULL,
    address_host TEXT NOT NULL,
    address_port INTEGER NOT NULL,
    version TEXT NOT NULL,
    verified_through INTEGER,
    alive INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
  ) STRICT`
]

/**
 * What a node says besides, as JSON that may grow. A component of its own: a node of an older version that starts on
 * this file knows nothing of it and needs nothing of it.
 */
const sayings = [
  "CREATE TABLE node_said (id TEXT PRIMARY KEY, instance TEXT NOT NULL, said TEXT NOT NULL) STRICT"
]

export interface Claim {
  readonly id: string
  /** Tells this run of the node from any other. */
  readonly instance: string
  readonly role: string
  readonly host: string
  readonly port: number
  readonly version: string
  readonly said: string
  readonly expiresAt: number
}

/**
 * What came of a claim to an id. `Taken`: its holder runs, whatever the clocks say. `Held`: its holder has not lapsed yet, and whether it runs
 * can't be told from here.
 */
export type Claimed =
  | { readonly _tag: "Claimed" }
  | { readonly _tag: "Taken" | "Held"; readonly expiresAt: number; readonly holder: string }

export const open = (path: string) => {
  const database = connect(path)
  migrate(database, "membership", migrations)
  migrate(database, "membership-said", sayings)
  const own = ownProcess()

  const find = database.prepare("SELECT * FROM node WHERE id = ?")
  // What an earlier run has said counts no more once another one holds the id.
  const all = database.prepare("SELECT node.*, said FROM node LEFT JOIN node_said USING (id, instance) ORDER BY id")
  const put = database.prepare(
    `INSERT OR REPLACE INTO node (id, instance, host, pid, started, role, address_host, address_port, version,
      alive, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?)`
  )
  const say = database.prepare("INSERT OR REPLACE INTO node_said VALUES (?, ?, ?)")
  const sayAgain = database.prepare("UPDATE node_said SET said = ? WHERE id = ? AND instance = ?")
  const remove = database.prepare("DELETE FROM node WHERE id = ?")
  const unsay = database.prepare("DELETE FROM node_said WHERE id = ?")
  const leave = database.prepare(
    "UPDATE node SET alive = 0, expires_at = min(expires_at, ?) WHERE id = ? AND instance = ?"
  )
  const depart = database.prepare("UPDATE node SET alive = 0, expires_at = min(expires_at, ?) WHERE id = ?")

  return {
    /**
     * Takes an id, or keeps it, and sets its row. An id is free when its last holder has left. A holder on this very
     * host is looked for: it keeps the id for as long as its process runs, and no longer. Any other keeps it until it
     * has lapsed, or until the caller has seen it unchanged, at this `givenUp` time of expiry, for long enough.
     */
    claim: (claim: Claim, now: number, givenUp: number | null): Claimed =>
      transaction(database, () => {
        const row = find.get(claim.id)
        if (row !== undefined && row["instance"] !== claim.instance && row["alive"] === 1) {
          const expiresAt = Number(row["expires_at"])
          const running = runs({
            host: String(row["host"]),
            pid: Number(row["pid"]),
            started: String(row["started"])
          })
          if (running ?? (expiresAt > now && expiresAt !== givenUp)) {
            const holder = `at ${row["address_host"]}:${row["address_port"]}, process ${row["pid"]}`
            return { _tag: running === true ? "Taken" : "Held", expiresAt, holder }
          }
        }
        put.run(
          claim.id,
          claim.instance,
          own.host,
          own.pid,
          own.started,
          claim.role,
          claim.host,
          claim.port,
          claim.version,
          claim.expiresAt
        )
        say.run(claim.id, claim.instance, claim.said)
        return { _tag: "Claimed" }
      }),

    say: (id: string, instance: string, said: string): void => {
      sayAgain.run(said, id, instance)
    },

    /** Takes a node out, unless it is alive. */
    remove: (id: string, now: number): "Removed" | "Alive" | "Unknown" =>
      transaction(database, () => {
        const row = find.get(id)
        if (row === undefined) return "Unknown"
        if (row["alive"] === 1 && Number(row["expires_at"]) > now) return "Alive"
        remove.run(id)
        unsay.run(id)
        return "Removed"
      }),

    leave: (id: string, instance: string, now: number): void => {
      leave.run(now, id, instance)
    },

    departed: (id: string, now: number): void => {
      depart.run(now, id)
    },

    members: () => all.all(),

    close: (): void => database.close()
  }
}
export type MembershipOperations = ReturnType<typeof open>
