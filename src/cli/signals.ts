/** How a process that is a node ends: in order and in time, or at once. */
import { Duration, Effect } from "effect"

let started = false

/** Whether this process is, or was, a node. */
export const ranNode = (): boolean => started

/**
 * The first signal makes the node leave, which whoever runs it takes care of, and it must have left in time; the second
 * one ends the process at once. They are listened for until the process ends: its shutdown must hear them too.
 */
export const leaveOnSignals = Effect.fnUntraced(function*(millis: number) {
  const log = Effect.runSyncWith(yield* Effect.context())
  const leaveWithin = yield* leaving
  started = true
  let told = false
  const listen = (signal: NodeJS.Signals) => {
    if (told) {
      log(Effect.logWarning(`a second signal, ${signal}: leaving at once`))
      process.exit(signal === "SIGINT" ? 130 : 143)
    }
    told = true
    log(Effect.logInfo(`${signal}: stopping, within ${Duration.format(Duration.millis(millis))} at most`))
    leaveWithin(millis)
  }
  process.on("SIGINT", listen)
  process.on("SIGTERM", listen)
})

/** Ends the process later, unless it has ended by then. */
const leaving = Effect.map(Effect.context(), (context) => (millis: number): void => {
  setTimeout(() => {
    const within = Duration.format(Duration.millis(millis))
    Effect.runSyncWith(context)(Effect.logError(`shutdown has not ended within ${within}; leaving`))
    process.exit(1)
  }, millis).unref()
})

/** A shutdown that hangs, on a disk that does not answer for example, ends all the same. */
export const giveUpAfter = (millis: number) =>
  Effect.flatMap(leaving, (leaveWithin) => Effect.addFinalizer(() => Effect.sync(() => leaveWithin(millis))))
