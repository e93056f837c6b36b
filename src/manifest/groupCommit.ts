/** One durable commit for many callers, each with an answer of its own: what every engine does that has to wait for one. */
import { type Cause, Deferred, Effect, Fiber, Queue, type Scope } from "effect"
import type { FileEntry, Registered } from "../ports/FileEntry.ts"
import { type Conflict, type Gone, Unavailable } from "../ports/Manifest.ts"

export type Registration = Registered | Conflict | Gone

interface Pending {
  readonly entry: FileEntry
  readonly answer: Deferred.Deferred<Registration, Unavailable>
}

/**
 * One writer for all callers: what arrives while a commit is under way goes into the next one together. On close it
 * finishes what was asked before.
 */
export const groupCommit = Effect.fnUntraced(function*(
  commit: (entries: ReadonlyArray<FileEntry>) => Effect.Effect<ReadonlyArray<Registration>, Unavailable>,
  limit: number
): Effect.fn.Return<(entry: FileEntry) => Effect.Effect<Registration, Unavailable>, never, Scope.Scope> {
  const queue = yield* Queue.bounded<Pending, Cause.Done>(4 * limit)
  const writer = yield* Queue.takeBetween(queue, 1, limit).pipe(
    Effect.flatMap((pending) =>
      commit(pending.map(({ entry }) => entry)).pipe(
        Effect.matchCauseEffect({
          onFailure: (cause) => Effect.forEach(pending, ({ answer }) => Deferred.failCause(answer, cause)),
          onSuccess: (answers) =>
            Effect.forEach(answers, (value, index) => {
              const waiting = pending[index]
              return waiting === undefined ? Effect.void : Deferred.succeed(waiting.answer, value)
            })
        })
      )
    ),
    Effect.forever,
    Effect.forkScoped
  )
  yield* Effect.addFinalizer(() => Effect.andThen(Queue.end(queue), Fiber.await(writer)))

  return Effect.fn("Manifest.register")(function*(entry) {
    const answer = yield* Deferred.make<Registration, Unavailable>()
    const taken = yield* Queue.offer(queue, { entry, answer })
    if (!taken) return yield* new Unavailable({ operation: "register", detail: "the manifest was closed" })
    return yield* Deferred.await(answer)
  })
})
