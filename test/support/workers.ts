/** The threads that this process starts, for tests that kill them. */
import { Effect } from "effect"
import type { Worker } from "node:worker_threads"

/** Those that are started from now on, as they are. */
export const workersOf = Effect.acquireRelease(
  Effect.sync(() => {
    const workers: Array<Worker> = []
    const add = (worker: Worker): void => void workers.push(worker)
    process.on("worker", add)
    return { workers, add }
  }),
  ({ add }) => Effect.sync(() => process.off("worker", add))
).pipe(Effect.map(({ workers }): ReadonlyArray<Worker> => workers))
