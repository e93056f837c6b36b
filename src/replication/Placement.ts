/**
 * The one step at which a file becomes visible: under its path's lock and not interruptible, the bytes get their final
 * name and `Inventory` records them. A path that was deleted meanwhile loses its file again in the same step.
 */
import { Context, Effect, Layer, Option } from "effect"
import { agrees, Backend, BackendError, type DigestMismatch, type Held, type Staged } from "../ports/Backend.ts"
import { type Registered } from "../ports/FileEntry.ts"
import { Inventory, type InventoryError } from "../ports/Inventory.ts"
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
   * Takes a file that already lies under the path, when its bytes are the right ones; they are hashed to know. Others
   * are set aside. `none`: nothing right lies there. `Withdrawn`: it is no longer asked for; the file stays.
   */
  readonly adopt: (file: Registered) => Effect.Effect<Option.Option<Placed>, BackendError | InventoryError>
}>()("file-replication/Placement") {}

export const layer: Layer.Layer<Placement, never, Backend | Inventory | PathLock> = Layer.effect(
  Placement,
  Effect.gen(function*() {
    const backend = yield* Backend
    const inventory = yield* Inventory
    const { withLock } = yield* PathLock

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

    return {
      place: Effect.fn("Placement.place")(function*(file, staged) {
        return yield* Effect.gen(function*() {
          const { held, shown } = yield* commit(file, staged)
          if (yield* inventory.settle(file, held)) return "Placed"
          // Only what was shown just now goes again. What lay there before is not ours to drop: if it was deleted, that
          // is a debt of its own.
          if (shown) yield* backend.remove(file.entry.path)
          return "Withdrawn"
        }).pipe(Effect.uninterruptible, withLock(file.entry.path))
      }),
      adopt: Effect.fn("Placement.adopt")(function*(file) {
        const taken = Effect.gen(function*() {
          if (Option.isNone(yield* backend.stat(file.entry.path))) return Option.none()
          const standing = yield* takeStanding(file)
          if (Option.isNone(standing)) return Option.none()
          return Option.some<Placed>((yield* inventory.settle(file, standing.value)) ? "Placed" : "Withdrawn")
        })
        return yield* withLock(file.entry.path)(taken)
      })
    }
  })
)
