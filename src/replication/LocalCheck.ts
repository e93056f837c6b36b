/**
 * Whether what `Inventory` calls verified is on this disk as it was: at a start, before the node may say ready, and
 * again and again.
 *
 * Every verified file is compared with `stat` and nothing is opened. One that differs is hashed: with the right bytes
 * it stays verified, with others it is set aside and owed again, and so is one that is gone. The manifest is not asked.
 */
import { Context, Duration, Effect, Layer, Option, Queue, Semaphore, type Stream, SubscriptionRef } from "effect"
import { filesWere } from "../internal/files.ts"
import { Backend, type BackendError } from "../ports/Backend.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { Inventory, type InventoryError } from "../ports/Inventory.ts"
import { Background } from "./Background.ts"
import * as Examine from "./examine.ts"
import { sameFolder } from "./Identity.ts"
import type { PathLock } from "./PathLock.ts"
import { Puller } from "./Puller.ts"

export class LocalCheck extends Context.Service<LocalCheck, {
  /** Whether every verified file has been compared since this start, and the last comparison was not cut short. */
  readonly checked: Effect.Effect<boolean>
  /** The same, now and whenever it changes. */
  readonly changes: Stream.Stream<boolean>
  /** Compares now; behind one that runs already. Fails with `NotFound` when the folder is not this node's any more. */
  readonly check: Effect.Effect<void, InventoryError | BackendError>
  /** Hashes one verified file, because something speaks against it. With other bytes it is set aside and owed again. */
  readonly examine: (path: FilePath) => Effect.Effect<Examine.Finding, InventoryError | BackendError>
}>()("file-replication/LocalCheck") {}

export interface LocalCheckOptions {
  /** Between two checks, milliseconds; 0: only at the start. */
  readonly reconcileIntervalMillis: number
}

/** Rows that are compared together. */
const pageSize = 4000

/** How many differing files are hashed at once. */
const hashedAtOnce = 4

/** Before a check that failed is begun again. */
const pause = Duration.seconds(5)

export const layer = (
  options: LocalCheckOptions
): Layer.Layer<LocalCheck, never, Background | Backend | Inventory | PathLock | Puller> =>
  Layer.effect(
    LocalCheck,
    Effect.gen(function*() {
      const backend = yield* Backend
      const inventory = yield* Inventory
      const puller = yield* Puller
      const background = yield* Background
      const examine = yield* Examine.make
      const permit = yield* Semaphore.make(1)
      const checked = yield* SubscriptionRef.make(false)

      // What could not be looked at, or not be recorded, is looked at again soon; until then nothing is known of it.
      const again = yield* Queue.sliding<void>(1)
      const inDoubt = (error: InventoryError | BackendError) =>
        Effect.gen(function*() {
          yield* SubscriptionRef.set(checked, false)
          yield* Queue.offer(again, undefined)
          if (error._tag === "InventoryError") yield* puller.unwritable(error)
        })

      const look = Effect.fnUntraced(function*(path: FilePath) {
        yield* sameFolder(backend, inventory)
        const finding = yield* examine(path)
        if (finding._tag === "Lost") yield* puller.offer([{ file: finding.file }])
        return finding
      })

      const compare = Effect.gen(function*() {
        let lost = 0
        let page = yield* inventory.briefs(Option.none(), pageSize)
        for (let last = page.at(-1); last !== undefined; last = page.at(-1)) {
          // The next rows are read while these are compared; one page more is all that is ever held.
          const [differing, next] = yield* Effect.all([
            backend.differing(page.filter(({ state }) => state === "Verified")),
            inventory.briefs(Option.some(last.path), pageSize)
          ], { concurrency: 2 })
          if (differing.length > 0) {
            const found = yield* Effect.forEach(differing, look, { concurrency: hashedAtOnce })
            lost += found.filter(({ _tag }) => _tag === "Lost").length
          }
          page = next
        }
        if (lost > 0) {
          yield* Effect.logWarning(`${filesWere(lost)} missing or damaged on this disk, and owed again from now on`)
        }
        yield* SubscriptionRef.set(checked, true)
      }).pipe(Effect.tapError(inDoubt))
      const check = permit.withPermit(compare).pipe(Effect.withSpan("LocalCheck.check"))

      const rest = options.reconcileIntervalMillis === 0
        ? Effect.never
        : Effect.sleep(Duration.millis(options.reconcileIntervalMillis))

      yield* background.run(
        "the check of local files",
        check.pipe(
          Effect.matchEffect({
            onFailure: (error) =>
              Effect.andThen(
                Effect.logError(`the files here were not all checked: ${error.message}`),
                Effect.sleep(pause)
              ),
            onSuccess: () => Effect.raceFirst(rest, Effect.andThen(Queue.take(again), Effect.sleep(pause)))
          }),
          Effect.forever
        )
      )
      return {
        checked: SubscriptionRef.get(checked),
        changes: SubscriptionRef.changes(checked),
        check,
        examine: (path) => Effect.tapError(look(path), inDoubt)
      }
    })
  )
