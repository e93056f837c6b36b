/**
 * What a path is listed as, for whoever asks this node for it: what the manifest says, and while the manifest does not
 * answer what this node knows of a file that it has verified. So nodes go on giving each other what they owe when the
 * manifest is away. Whoever asks takes only the bytes of its own entry, whatever is sent.
 */
import { Clock, Effect, Option } from "effect"
import type { FileEntry } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { Inventory, knownHere } from "../ports/Inventory.ts"
import { getAll, Manifest, Unavailable } from "../ports/Manifest.ts"
import { Refused } from "./answers.ts"

/** The manifest may take so long before it counts as away. */
const patienceMillis = 1000

/** It is asked again when it was away for so long: not every request waits for it. */
const awayMillis = 2000

/** What paths are listed as, in their order; `none` of those that are not. Refuses with `raft` or `backend`. */
export type Listing = (
  paths: ReadonlyArray<FilePath>
) => Effect.Effect<ReadonlyArray<Option.Option<FileEntry>>, Refused>

export const make = Effect.gen(function*() {
  const manifest = yield* Manifest
  const inventory = yield* Inventory
  let awayUntil = -Infinity

  const isAway = new Unavailable({ operation: "get", detail: "it does not answer" })

  const ask = Effect.fnUntraced(function*(paths: ReadonlyArray<FilePath>) {
    if ((yield* Clock.currentTimeMillis) < awayUntil) return yield* isAway
    return yield* getAll(manifest, paths).pipe(
      Effect.timeoutOrElse({ duration: patienceMillis, orElse: () => Effect.fail(isAway) }),
      Effect.tapError(() => Effect.map(Clock.currentTimeMillis, (now) => void (awayUntil = now + awayMillis)))
    )
  })

  const byItself = Effect.fnUntraced(function*(path: FilePath, away: Unavailable) {
    const known = yield* knownHere(inventory, path).pipe(
      Effect.mapError(({ message }) => new Refused({ code: "backend", reason: message }))
    )
    if (Option.isNone(known)) return yield* new Refused({ code: "raft", reason: away.message })
    return Option.some(known.value.entry)
  })

  const listed: Listing = (paths) =>
    ask(paths).pipe(
      Effect.map((files) => files.map(Option.map(({ entry }) => entry))),
      Effect.catchTag("Unavailable", (away) => Effect.forEach(paths, (path) => byItself(path, away)))
    )
  return listed
})
