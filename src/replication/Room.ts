/**
 * Room on the disk, claimed before bytes come: what is free, without the reserve and without what others that are
 * under way still need. So a node never fills the disk of the machine it runs on, and never begins what can't end.
 */
import { Clock, Context, Deferred, Effect, Layer, type Scope } from "effect"
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

/** While so much is left behind a claim, bytes, one look at the disk serves many of them. */
const plenty = 256 * 1024 * 1024

/** For how long it does, milliseconds. What they claim meanwhile counts, what they free does not. */
const lookMillis = 250

/** Room that a stream claims before it is known how long it gets, bytes. */
const claimedAhead = 1024 * 1024

export const layer = (options: RoomOptions): Layer.Layer<Room, never, Backend> =>
  Layer.effect(
    Room,
    Effect.gen(function*() {
      const backend = yield* Backend
      const claims = new Set<Claim>()
      let refusedUntil = 0

      const onDisk = Effect.gen(function*() {
        return (yield* Clock.currentTimeMillis) < refusedUntil ? 0 : yield* backend.freeSpace
      })
      const unclaimed = (onDisk: number): number => {
        let bytes = onDisk - options.minFreeBytes
        for (const { left } of claims) bytes -= left
        return Math.max(0, bytes)
      }

      // Many claim at the same moment: one look is all of theirs.
      let looking: Deferred.Deferred<number, BackendError> | undefined
      const look = Effect.suspend(() => {
        if (looking !== undefined) return Deferred.await(looking)
        const found = Deferred.makeUnsafe<number, BackendError>()
        looking = found
        return onDisk.pipe(
          Effect.onExit((exit) => {
            looking = undefined
            return Deferred.done(found, exit)
          }),
          Effect.uninterruptible
        )
      })

      // What was left at the last look, without what was claimed since.
      let known = { left: 0, at: -Infinity }

      const extend = Effect.fnUntraced(function*(path: string, claim: Claim, bytes: number) {
        const now = yield* Clock.currentTimeMillis
        const fresh = now >= known.at && now < known.at + lookMillis && now >= refusedUntil
        const found = fresh && bytes + plenty <= known.left ? undefined : yield* look
        // Without a pause between the look and the claim: another fiber could look meanwhile.
        yield* Effect.suspend(() => {
          if (found !== undefined) known = { left: unclaimed(found), at: now }
          const { left } = known
          if (bytes <= left) {
            known.left -= bytes
            claim.left += bytes
            claims.add(claim)
            return Effect.void
          }
          const detail = `it needs ${bytes} bytes, and the disk has ${left} that are neither promised nor kept free `
            + "(storage.min_free_bytes)"
          return Effect.fail(new BackendError({ operation: "stage", path, reason: "NoSpace", detail }))
        })
      })

      const claim = Effect.fnUntraced(function*(path: string, bytes: number) {
        const claim: Claim = { left: 0 }
        yield* extend(path, claim, bytes)
        return claim
      })

      return {
        free: Effect.map(onDisk, unclaimed),
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
