/**
 * Files in use. One that is deleted from the manifest leaves this disk only when its last lease has ended: whoever has
 * it open, or will open it by its name, finds it there. Leases live as long as the process; a start unlinks what they
 * held back.
 */
import { Context, Effect, Layer, Queue, type Scope } from "effect"
import type { FilePath } from "../ports/FilePath.ts"

export class Leases extends Context.Service<Leases, {
  /** Keeps files from being unlinked until the scope closes. It says nothing of whether they are there. */
  readonly hold: (paths: ReadonlyArray<FilePath>) => Effect.Effect<void, never, Scope.Scope>
  /** The same without a scope: each path must be given to `release` as often. */
  readonly take: (paths: Iterable<FilePath>) => Effect.Effect<void>
  readonly release: (paths: Iterable<FilePath>) => Effect.Effect<void>
  /** Whether anybody uses the file. */
  readonly isHeld: (path: FilePath) => Effect.Effect<boolean>
  /** Waits until a file's last lease has ended since the last call. For one caller: whoever unlinks. */
  readonly ended: Effect.Effect<void>
}>()("file-replication/Leases") {}

export const layer: Layer.Layer<Leases> = Layer.effect(
  Leases,
  Effect.gen(function*() {
    const counts = new Map<FilePath, number>()
    const ended = yield* Queue.sliding<void>(1)

    const take = (paths: Iterable<FilePath>) =>
      Effect.sync(() => {
        for (const path of paths) counts.set(path, (counts.get(path) ?? 0) + 1)
      })

    const release = (paths: Iterable<FilePath>) =>
      Effect.sync(() => {
        for (const path of paths) {
          const left = (counts.get(path) ?? 0) - 1
          if (left > 0) counts.set(path, left)
          else if (counts.delete(path)) Queue.offerUnsafe(ended, undefined)
        }
      })

    return {
      hold: (paths) => Effect.acquireRelease(take(paths), () => release(paths)),
      take,
      release,
      isHeld: (path) => Effect.sync(() => counts.has(path)),
      ended: Queue.take(ended)
    }
  })
)
