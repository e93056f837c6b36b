/**
 * A worker thread that carries out named operations, one after another.
 *
 * A message from thread to thread costs far more than what most operations do. What is asked in one turn of the event
 * loop therefore goes in one message, and the answers come back together.
 */
import { Data, Effect, type Scope } from "effect"
import { Worker } from "node:worker_threads"

export interface Request {
  readonly id: number
  readonly operation: string
  readonly args: ReadonlyArray<unknown>
}

export type Reply =
  | { readonly id: number; readonly ok: true; readonly value: unknown }
  | { readonly id: number; readonly ok: false; readonly code: number | string; readonly detail: string }

/** An operation threw, or the thread has ended. */
export class ThreadRefused extends Data.TaggedError("ThreadRefused")<{
  /** What the system or the database calls it; 0 when it has no name. */
  readonly code: number | string
  readonly detail: string
}> {}

/** Asks for an operation. Interrupting that does not undo it: the answer is then unknown. */
export type Ask = (operation: string, args: ReadonlyArray<unknown>) => Effect.Effect<unknown, ThreadRefused>

/** Starts a thread; closing the scope ends it, whatever it does. `ended`: what is said to whoever asks afterwards. */
export const start = (options: {
  /** A module that calls `serve` of `threadSide.ts`. */
  readonly module: URL
  readonly data: unknown
  readonly ended: string
}): Effect.Effect<Ask, never, Scope.Scope> =>
  Effect.gen(function*() {
    const waiting = new Map<number, (reply: Reply) => void>()
    let asked: Array<Request> = []
    let nextId = 0
    let ended: string | undefined

    const end = (why: string): void => {
      ended ??= why
      for (const [id, resume] of waiting) resume({ id, ok: false, code: 0, detail: ended })
      waiting.clear()
    }

    const worker = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const worker = new Worker(options.module, { workerData: options.data, execArgv: [], resourceLimits })
        worker.on("message", (replies: ReadonlyArray<Reply>) => {
          for (const reply of replies) {
            const resume = waiting.get(reply.id)
            waiting.delete(reply.id)
            resume?.(reply)
          }
        })
        worker.on("error", (error) => end(error instanceof Error ? error.message : String(error)))
        worker.on("exit", () => end(options.ended))
        return worker
      }),
      (worker) => Effect.promise(() => worker.terminate())
    )

    const flush = (): void => {
      const requests = asked
      asked = []
      worker.postMessage(requests)
    }

    return (operation, args) =>
      Effect.callback<unknown, ThreadRefused>((resume) => {
        if (ended !== undefined) return resume(Effect.fail(new ThreadRefused({ code: 0, detail: ended })))
        const id = nextId++
        waiting.set(id, (reply) =>
          resume(
            reply.ok
              ? Effect.succeed(reply.value)
              : Effect.fail(new ThreadRefused({ code: reply.code, detail: reply.detail }))
          ))
        // Not a microtask: fibers that go on together go on in an immediate of their own each.
        if (asked.push({ id, operation, args }) === 1) setImmediate(flush)
        return Effect.sync(() => waiting.delete(id))
      })
  })

// These threads make little garbage and live for ever: a small nursery keeps them small.
const resourceLimits = { maxYoungGenerationSizeMb: 8 }
