/** A SQLite file that another process holds is asked again, for some ten seconds. */
import { Effect, Schedule } from "effect"
import type { SqliteError } from "./SqliteThread.ts"

const patience = "10 seconds"

const again = Schedule.min([Schedule.exponential("5 millis"), Schedule.spaced("100 millis")]).pipe(
  Schedule.jittered,
  Schedule.upTo({ duration: patience })
)

export const retryBusy = <A, R>(call: Effect.Effect<A, SqliteError, R>): Effect.Effect<A, SqliteError, R> =>
  Effect.retry(call, { while: (error) => error.reason === "Busy", schedule: again })

/** What went wrong, as a sentence for people. */
export const sentence = (error: SqliteError): string => {
  switch (error.reason) {
    case "Busy":
      return `${error.path}: another process has kept it locked for over ${patience}`
    case "Full":
      return `${error.path}: the disk is full`
    case "Corrupt":
      return `${error.path}: the file is damaged or no database (${error.detail})`
    case "Failed":
      return `${error.path}: ${error.detail}`
  }
}
