/**
 * Comparing very many files with what was known of them, on a thread of its own.
 *
 * One synchronous `lstat` costs a few microseconds, an asynchronous one ten times that; a thread that does nothing
 * else gets through a hundred thousand files while the event loop goes on. It starts when it is first asked.
 */
import { Effect, Scope } from "effect"
import { Worker } from "node:worker_threads"
import type { FileStat } from "../ports/Backend.ts"
import type { FilePath } from "../ports/FilePath.ts"
import type { Roots } from "./places.ts"
import type { Reply, Request } from "./statWorker.ts"
import { Refused, refused } from "./systemCalls.ts"

const extension = import.meta.filename.endsWith(".ts") ? ".ts" : ".js"

type Ask = (files: string) => Effect.Effect<ReadonlyArray<string>, Refused>

/** Gives which of some files differ from what is said of them. The thread ends with the scope. */
export const makeStatThread = Effect.fnUntraced(function*(roots: Roots) {
  const scope = yield* Scope.Scope
  const started = yield* Effect.cached(Scope.provide(start(roots), scope))

  return (files: ReadonlyArray<FileStat>): Effect.Effect<ReadonlyArray<FilePath>, Refused> => {
    const packed: Array<string | number | bigint> = []
    for (const { inode, mtime, path, size } of files) packed.push(path, size, mtime, inode)
    return Effect.map(Effect.flatMap(started, (ask) => ask(packed.join("\0"))), (different) => {
      if (different.length === 0) return []
      const paths = new Set(different)
      return files.flatMap(({ path }) => paths.has(path) ? [path] : [])
    })
  }
})

const start = Effect.fnUntraced(function*(roots: Roots): Effect.fn.Return<Ask, never, Scope.Scope> {
  const waiting = new Map<number, (reply: Reply) => void>()
  let nextId = 0
  let ended: string | undefined

  const end = (why: string): void => {
    ended ??= why
    for (const [id, resume] of waiting) resume({ id, ok: false, code: "REFUSED", detail: ended })
    waiting.clear()
  }

  const worker = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const worker = new Worker(new URL(`./statWorker${extension}`, import.meta.url), {
        workerData: { data: roots.data },
        execArgv: []
      })
      worker.on("message", (reply: Reply) => {
        const resume = waiting.get(reply.id)
        waiting.delete(reply.id)
        resume?.(reply)
      })
      worker.on("error", (error) => end(error instanceof Error ? error.message : String(error)))
      worker.on("exit", () => end("the backend is closed"))
      return worker
    }),
    (worker) => Effect.promise(() => worker.terminate())
  )

  return (files) =>
    Effect.callback<ReadonlyArray<string>, Refused>((resume) => {
      if (ended !== undefined) return resume(Effect.fail(refused(ended)))
      const request: Request = { id: nextId++, files }
      waiting.set(request.id, (reply) =>
        resume(
          reply.ok
            ? Effect.succeed(reply.different)
            : Effect.fail(new Refused({ code: reply.code, detail: reply.detail }))
        ))
      worker.postMessage(request)
      return Effect.sync(() => waiting.delete(request.id))
    })
})
