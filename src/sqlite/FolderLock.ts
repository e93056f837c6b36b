/**
 * A lock on a folder that ends with its holder, however that ends: an exclusive lock on a small SQLite file, which the
 * system drops with the process. Nothing is ever written to the file.
 */
import { Effect, Schema, type Scope } from "effect"
import { mkdir } from "node:fs/promises"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"

/** Another process holds the folder, or it can't be locked at all. */
export class FolderTaken extends Schema.TaggedError<FolderTaken>()("FolderTaken", {
  folder: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.folder} can't be used: ${this.detail}`
  }
}

/** One verification at a time, of a node and of whoever works beside it: two would share one position. */
export const verifyLock = (stateFolder: string): Effect.Effect<void, FolderTaken, Scope.Scope> =>
  acquire(join(stateFolder, "verify"), "another verify reads these files; wait until it has ended")

/** Whoever only looks holds the lock for less. */
const acquireMillis = 100

/** Whether a process holds the lock of a folder now. One that can't be told is not held. */
export const isTaken = (folder: string): Effect.Effect<boolean> =>
  Effect.sync(() => {
    try {
      const database = new DatabaseSync(join(folder, "lock"), { readOnly: true, timeout: 0 })
      try {
        database.prepare("SELECT count(*) FROM sqlite_schema").get()
        return false
      } catch (cause) {
        return isBusy(cause)
      } finally {
        database.close()
      }
    } catch {
      // No lock was ever held there.
      return false
    }
  })

const isBusy = (cause: unknown): boolean => cause instanceof Error && Reflect.get(cause, "errcode") === 5

/** Holds the lock until the scope closes. Makes the folder. `busy`: what to say when another process holds it. */
export const acquire = (
  folder: string,
  busy = "another node runs on it; give each a folder of its own"
): Effect.Effect<void, FolderTaken, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.tryPromise({
      try: async () => {
        await mkdir(folder, { recursive: true })
        const database = new DatabaseSync(join(folder, "lock"), { timeout: acquireMillis })
        try {
          database.exec("BEGIN EXCLUSIVE")
        } catch (cause) {
          database.close()
          throw cause
        }
        return database
      },
      catch: (cause) => {
        const said = cause instanceof Error ? cause.message : String(cause)
        return new FolderTaken({
          folder,
          detail: isBusy(cause) ? busy : said
        })
      }
    }),
    (database) => Effect.sync(() => database.close())
  ).pipe(Effect.asVoid)
