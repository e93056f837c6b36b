/** A small operations module for the thread's own tests. */
import { connect, migrate, transaction } from "../../src/sqlite/connect.ts"

export const open = (path: string) => {
  const database = connect(path)
  migrate(database, "counter", ["CREATE TABLE counter (value INTEGER NOT NULL) STRICT; INSERT INTO counter VALUES (0)"])
  return {
    add: (amount: number): number =>
      transaction(database, () => {
        database.prepare("UPDATE counter SET value = value + ?").run(amount)
        return Number(database.prepare("SELECT value FROM counter").get()?.["value"])
      }),
    /** In the middle of a transaction. */
    die: (): void =>
      transaction(database, () => {
        database.exec("UPDATE counter SET value = 1000")
        process.exit(1)
      }),
    fail: (): void => database.exec("INSERT INTO nowhere VALUES (1)"),
    close: (): void => database.close()
  }
}
export type CounterOperations = ReturnType<typeof open>
