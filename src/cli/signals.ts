/** How a process that is a node ends: in order and in time, or at once. */
import { Duration, Effect } from "effect"

let started = false

/** Whether this process is, or was, a node. */
export const ranNode = (): boolean => started

/**
 * The first signal makes the node leave, which whoever runs it takes care of, and it must have left in time; the second
 * one ends the process at once. They are listened for until the process ends: its shutdown must hear them too.
 */
export const leaveOnSignals = (millis: number) =>
  Effect.map(Effect.context(), (context) => {
    const log = Effect.runSyncWith(context)
    started = true
    let told = false
    const listen = (signal: NodeJS.Signals) => {
      if (told) {
        process.stderr.write(`a second signal, ${signal}: leaving at once\n`)
        process.exit(signal === "SIGINT" ? 130 : 143)
      }
      told = true
      log(Effect.logInfo(`${signal}: stopping, within ${Duration.format(Duration.millis(millis))} at most`))
      leaveWithin(millis)
    }
    process.on("SIGINT", listen)
    process.on("SIGTERM", listen)
  })

const leaveWithin = (millis: number): void => {
  setTimeout(() => {
    process.stderr.write(`shutdown has not ended within ${Duration.format(Duration.millis(millis))}; leaving\n`)
    process.exit(1)
  }, millis).unref()
}

/** A shutdown that hangs, on a disk that does not answer for example, ends all the same. */
export const giveUpAfter = (millis: number) => Effect.addFinalizer(() => Effect.sync(() => leaveWithin(millis)))
