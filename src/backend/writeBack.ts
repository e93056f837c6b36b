/**
 * Write-back that begins while more bytes of a file come. Else they would pile up in memory, and the sync at the end
 * would wait for all of them.
 */
import { Effect, Fiber, Scope } from "effect"
import { fdatasync, type Refused } from "./systemCalls.ts"

/** What the files of one backend share: a sync holds one of the few threads that all writes need. */
export interface Turn {
  taken: boolean
}

export interface WriteBack {
  /** So many bytes more were written. Begins to sync when they are many, and waits for nothing. */
  readonly wrote: (bytes: number) => Effect.Effect<void>
  /** Waits until no sync is under way. */
  readonly settled: Effect.Effect<void>
}

/** So many bytes are written before they are synced, or more while another file has its turn. */
export const every = 32 * 1024 * 1024

/**
 * The write-back of an open file. The scope waits for it when it closes. `failed` hears of each sync that failed: the
 * kernel says so only once, no later sync of the same descriptor would.
 */
export const make = Effect.fnUntraced(function*(
  turn: Turn,
  fd: number,
  failed: (cause: Refused) => void
): Effect.fn.Return<WriteBack, never, Scope.Scope> {
  const scope = yield* Scope.Scope
  let unsynced = 0
  let last: Fiber.Fiber<void> | undefined

  const sync = Effect.acquireUseRelease(
    Effect.sync(() => {
      unsynced = 0
      turn.taken = true
    }),
    () => fdatasync(fd).pipe(Effect.catch((cause) => Effect.sync(() => failed(cause)))),
    () => Effect.sync(() => void (turn.taken = false))
  )

  return {
    wrote: (bytes) =>
      Effect.suspend(() => {
        unsynced += bytes
        if (unsynced < every || turn.taken) return Effect.void
        return Effect.map(
          Effect.forkIn(sync, scope, { startImmediately: true, uninterruptible: true }),
          (fiber) => void (last = fiber)
        )
      }),
    settled: Effect.suspend(() => last === undefined ? Effect.void : Effect.asVoid(Fiber.await(last)))
  }
})
