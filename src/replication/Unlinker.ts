/**
 * Carries deletions out: what the manifest no longer has leaves this disk once its grace period is over and nobody uses
 * it any more. An unlink is a durable debt like any other, and waits for no pull.
 */
import { Clock, Context, Duration, Effect, Layer, Option, Queue } from "effect"
import { Backend } from "../ports/Backend.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { Inventory, type Unlinking } from "../ports/Inventory.ts"
import * as Metrics from "../telemetry/Metrics.ts"
import { Background } from "./Background.ts"
import { Leases } from "./Leases.ts"
import { PathLock } from "./PathLock.ts"

export class Unlinker extends Context.Service<Unlinker, {
  /** Says that something is to be unlinked that was not before. */
  readonly wake: Effect.Effect<void>
}>()("file-replication/Unlinker") {}

/** How many deletions are looked at together. */
const batch = 256

/** Before the disk or the inventory is asked again that has refused, and the longest without a look. */
const pauseMillis = 30_000

export const layer: Layer.Layer<Unlinker, never, Backend | Background | Inventory | Leases | PathLock> = Layer.effect(
  Unlinker,
  Effect.gen(function*() {
    const backend = yield* Backend
    const inventory = yield* Inventory
    const background = yield* Background
    const leases = yield* Leases
    const { withLock } = yield* PathLock
    const wake = yield* Queue.sliding<void>(1)
    // What the disk refused to let go, why, and when it is tried again: it must not hold up the others.
    const refused = new Map<FilePath, { readonly until: number; readonly why: string }>()
    // What was in use when it was last looked at; nor must that.
    const used = new Set<FilePath>()

    const unlink = ({ path, revision }: Unlinking) =>
      Effect.gen(function*() {
        const row = yield* inventory.why(path)
        if (Option.isNone(row) || row.value._tag !== "Unlinking" || row.value.revision !== revision) return
        if (yield* leases.isHeld(path)) return void used.add(path)
        yield* backend.remove(path)
        yield* inventory.unlinked(path, revision)
        yield* Metrics.unlinked
      }).pipe(withLock(path))

    /** Gives how long to rest, in milliseconds; 0 when there may be more to do at once. */
    const look = Effect.gen(function*() {
      const now = yield* Clock.currentTimeMillis
      const limit = batch + refused.size + used.size
      const due = yield* inventory.dueUnlinks(now, limit)
      const still = new Set(due.map(({ path }) => path))
      for (const path of refused.keys()) if (!still.has(path)) refused.delete(path)
      used.clear()
      yield* Effect.forEach(
        due.filter(({ path }) => (refused.get(path)?.until ?? 0) <= now),
        (each) =>
          unlink(each).pipe(
            Effect.andThen(Effect.sync(() => refused.delete(each.path))),
            Effect.catchTag("BackendError", ({ message: why }) => {
              const isTold = refused.get(each.path)?.why === why
              refused.set(each.path, { until: now + pauseMillis, why })
              if (isTold) return Effect.void
              return Effect.logError(`a deleted file could not be unlinked yet, and goes once that is mended: ${why}`)
            })
          ),
        { discard: true }
      )
      if (due.length === limit) return 0
      const next = yield* inventory.nextDue(now)
      return Option.match(next, { onNone: () => pauseMillis, onSome: (at) => Math.min(at - now, pauseMillis) })
    }).pipe(
      Effect.catchTag(
        "InventoryError",
        (error) => Effect.as(Effect.logError(`deletions pause: ${error.message}`), pauseMillis)
      )
    )

    yield* background.run(
      "the unlinker",
      look.pipe(
        Effect.flatMap((rest) =>
          Effect.raceFirst(Queue.take(wake), leases.ended).pipe(Effect.timeoutOption(Duration.millis(rest)))
        ),
        Effect.forever
      )
    )
    return { wake: Effect.asVoid(Queue.offer(wake, undefined)) }
  })
)
