/**
 * The one step at which a file becomes visible: under its path's lock and not interruptible, the bytes get their final
 * name and `Inventory` records them. A path that was deleted meanwhile loses its file again in the same step.
 */
import { Context, Effect, Layer, Option, Result } from "effect"
import { agrees, Backend, BackendError, type DigestMismatch, type Held, type Staged } from "../ports/Backend.ts"
import { type Registered } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { Inventory, type InventoryError } from "../ports/Inventory.ts"
import * as Traces from "../telemetry/Traces.ts"
import { PathLock } from "./PathLock.ts"

/** `Withdrawn`: deleted or replaced meanwhile, nothing is visible. */
export type Placed = "Placed" | "Withdrawn"

export class Placement extends Context.Service<Placement, {
  /** Shows staged bytes. With `DigestMismatch` nothing was shown and the bytes are dropped. */
  readonly place: (
    file: Registered,
    staged: Staged
  ) => Effect.Effect<Placed, DigestMismatch | BackendError | InventoryError>
  /**
   * Shows many small files at once. Gives what became of each, in their order: `Wrong` are bytes of another digest, and
   * nothing became of those that have to go the way of `place`, which tells why.
   */
  readonly placeTogether: (
    files: ReadonlyArray<{ readonly file: Registered; readonly bytes: Uint8Array }>
  ) => Effect.Effect<ReadonlyArray<Placed | "Wrong" | InventoryError | undefined>>
  /**
   * Takes a file that already lies under the path, when its bytes are the right ones; they are hashed to know, unless
   * the file is still as it was when it was hashed as `hashed`. Others are set aside. `none`: nothing right lies there.
   * `Withdrawn`: it is no longer asked for; the file stays.
   */
  readonly adopt: (
    file: Registered,
    hashed?: Held
  ) => Effect.Effect<Option.Option<Placed>, BackendError | InventoryError>
  /** Sets aside what lies under a path, if it is still as it was when it was hashed. */
  readonly setAside: (path: FilePath, hashed: Held) => Effect.Effect<void, BackendError>
}>()("file-replication/Placement") {}

export const layer: Layer.Layer<Placement, never, Backend | Inventory | PathLock> = Layer.effect(
  Placement,
  Effect.gen(function*() {
    const backend = yield* Backend
    const inventory = yield* Inventory
    const { withFree, withLock } = yield* PathLock

    // Under the path's lock.
    const takeStanding = Effect.fnUntraced(function*({ entry }: Registered): Effect.fn.Return<
      Option.Option<Held>,
      BackendError
    > {
      const standing = yield* backend.adopt(entry.path)
      if (Option.isNone(standing)) return Option.none()
      if (agrees(standing.value, entry)) return standing
      yield* Effect.logWarning(`${entry.path} holds other bytes than the manifest says; set aside in quarantine`)
      yield* backend.quarantine(entry.path)
      return Option.none()
    })

    const commit = (file: Registered, staged: Staged) =>
      staged.commit(file.entry.sha256).pipe(
        Effect.map((held) => ({ held, shown: true })),
        Effect.catchTag(
          "AlreadyExists",
          Effect.fnUntraced(function*() {
            const standing = yield* takeStanding(file)
            if (Option.isNone(standing)) return { held: yield* staged.commit(file.entry.sha256), shown: true }
            yield* staged.discard
            return { held: standing.value, shown: false }
          })
        ),
        // Whatever stood there was just set aside, and this process shows files only under the lock.
        Effect.catchTag("AlreadyExists", ({ path }) =>
          new BackendError({ operation: "commit", path, reason: "Io", detail: "another program writes to this name" }))
      )

    const isAsHashed = (path: FilePath, { inode, mtime, size }: Held) =>
      Effect.map(backend.differing([{ path, inode, mtime, size }]), (differing) => differing.length === 0)

    return {
      place: Effect.fnUntraced(function*(file, staged) {
        return yield* Effect.gen(function*() {
          const { held, shown } = yield* Effect.withSpan(commit(file, staged), "verify and commit", Traces.withoutStack)
          if (yield* inventory.settle(file, held)) return "Placed"
          // Only what was shown just now goes again. What lay there before is not ours to drop: if it was deleted, that
          // is a debt of its own.
          if (shown) yield* backend.remove(file.entry.path)
          return "Withdrawn"
        }).pipe(Effect.uninterruptible, withLock(file.entry.path))
      }),
      placeTogether: (files) =>
        withFree(
          files.map(({ file }) => file.entry.path),
          Effect.fnUntraced(function*(free) {
            const mine = files.filter(({ file }) => free.has(file.entry.path))
            const outcomes = yield* backend.commitTogether(
              mine.map(({ bytes, file: { entry: { path, sha256 } } }) => ({ path, sha256, bytes }))
            )
            const placed = new Map<FilePath, Placed | "Wrong" | InventoryError>()
            const shown = mine.flatMap(({ file }, n) => {
              const outcome = outcomes[n]
              if (outcome?._tag === "Success") return [{ file, held: outcome.success }]
              if (outcome?.failure._tag === "DigestMismatch") placed.set(file.entry.path, "Wrong")
              return []
            })
            const settled = yield* inventory.settleTogether(shown)
            for (const [n, { file: { entry: { path } } }] of shown.entries()) {
              const answer = settled[n]
              if (answer === undefined) continue
              placed.set(
                path,
                Result.isFailure(answer) ? answer.failure : answer.success ? "Placed" : "Withdrawn"
              )
              if (Result.isFailure(answer) || answer.success) continue
              // Where the path is still to be unlinked, that is tried again.
              yield* backend.remove(path).pipe(Effect.catch((error) => Effect.logError(error.message)))
            }
            return files.map(({ file }) => placed.get(file.entry.path))
          })
        ).pipe(Effect.uninterruptible),
      setAside: Effect.fnUntraced(function*(path, hashed) {
        const aside = Effect.gen(function*() {
          if (yield* isAsHashed(path, hashed)) yield* backend.quarantine(path)
        })
        return yield* withLock(path)(aside)
      }),
      adopt: Effect.fnUntraced(function*(file, hashed) {
        const taken = Effect.gen(function*() {
          const { path } = file.entry
          if (Option.isNone(yield* backend.stat(path))) return Option.none()
          const known = hashed !== undefined && agrees(hashed, file.entry) && (yield* isAsHashed(path, hashed))
          const standing = known ? Option.some(hashed) : yield* takeStanding(file)
          if (Option.isNone(standing)) return Option.none()
          return Option.some<Placed>((yield* inventory.settle(file, standing.value)) ? "Placed" : "Withdrawn")
        })
        return yield* withLock(file.entry.path)(taken)
      })
    }
  })
)
