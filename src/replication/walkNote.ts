/**
 * Where the first walk over the manifest began, kept in the inventory. Before its end there is no cursor, and this
 * position is all that tells of which history the revisions here are: what this one has no more was deleted, what another
 * one lacks was not.
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
