/**
 * Registrations on their way into the manifest: through one bounded queue, many in one request, each with an answer of
 * its own. While the manifest does not answer they wait.
 */
import { type Cause, Deferred, Effect, Queue, type Scope, Stream } from "effect"
import type { FileEntry, Registered } from "../ports/FileEntry.ts"
import { Manifest, type Refusal, Unavailable } from "../ports/Manifest.ts"
import * as Metrics from "../telemetry/Metrics.ts"
import { Background } from "./Background.ts"
import { manifestAgain } from "./retry.ts"

/** The most registrations in one request. */
const batchSize = 500

interface Registration {
  readonly entry: FileEntry
  readonly answer: Deferred.Deferred<Registered, Refusal | Unavailable>
}

export interface Registrations {
  /** Waits for its turn and for the manifest. `Unavailable`: too many wait already, or the node stops. */
  readonly register: (entry: FileEntry) => Effect.Effect<Registered, Refusal | Unavailable>
  /** Takes no more; what waits is registered. */
  readonly end: Effect.Effect<void>
}

/** At most `queueSize` wait. */
export const make = Effect.fnUntraced(function*(
  queueSize: number
): Effect.fn.Return<Registrations, never, Background | Manifest | Scope.Scope> {
  const manifest = yield* Manifest
  const background = yield* Background
  const queue = yield* Queue.dropping<Registration, Cause.Done>(queueSize)

  const registerBatch = Effect.fnUntraced(function*(batch: ReadonlyArray<Registration>) {
    const answers = yield* manifest.registerAll(batch.map(({ entry }) => entry)).pipe(
      Effect.tapError((error) => Effect.logWarning(error.message)),
      Effect.retry(manifestAgain),
      Effect.result
    )
    yield* Effect.forEach(batch, ({ answer }, index) => {
      const given = answers._tag === "Success" ? answers.success[index] : answers.failure
      if (given === undefined) return Deferred.fail(answer, unavailable("the manifest gave no answer"))
      return "revision" in given ? Deferred.succeed(answer, given) : Deferred.fail(answer, given)
    }, { discard: true })
  })

  yield* background.run(
    "the queue of the registrar",
    Stream.fromEffectRepeat(Queue.takeBetween(queue, 1, batchSize)).pipe(
      Stream.runForEach(registerBatch),
      // Ended by whoever closes; until the scope closes this fiber has nothing more to do.
      Effect.andThen(Effect.never)
    )
  )

  return {
    register: (entry) =>
      Effect.suspend(() => {
        const answer = Deferred.makeUnsafe<Registered, Refusal | Unavailable>()
        if (Queue.offerUnsafe(queue, { entry, answer })) return Deferred.await(answer)
        return Effect.fail(
          unavailable(queue.state._tag === "Open" ? `${queueSize} registrations wait already` : "this node stops")
        )
      }).pipe(Metrics.registering),
    end: Effect.asVoid(Queue.end(queue))
  }
})

export const unavailable = (detail: string): Unavailable => new Unavailable({ operation: "register", detail })
