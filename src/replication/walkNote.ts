/**
 * Where the first walk over the manifest began, or what was published here without a node ended, kept in the inventory.
 * Where there is no cursor, or an earlier one, this position is all that tells of which history the revisions here are:
 * what this one has no more was deleted, what another one lacks was not.
 */
import { Effect, Option, Result, Schema } from "effect"
import type { Inventory } from "../ports/Inventory.ts"
import { Cursor } from "../ports/Manifest.ts"

const name = "walk"

const CursorText = Schema.fromJsonString(Cursor)

export const recall = (inventory: Inventory["Service"]) =>
  Effect.map(
    inventory.recall(name),
    Option.flatMap((text) => Result.getSuccess(Schema.decodeResult(CursorText)(text)))
  )

export const remember = (inventory: Inventory["Service"], at: Cursor) =>
  Effect.flatMap(
    Effect.orDie(Schema.encodeEffect(CursorText)(at)),
    (text) => inventory.remember(name, Option.some(text))
  )

/** The positions that tell of which history the revisions here are: the cursor, and what was kept where it is further. */
export const positions = Effect.fnUntraced(function*(inventory: Inventory["Service"], cursor: Option.Option<Cursor>) {
  const further = Option.filter(
    yield* recall(inventory),
    ({ epoch, revision }) => Option.isNone(cursor) || (epoch === cursor.value.epoch && revision > cursor.value.revision)
  )
  return [...Option.toArray(cursor), ...Option.toArray(further)]
})
