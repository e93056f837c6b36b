/** One durable commit for many callers, each with an answer of its own: what every engine does that has to wait for one. */
import { type Cause, Deferred, Duration, Effect, Fiber, Option, Queue, type Scope } from "effect"
import type { FileEntry, Registered } from "../ports/FileEntry.ts"
import { type Refusal, Unavailable } from "../ports/Manifest.ts"
import { formRefusal, keptForm } from "./form.ts"

export type Registration = Registered | Refusal

interface Pending {
  readonly entry: FileEntry
  readonly answer: Deferred.Deferred<Registration, Unavailable>
}

/** How long closing waits for an engine that may not answer. */
const farewell = Duration.seconds(5)

const closed = new Unavailable({ operation: "register", detail: "the manifest was closed" })

/**
 * One writer for all callers: what arrives while a commit is under way goes into the next one together. On close it
 * finishes what was asked before, as far as the engine lets it within a few seconds; the rest fails `Unavailable`.
 */
export const groupCommit = Effect.fnUntraced(function*(
  commit: (entries: ReadonlyArray<FileEntry>) => Effect.Effect<ReadonlyArray<Registration>, Unavailable>,
  limit: number
): Effect.fn.Return<
  (entry: FileEntry) => Effect.Effect<Registered, Refusal | Unavailable>,
  never,
  Scope.Scope
> {
  const queue = yield* Queue.bounded<Pending, Cause.Done>(4 * limit)
  // Those that were taken from the queue and are not answered yet.
  let underWay: ReadonlyArray<Pending> = []
  const writer = yield* Queue.takeBetween(queue, 1, limit).pipe(
    Effect.flatMap((pending) => {
      underWay = pending
      return commit(pending.map(({ entry }) => entry)).pipe(
        Effect.matchCauseEffect({
          onFailure: (cause) => Effect.forEach(pending, ({ answer }) => Deferred.failCause(answer, cause)),
          onSuccess: (answers) =>
            Effect.forEach(answers, (value, index) => {
              const waiting = pending[index]
              return waiting === undefined ? Effect.void : Deferred.succeed(waiting.answer, value)
            })
        })
      )
    }),
    Effect.forever,
    Effect.forkScoped
  )
  yield* Effect.addFinalizer(Effect.fnUntraced(function*() {
    yield* Queue.end(queue)
    const done = yield* Effect.timeoutOption(Fiber.await(writer), farewell)
    if (Option.isSome(done)) return
    // What the engine makes of the one under way nobody knows; asking again is safe.
    yield* Fiber.interrupt(writer)
    const give = (pending: ReadonlyArray<Pending>) =>
      Effect.forEach(pending, ({ answer }) => Deferred.fail(answer, closed), { discard: true })
    yield* give(underWay)
    // What has waited for room in the queue takes the place of what leaves it.
    for (let left = yield* Queue.clear(queue); left.length > 0; left = yield* Queue.clear(queue)) yield* give(left)
  }))

  return Effect.fn("Manifest.register")(function*(entry) {
    const refusal = formRefusal(entry)
    if (refusal !== undefined) return yield* refusal
    const answer = yield* Deferred.make<Registration, Unavailable>()
    const taken = yield* Queue.offer(queue, { entry: keptForm(entry), answer })
    if (!taken) return yield* closed
    const given = yield* Deferred.await(answer)
    return "revision" in given ? given : yield* given
  })
})
