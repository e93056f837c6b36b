/**
 * Room on the disk, claimed before bytes come: what is free, without the reserve and without what others that are
 * under way still need. So a node never fills the disk of the machine it runs on, and never begins what can't end.
 */
import { Clock, Context, Effect, Layer, type Scope } from "effect"
import { Backend, BackendError } from "../ports/Backend.ts"
import type { ByteSink } from "../ports/ByteSink.ts"

/** Room that somebody has claimed. Whoever holds it counts `left` down as the bytes reach the disk. */
export interface Claim {
  left: number
}

export class Room extends Context.Service<Room, {
  /** Bytes that could be claimed now. */
  readonly free: Effect.Effect<number, BackendError>
  /** Claims room until the scope closes. Fails with `NoSpace` when there is not so much. */
  readonly claim: (path: string, bytes: number) => Effect.Effect<Claim, BackendError, Scope.Scope>
  /** Writes into a sink what may be longer than its claim, and claims more as it goes. */
  readonly counting: (path: string, claim: Claim, sink: ByteSink<BackendError>) => ByteSink<BackendError>
  /**
   * The disk has refused, whatever it says of itself: a quota, no more names. Nothing is claimed for a while then, so
   * that it is not asked over and over.
   */
  readonly refused: Effect.Effect<void>
}>()("file-replication/Room") {}

export interface RoomOptions {
  /** Bytes that are kept free. */
  readonly minFreeBytes: number
}

/** How long nothing is claimed behind a refusal of the disk, milliseconds. */
const refusedMillis = 30_000

/** Room that a stream claims before it is known how long it gets, bytes. */
const claimedAhead = 1024 * 1024

export const layer = (options: RoomOptions): Layer.Layer<Room, never, Backend> =>
  Layer.effect(
    Room,
    Effect.gen(function*() {
      const backend = yield* Backend
      const claims = new Set<Claim>()
      let refusedUntil = 0

      const free = Effect.gen(function*() {
        if ((yield* Clock.currentTimeMillis) < refusedUntil) return 0
        let bytes = (yield* backend.freeSpace) - options.minFreeBytes
        for (const { left } of claims) bytes -= left
        return Math.max(0, bytes)
      })

      const extend = Effect.fnUntraced(function*(path: string, claim: Claim, bytes: number) {
        const found = yield* free
        if (bytes > found) {
          const detail = `it needs ${bytes} bytes, and the disk has ${found} that are neither promised nor kept free `
            + "(storage.min_free_bytes)"
          return yield* new BackendError({ operation: "stage", path, reason: "NoSpace", detail })
        }
        claim.left += bytes
        claims.add(claim)
      })

      const claim = Effect.fnUntraced(function*(path: string, bytes: number) {
        const claim: Claim = { left: 0 }
        yield* extend(path, claim, bytes)
        return claim
      })

      return {
        free,
        counting: (path, claim, sink) => ({
          write: Effect.fnUntraced(function*(chunk) {
            const lacking = chunk.length - claim.left
            if (lacking > 0) yield* extend(path, claim, Math.max(lacking, claimedAhead))
            yield* sink.write(chunk)
            claim.left -= chunk.length
          })
        }),
        claim: (path, bytes) =>
          Effect.acquireRelease(claim(path, bytes), (claim) => Effect.sync(() => claims.delete(claim))),
        refused: Effect.map(Clock.currentTimeMillis, (now) => void (refusedUntil = now + refusedMillis))
      }
    })
  )
