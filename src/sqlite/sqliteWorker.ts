/** The thread behind `SqliteThread`: opens the database, then runs one operation after another. */
import { parentPort, workerData } from "node:worker_threads"

export interface Request {
  readonly id: number
  readonly operation: string
  readonly args: ReadonlyArray<unknown>
}

export type Reply =
  | { readonly id: number; readonly ok: true; readonly value: unknown }
  | { readonly id: number; readonly ok: false; readonly code: number; readonly detail: string }

const failure = (id: number, cause: unknown): Reply => {
  const code: unknown = cause instanceof Error ? Reflect.get(cause, "errcode") : undefined
  return {
    id,
    ok: false,
    code: typeof code === "number" ? code : 0,
    detail: cause instanceof Error ? cause.message : String(cause)
  }
}

const port = parentPort
if (port === null) throw new Error("sqliteWorker is a worker thread's module")

const opened: Promise<Record<string, (...args: ReadonlyArray<unknown>) => unknown>> = import(workerData.operations)
  .then(
    (module) => module.open(workerData.path)
  )
// Whoever asks gets the failure; until then it is nobody's.
opened.catch(() => undefined)

port.on("message", async ({ args, id, operation }: Request) => {
  try {
    const operations = await opened
    if (operation === "ready") return port.postMessage({ id, ok: true, value: undefined })
    const run = operations[operation]
    if (run === undefined) throw new Error(`no operation ${operation}`)
    port.postMessage({ id, ok: true, value: run(...args) })
    if (operation === "close") port.close()
  } catch (cause) {
    port.postMessage(failure(id, cause))
  }
})
