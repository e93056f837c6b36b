/**
 * Files here that the manifest does not know and never deleted. They stay, and are counted.
 *
 * Those that an earlier history knew the inventory counts at any time. What lies in the folder and nobody knows, only a
 * comparison of the whole folder tells: its count is kept for the next start, and while it is not 0 it is taken again,
 * for somebody may be registering them.
 */
import { Duration, Effect, Option, type Scope } from "effect"
import type { BackendError } from "../ports/Backend.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { Inventory, type InventoryError } from "../ports/Inventory.ts"
import type { Unavailable } from "../ports/Manifest.ts"
import { Background } from "./Background.ts"
import type { Walk } from "./walk.ts"

/** The name under which the inventory keeps how many files nobody knew when the folder was last compared. */
const noteName = "strangers"

/** Between two comparisons of the folder while there are such files; and so many times as long as the last one took. */
const again = Duration.minutes(5)
const restTimes = 20

export interface Orphans {
  readonly count: Effect.Effect<number, InventoryError>
  /** Compares the folder. Gives one of the files that nobody knows. */
  readonly compare: Effect.Effect<Option.Option<FilePath>, BackendError | InventoryError | Unavailable>
}

export const make = Effect.fnUntraced(function*(strangers: Walk["strangers"]): Effect.fn.Return<
  Orphans,
  never,
  Background | Inventory | Scope.Scope
> {
  const inventory = yield* Inventory
  const background = yield* Background
  let counted: number | undefined
  let took = Duration.zero

  const strange = Effect.suspend(() =>
    counted !== undefined
      ? Effect.succeed(counted)
      : Effect.map(inventory.recall(noteName), (text) => (counted ??= Number(Option.getOrElse(text, () => "0"))))
  )

  const compare = Effect.gen(function*() {
    const [spent, { example, files }] = yield* Effect.timed(strangers)
    took = spent
    yield* inventory.remember(noteName, files === 0 ? Option.none() : Option.some(String(files)))
    counted = files
    return example
  })

  yield* background.run(
    "the count of files that nobody knows",
    Effect.suspend(() => Effect.sleep(Duration.max(again, Duration.times(took, restTimes)))).pipe(
      Effect.andThen(strange),
      Effect.andThen((files) => files === 0 ? Effect.void : Effect.asVoid(compare)),
      Effect.catchTag(["BackendError", "InventoryError", "Unavailable"], ({ message }) => Effect.logWarning(message)),
      Effect.forever
    )
  )

  return {
    count: Effect.gen(function*() {
      return (yield* strange) + (yield* inventory.orphans)
    }),
    compare
  }
})
