/**
 * Whether a data folder and an inventory belong together. Both carry one id: an inventory that calls files verified
 * which another folder holds, or a disk that is not mounted, would otherwise look like a node that lost everything.
 */
import { Effect, Layer, Option, Schema } from "effect"
import { randomUUID } from "node:crypto"
import { Backend, BackendError } from "../ports/Backend.ts"
import { Inventory, type InventoryError } from "../ports/Inventory.ts"

/** The name under which the inventory keeps the id. */
const idNote = "id"

/**
 * The data folder and the inventory don't belong together. `FolderLost`: the inventory knows of files, and the folder
 * carries no id. `Different`: each carries another.
 */
export class IdentityError extends Schema.TaggedError<IdentityError>()("IdentityError", {
  reason: Schema.Literals(["FolderLost", "Different"]),
  dataFolder: Schema.String,
  inventory: Schema.String
}) {
  override get message(): string {
    const what = this.reason === "FolderLost"
      ? `the data folder ${this.dataFolder} is not the one that the inventory ${this.inventory} describes: it carries no `
        + "id, as if it were new"
      : `the data folder ${this.dataFolder} and the inventory ${this.inventory} belong to different nodes: their ids `
        + "differ"
    return `${what}. Mount or name the right folders (storage.local_path, storage.state_path) and start again; or, if `
      + "this folder is to be used from now on, move the inventory away: what lies in the folder is then hashed and "
      + "kept, and only what is missing is pulled"
  }
}

export interface IdentityOptions {
  /** For people, in the failure. */
  readonly dataFolder: string
  /** For people, in the failure. */
  readonly inventory: string
}

/** Fails unless the two belong together; what carries no id yet gets one. */
export const layer = (
  options: IdentityOptions
): Layer.Layer<never, IdentityError | InventoryError | BackendError, Backend | Inventory> =>
  Layer.effectDiscard(Effect.gen(function*() {
    const backend = yield* Backend
    const inventory = yield* Inventory
    const ours = yield* inventory.recall(idNote)
    const theirs = yield* backend.id
    if (Option.isSome(ours) && Option.isSome(theirs)) {
      if (ours.value !== theirs.value) return yield* new IdentityError({ ...options, reason: "Different" })
      return
    }
    if (Option.isSome(ours)) {
      const rows = yield* inventory.briefs(Option.none(), 1)
      if (rows.length > 0) return yield* new IdentityError({ ...options, reason: "FolderLost" })
    }
    const id = yield* backend.claim(Option.getOrElse(ours, () => randomUUID()))
    yield* inventory.remember(idNote, Option.some(id))
  }))

/**
 * Fails with `NotFound` when the folder carries the inventory's id no more. A disk that is not mounted any longer has
 * lost no file, and nothing must be owed because of it.
 */
export const sameFolder = Effect.fnUntraced(function*(backend: Backend["Service"], inventory: Inventory["Service"]) {
  const ours = yield* inventory.recall(idNote)
  if (Option.isNone(ours)) return
  const theirs = yield* backend.id
  if (Option.isSome(theirs) && theirs.value === ours.value) return
  return yield* new BackendError({
    operation: "check",
    path: "the data folder",
    reason: "NotFound",
    detail: "it does not carry this node's id any more; is its disk mounted?"
  })
})
