/**
 * Whether this node holds everything, computed from `Inventory` and never from counters.
 *
 * At its start a node asks the manifest for its newest position, the *barrier*. It is ready once it has taken every
 * event up to there and nothing has been owed for longer than is allowed.
 */
import { Clock, Context, Duration, Effect, Layer, Option, Schedule, Stream, SubscriptionRef } from "effect"
import { Inventory, type InventoryError, type Progress } from "../ports/Inventory.ts"
import { type Cursor, Manifest } from "../ports/Manifest.ts"
import { Background } from "./Background.ts"

export interface Status {
  readonly ready: boolean
  /** Why not, in a sentence; `""` when ready. */
  readonly reason: string
  /** The position that must be reached; `none` while the manifest has not told it. */
  readonly barrier: Option.Option<Cursor>
  readonly progress: Progress
}

export class Readiness extends Context.Service<Readiness, {
  readonly status: Effect.Effect<Status, InventoryError>
  readonly ready: Effect.Effect<boolean, InventoryError>
  /** The status now, then whenever it may have changed. */
  readonly changes: Stream.Stream<Status, InventoryError>
  /** Waits until everything up to a position is verified here. */
  readonly await: (at: Cursor) => Effect.Effect<void, InventoryError>
}>()("file-replication/Readiness") {}

export interface ReadinessOptions {
  /** How long something may be owed while the node stays ready, milliseconds; 0: nothing may be. */
  readonly readyMaxLagMillis: number
  /** How long the first answer of the manifest may take before a warning, milliseconds. */
  readonly barrierTimeoutMillis: number
}

/** Pure: why a node is not ready; `""` when it is. */
export const unreadyReason = (
  progress: Progress,
  barrier: Option.Option<Cursor>,
  now: number,
  readyMaxLagMillis: number
): string => {
  if (Option.isNone(barrier)) return "the manifest has not answered yet"
  if (Option.isNone(progress.cursor)) return "the manifest has not been walked yet"
  const { epoch, revision } = progress.cursor.value
  if (epoch !== barrier.value.epoch) return "the manifest has another history; it is being walked again"
  if (revision < barrier.value.revision) return `caught up to revision ${revision} of ${barrier.value.revision}`
  const owedFor = Option.match(progress.oldestOwed, { onNone: () => undefined, onSome: (since) => now - since })
  if (owedFor !== undefined && (readyMaxLagMillis === 0 || owedFor > readyMaxLagMillis)) {
    return `${progress.owed.files} files are owed, ${progress.owed.bytes} bytes`
  }
  return ""
}

export const layer = (
  options: ReadinessOptions
): Layer.Layer<Readiness, never, Background | Inventory | Manifest> =>
  Layer.effect(
    Readiness,
    Effect.gen(function*() {
      const inventory = yield* Inventory
      const manifest = yield* Manifest
      const background = yield* Background
      const barrier = yield* SubscriptionRef.make(Option.none<Cursor>())

      const evaluate = Effect.fnUntraced(function*(progress: Progress) {
        const now = yield* Clock.currentTimeMillis
        const at = yield* SubscriptionRef.get(barrier)
        const reason = unreadyReason(progress, at, now, options.readyMaxLagMillis)
        return { ready: reason === "", reason, barrier: at, progress } satisfies Status
      })

      const takeBarrier = manifest.head.pipe(
        Effect.tapError((error) => Effect.logDebug(error.message)),
        Effect.retry(Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("5 seconds")])),
        Effect.flatMap((head) => SubscriptionRef.set(barrier, Option.some(head))),
        Effect.ignore
      )
      const warn = Effect.sleep(Duration.millis(options.barrierTimeoutMillis)).pipe(
        Effect.andThen(
          Effect.logWarning("the manifest has not told its newest position yet; this node is not ready before it has")
        ),
        Effect.andThen(Effect.never)
      )

      // Another history makes the barrier worthless: a new one is taken as soon as this node follows it.
      yield* background.run(
        "the barrier",
        Effect.raceFirst(takeBarrier, warn).pipe(
          Effect.andThen(
            inventory.changes.pipe(
              Stream.filterEffect(({ cursor }) =>
                Effect.map(SubscriptionRef.get(barrier), (at) =>
                  Option.isSome(cursor) && Option.isSome(at) && cursor.value.epoch !== at.value.epoch)
              ),
              Stream.runForEach(() =>
                takeBarrier
              ),
              Effect.catchTag("InventoryError", (error) => Effect.logError(error.message)),
              Effect.andThen(Effect.sleep("5 seconds")),
              Effect.forever
            )
          )
        )
      )

      const status = Effect.flatMap(inventory.progress, evaluate)
      return {
        status,
        ready: Effect.map(status, ({ ready }) => ready),
        changes: Stream.merge(
          inventory.changes,
          Stream.mapEffect(SubscriptionRef.changes(barrier), () => inventory.progress)
        ).pipe(Stream.mapEffect(evaluate)),
        await: (at) =>
          inventory.changes.pipe(
            Stream.filter(({ cursor, verifiedThrough }) =>
              Option.isSome(cursor) && cursor.value.epoch === at.epoch && verifiedThrough >= at.revision
            ),
            Stream.take(1),
            Stream.runDrain
          )
      }
    })
  )
