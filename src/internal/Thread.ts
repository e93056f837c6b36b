/**
 * A worker thread that carries out named operations, one after another.
 *
 * A message from thread to thread costs far more than what most operations do. What is asked in one turn of the event
 * loop therefore goes in one message, and the answers come back together.
 */
import { Clock, Data, Effect, type Scope } from "effect"
import { Worker } from "node:worker_threads"
import * as Metrics from "../telemetry/Metrics.ts"
import { doubled } from "./rests.ts"

export interface Request {
  readonly id: number
  readonly operation: string
  readonly args: ReadonlyArray<unknown>
}

export type Reply =
  | { readonly id: number; readonly ok: true; readonly value: unknown }
  | { readonly id: number; readonly ok: false; readonly code: number | string; readonly detail: string }

/** An operation threw, or the thread died or was ended: then it is not known whether it was done. */
export class ThreadRefused extends Data.TaggedError("ThreadRefused")<{
  /** What the system or the database calls it; 0 when it has no name. */
  readonly code: number | string
  readonly detail: string
}> {}

/** Asks for an operation. Interrupting that does not undo it: the answer is then unknown. */
export type Ask = (operation: string, args: ReadonlyArray<unknown>) => Effect.Effect<unknown, ThreadRefused>

/** How long no thread is started behind one that died, milliseconds: at first, and at most, when they die again and again. */
const firstRest = 100
const longestRest = 5000
/** One that has lived so long begins anew with that, milliseconds. */
const steady = 60_000

/**
 * Starts a thread; closing the scope ends it, whatever it does. One that dies, by an error of its own, for want of
 * memory or however else, fails what it was asked, which may be done or not; it is logged and counted, and another
 * takes its place. What is asked before that one has started waits for it.
 */
export const start = (options: {
  /** A module that calls `serve` of `threadSide.ts`. */
  readonly module: URL
  readonly data: unknown
  readonly what: Metrics.ThreadKind
  /** What it is called in the log. */
  readonly name: string
  /** What is said to whoever asks after the end. */
  readonly ended: string
}): Effect.Effect<Ask, never, Scope.Scope> =>
  Effect.gen(function*() {
    const waiting = new Map<number, (reply: Reply) => void>()
    let worker: Worker | undefined
    let asked: Array<Request> = []
    let nextId = 0
    let closing = false
    let ended = false

    const flush = (): void => {
      if (worker === undefined || asked.length === 0) return
      const requests = asked
      asked = []
      worker.postMessage(requests)
    }

    const fail = (detail: string): void => {
      const failed = Array.from(waiting)
      asked = []
      waiting.clear()
      // Whoever hears of it may ask anew within this very call.
      for (const [id, resume] of failed) resume({ id, ok: false, code: 0, detail })
    }

    /** One thread's life; gives what it died of. */
    const life = Effect.callback<string>((resume) => {
      let why: string | undefined
      const died = (cause: string): void => {
        worker = undefined
        if (!closing) fail(`the thread died: ${cause}`)
        resume(Effect.succeed(cause))
      }
      try {
        worker = new Worker(options.module, { workerData: options.data, execArgv: [], resourceLimits })
      } catch (cause) {
        return died(messageOf(cause))
      }
      worker.on("message", (replies: ReadonlyArray<Reply>) => {
        for (const reply of replies) {
          const resume = waiting.get(reply.id)
          waiting.delete(reply.id)
          resume?.(reply)
        }
      })
      worker.on("error", (error) => void (why = messageOf(error)))
      // Not before: until then it may be at work.
      worker.on("exit", (code) => died(why ?? `it exited with code ${code}`))
      flush()
      const thread = worker
      return Effect.promise(() => {
        closing = true
        return thread.terminate()
      })
    })

    const lives = Effect.gen(function*() {
      let rest = 0
      while (true) {
        const began = yield* Clock.currentTimeMillis
        const why = yield* life
        if (closing) return
        rest = (yield* Clock.currentTimeMillis) - began < steady ? doubled(rest, firstRest, longestRest) : firstRest
        yield* Metrics.threadDied(options.what)
        yield* Effect.logError(`${options.name} died: ${why}; another one starts in ${rest} ms`)
        yield* Effect.sleep(rest)
      }
    })
    yield* Effect.forkScoped(
      Effect.ensuring(
        lives,
        Effect.sync(() => {
          ended = true
          fail(options.ended)
        })
      ),
      { startImmediately: true }
    )

    return (operation, args) =>
      Effect.callback<unknown, ThreadRefused>((resume) => {
        closing ||= operation === "close"
        // Nothing is open between two threads, so there is nothing to close.
        if (ended || (closing && worker === undefined)) {
          return resume(Effect.fail(new ThreadRefused({ code: 0, detail: options.ended })))
        }
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

const messageOf = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)

// These threads make little garbage and live for ever: a small nursery keeps them small.
const resourceLimits = { maxYoungGenerationSizeMb: 8 }
