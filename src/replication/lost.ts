/**
 * A file that no node has any more: who may still have it, and how the debt for it ends.
 *
 * Forgetting deletes the path for the whole cluster and for good, so it looks for the file on every node that answers,
 * and leaves a record besides the manifest's tombstone.
 */
import { Clock, Effect, Option, Schema } from "effect"
import { open } from "node:fs/promises"
import { join } from "node:path"
import { Backend, type BackendError } from "../ports/Backend.ts"
import * as ExactJson from "../ports/ExactJson.ts"
import { FileEntry, type Registered, Revision } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { Inventory, type InventoryError } from "../ports/Inventory.ts"
import { Manifest } from "../ports/Manifest.ts"
import { Membership } from "../ports/Membership.ts"
import { askPeer, Sighting } from "./Copies.ts"

/** Nothing was changed, and why. */
export class NotForgotten extends Schema.TaggedError<NotForgotten>()("NotForgotten", {
  path: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.path} was not forgotten: ${this.detail}`
  }
}

/** What every node says of a file that may be lost. */
export const Search = Schema.Struct({
  entry: FileEntry,
  revision: Revision,
  /** This node first, then each other member. Whatever lies there under this name counts as `Held`. */
  sightings: Schema.Array(Sighting),
  /** Why it must not be forgotten as things stand; `null` when it may be. */
  objection: Schema.NullOr(Schema.String)
})
export interface Search extends Schema.Schema.Type<typeof Search> {}

/** A file that was forgotten. */
export const Forgotten = Schema.Struct({
  /** Of the tombstone. */
  revision: Revision,
  reason: Schema.String,
  /** The file on this node that has the record. */
  record: Schema.String
})
export interface Forgotten extends Schema.Schema.Type<typeof Forgotten> {}

/** This node: verified, on its way into the manifest, or just lying there. */
const askSelf = Effect.fnUntraced(function*(entry: FileEntry): Effect.fn.Return<
  Sighting,
  InventoryError | BackendError,
  Membership | Inventory | Backend
> {
  const { self } = yield* Membership
  const [local] = yield* (yield* Inventory).look([entry.path])
  const found = yield* (yield* Backend).stat(entry.path)
  const sighting = (kind: Sighting["kind"], detail: string): Sighting => ({ node: self.id, kind, detail })
  if (local?.row?._tag === "Verified") return sighting("Held", "has it verified, this node")
  if (local?.pending !== undefined) return sighting("Held", "has it sealed in staging, this node")
  if (Option.isSome(found)) return sighting("Held", "has a file under this name that is not verified, this node")
  return sighting("Absent", "does not have it, this node")
})

/** Pure: why a path must not be forgotten as things stand; `undefined` when it may be. */
export const objection = (sightings: ReadonlyArray<Sighting>): string | undefined => {
  const named = (kind: Sighting["kind"]) => sightings.filter((each) => each.kind === kind).map(({ node }) => node)
  const held = named("Held")
  if (held.length > 0) return `it is not lost: ${held.join(", ")} may still have it`
  const away = named("Away")
  if (away.length > 0) return `${away.join(", ")} can't be asked now and may still have it`
  const silent = named("Silent")
  if (silent.length > 0) return `${silent.join(", ")} did not answer and may still have it`
  return undefined
}

/** Asks every node for a file. */
export const search = Effect.fn("lost.search")(function*({ entry, revision }: Registered) {
  const { members, self } = yield* Membership
  const others = (yield* members).filter(({ id }) => id !== self.id)
  const peers = yield* Effect.forEach(others, (member) => askPeer(member, entry), { concurrency: 8 })
  const sightings = [yield* askSelf(entry), ...peers]
  return { entry, revision, sightings, objection: objection(sightings) ?? null } satisfies Search
})

/** Appends a line to the record, durably. */
const keepRecord = (file: string, line: Readonly<Record<string, unknown>>, path: FilePath) =>
  Effect.tryPromise({
    try: async () => {
      const handle = await open(file, "a", 0o600)
      try {
        await handle.appendFile(`${ExactJson.stringify(line)}\n`)
        await handle.sync()
      } finally {
        await handle.close()
      }
    },
    catch: (cause) =>
      new NotForgotten({ path, detail: `${file} can't be written: ${cause instanceof Error ? cause.message : cause}` })
  })

/** Deletes the path, whatever speaks against it, with a record in a node's own folder. */
export const forget = Effect.fn("lost.forget")(function*({ entry, objection, revision }: Search, stateFolder: string) {
  const { self } = yield* Membership
  const { path } = entry
  const now = new Date(yield* Clock.currentTimeMillis).toISOString()
  const although = objection === null ? "" : `, although ${objection}`
  const reason = `lost: forgotten by an operator on ${self.id} at ${now}${although}`
  const record = join(stateFolder, "forgotten.jsonl")
  // Before the delete: what was deleted must be on record even when this process dies right behind it.
  yield* keepRecord(record, { at: now, by: self.id, reason, revision, entry }, path)
  return { revision: yield* (yield* Manifest).remove(path, reason), reason, record } satisfies Forgotten
})
