/**
 * One at a time for each path: showing a file and recording it, against deleting it. Whoever holds a path's lock may
 * believe what `Inventory` and the disk say of it until it lets go.
 */
import { Context, Effect, Layer, Semaphore } from "effect"
import type { FilePath } from "../ports/FilePath.ts"

export class PathLock extends Context.Service<PathLock, {
  readonly withLock: (path: FilePath) => <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Takes the locks of many paths, but for those that somebody holds: nobody is waited for. */
  readonly withFree: <A, E, R>(
    paths: ReadonlyArray<FilePath>,
    use: (free: ReadonlySet<FilePath>) => Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E, R>
}>()("file-replication/PathLock") {}

interface Lock {
  readonly semaphore: Semaphore.Semaphore
  users: number
}

/** A set of locks of its own. */
export const make = Effect.sync((): PathLock["Service"] => {
  const locks = new Map<FilePath, Lock>()
  const enter = (path: FilePath): Lock => {
    const lock = locks.get(path) ?? { semaphore: Semaphore.makeUnsafe(1), users: 0 }
    lock.users++
    locks.set(path, lock)
    return lock
  }
  const leave = (path: FilePath, lock: Lock): void => {
    if (--lock.users === 0) locks.delete(path)
  }
  return {
    withLock: (path) => (effect) =>
      Effect.acquireUseRelease(
        Effect.sync(() => enter(path)),
        (lock) => lock.semaphore.withPermit(effect),
        (lock) => Effect.sync(() => leave(path, lock))
      ),
    withFree: (paths, use) =>
      Effect.acquireUseRelease(
        Effect.sync(() => {
          const held = new Map<FilePath, Lock>()
          for (const path of paths) {
            if (locks.has(path)) continue
            const lock: Lock = { semaphore: Semaphore.makeUnsafe(0), users: 1 }
            locks.set(path, lock)
            held.set(path, lock)
          }
          return held
        }),
        (held) => use(new Set(held.keys())),
        (held) =>
          Effect.suspend(() => {
            const awaited = [...held].filter(([, { users }]) => users > 1)
            for (const [path, lock] of held) leave(path, lock)
            return Effect.forEach(awaited, ([, { semaphore }]) => semaphore.release(1), { discard: true })
          })
      )
  }
})

export const layer: Layer.Layer<PathLock> = Layer.effect(PathLock, make)
