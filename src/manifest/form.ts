/** The form in which every engine keeps what it is given, and what has none. */
import { Effect } from "effect"
import { entryOffence, type FileEntry } from "../ports/FileEntry.ts"
import { EntryRefused, maxReplacement, type Replacement, TooLarge } from "../ports/Manifest.ts"

/**
 * The one form in which an entry is kept: integers as numbers where those are exact, text as it is after a way
 * through UTF-8. What was registered and what is read back are then equal on every engine.
 */
export const keptForm = (entry: FileEntry): FileEntry => ({
  path: entry.path,
  sha256: entry.sha256,
  size_bytes: entry.size_bytes,
  database: entry.database.toWellFormed(),
  measurement: entry.measurement.toWellFormed(),
  partition_time: entry.partition_time,
  origin_node_id: entry.origin_node_id,
  tier: entry.tier.toWellFormed(),
  created_at: entry.created_at,
  lsn: Number.isSafeInteger(Number(entry.lsn)) ? Number(entry.lsn) : entry.lsn
})

/** Of why a path was removed; a sentence for people, which must not be more than an engine takes. */
export const keptReason = (reason: string): string => reason.slice(0, 1000).toWellFormed()

/** An entry that breaks the rules would be kept, and could be read by nobody: the whole manifest would stand still. */
export const formRefusal = (entry: FileEntry): EntryRefused | undefined => {
  const detail = entryOffence(entry)
  return detail === undefined ? undefined : new EntryRefused({ path: entry.path, detail })
}

/** A replacement in the form in which it is kept; or why it has none. */
export const replacementInForm = Effect.fnUntraced(function*(
  { add, remove }: Replacement
): Effect.fn.Return<Replacement, EntryRefused | TooLarge> {
  const paths = add.length + remove.length
  if (paths > maxReplacement) return yield* new TooLarge({ paths, limit: maxReplacement })
  const refusal = add.map(formRefusal).find((refusal) => refusal !== undefined)
  if (refusal !== undefined) return yield* refusal
  return { add: add.map(keptForm), remove: remove.map(({ path, reason }) => ({ path, reason: keptReason(reason) })) }
})

/** Asks an engine for those entries that have a form, and answers for the others; in the order given. */
export const askInForm = <A, E, R>(
  entries: ReadonlyArray<FileEntry>,
  ask: (entries: ReadonlyArray<FileEntry>) => Effect.Effect<ReadonlyArray<A>, E, R>
): Effect.Effect<ReadonlyArray<A | EntryRefused>, E, R> =>
  Effect.suspend(() => {
    const refused = entries.map(formRefusal)
    return Effect.map(ask(entries.filter((_, index) => refused[index] === undefined).map(keptForm)), (answers) => {
      let next = 0
      return refused.flatMap((refusal): ReadonlyArray<A | EntryRefused> =>
        refusal === undefined ? answers.slice(next, ++next) : [refusal]
      )
    })
  })
