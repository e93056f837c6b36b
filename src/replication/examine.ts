/**
 * One verified file, hashed again because something speaks against it: another `stat`, other bytes, no bytes at all.
 *
 * It happens under the path's lock, so that nothing is moved away that was just replaced. What is wrong is set aside
 * first and owed afterwards: the other way round, whoever pulls it could meet the wrong file. A crash in between leaves
 * a verified file that is missing, and that the next look finds.
 *
 * The lock is this process's. Another one, the node beside `verify`, may heal the file while it is hashed here: so the
 * file is moved away only as long as it is the one that was hashed, and owed only as long as its row speaks of the file
 * that was read. What is left of that race is the moment between a look and the deed, and costs one pull that was not needed.
 */
import { Clock, Effect, Option } from "effect"
import { agrees, Backend, type BackendError, type Held } from "../ports/Backend.ts"
import type { Registered } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { Inventory, type Verified } from "../ports/Inventory.ts"
import * as Metrics from "../telemetry/Metrics.ts"
import { PathLock } from "./PathLock.ts"

/** `Lost` is owed again now. `Other`: the path was deleted, replaced or lost already; nothing was done. */
export type Finding =
  | { readonly _tag: "Sound" }
  | { readonly _tag: "Other" }
  | { readonly _tag: "Lost"; readonly why: "Missing" | "Damaged"; readonly file: Registered }

const other: Finding = { _tag: "Other" }

export const make = Effect.gen(function*() {
  const backend = yield* Backend
  const inventory = yield* Inventory
  const { withLock } = yield* PathLock

  const lost = Effect.fnUntraced(function*({ file, held }: Verified, why: "Missing" | "Damaged", reason: string) {
    const { path } = file.entry
    const due = yield* Clock.currentTimeMillis
    // What only an earlier history knew is asked for by nobody, and no peer could serve it: then it is let go at once.
    yield* inventory.apply([{ _tag: "Lost", path, held, reason, due }, { _tag: "Release", path }])
    // Events may have given the row another revision while the file was hashed; and it may have been healed.
    const row = yield* inventory.why(path)
    const owed = Option.match(row, {
      onNone: () => file,
      onSome: (row) => row._tag === "Owed" ? row.file : undefined
    })
    if (owed === undefined) return other
    yield* Effect.logWarning(`${path}: ${reason}; it is owed again`)
    yield* Metrics.localLost(why)
    return { _tag: "Lost", why, file: owed } satisfies Finding
  })

  // A disk that can't move it away either is no reason to go on calling it verified.
  const setAside = (path: FilePath) =>
    backend.quarantine(path).pipe(
      Effect.catchTag("BackendError", (error) => Effect.logError(`it could not be set aside: ${error.message}`))
    )

  const unreadable = Effect.fnUntraced(function*(row: Verified, error: BackendError) {
    // Only the disk's own word that the bytes are gone moves a file away; a lack of rights or descriptors passes.
    if (error.reason === "Unreadable") yield* setAside(row.file.entry.path)
    return yield* lost(row, "Damaged", error.message)
  })

  /** `undefined`: the file has become another one since it was hashed. */
  const compare = Effect.fnUntraced(function*(row: Verified, held: Option.Option<Held>) {
    const { file } = row
    const { path, sha256 } = file.entry
    if (Option.isNone(held)) return yield* lost(row, "Missing", "it is not on this disk any more")
    if (agrees(held.value, file.entry)) {
      yield* inventory.settle(file, held.value)
      return { _tag: "Sound" } satisfies Finding
    }
    const { inode, mtime, size } = held.value
    if ((yield* backend.differing([{ path, inode, mtime, size }])).length > 0) return undefined
    yield* setAside(path)
    const reason = `its bytes on this disk have sha256 ${held.value.sha256}, not ${sha256}; set aside in quarantine`
    return yield* lost(row, "Damaged", reason)
  })

  return (path: FilePath) =>
    Effect.gen(function*() {
      while (true) {
        const row = yield* inventory.verified(path)
        if (Option.isNone(row)) return other
        const finding = yield* backend.adopt(path).pipe(
          Effect.matchEffect({
            onFailure: (error) => unreadable(row.value, error),
            onSuccess: (held) => compare(row.value, held)
          })
        )
        if (finding !== undefined) return finding
      }
    }).pipe(withLock(path))
})
