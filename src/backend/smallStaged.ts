/**
 * Bytes of a pull that stay in memory as long as they are few; a crash or a broken connection loses them. A file that
 * ends before is written, synced and named by a thread in one go; one that goes on moves to a staging file of its own.
 *
 * ```
 * Memory ──too many, or seal──▶ Moved: a staging file has taken over
 *    └──commit, discard──▶ Ended
 * ```
 */
import { Effect, Result, Scope } from "effect"
import type { BackendError, Staged } from "../ports/Backend.ts"
import type { Sha256 } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { commitTogether } from "./commitTogether.ts"
import { type Local, stage } from "./staged.ts"
import { type Refused, refused, toBackendError } from "./systemCalls.ts"

/** From so many on they move, bytes. */
const tooMany = 256 * 1024

interface Memory {
  readonly _tag: "Memory"
  readonly chunks: Array<Uint8Array>
  length: number
}

type State =
  | Memory
  | { readonly _tag: "Moved"; readonly to: Staged }
  | { readonly _tag: "Ended"; readonly how: "committed" | "discarded" }

const nothing = (): Memory => ({ _tag: "Memory", chunks: [], length: 0 })

const wholeOf = ({ chunks }: Memory): Uint8Array => {
  const [only] = chunks
  return only !== undefined && chunks.length === 1 ? only : Buffer.concat(chunks)
}

/** Begins a pull of which nothing is staged yet. */
export const stageInMemory = Effect.fnUntraced(function*(local: Local, path: FilePath, expected: Sha256) {
  const scope = yield* Scope.Scope
  const claim = yield* local.staging.claim(path, `pull.${expected}`).pipe(
    Effect.mapError(toBackendError("stage", path))
  )
  let state: State = nothing()
  const failed = (operation: string, cause: Refused): BackendError => toBackendError(operation, path)(cause)

  const move = Effect.fnUntraced(function*(from: Memory) {
    if (claim.removed) return yield* failed("write", refused("its staged bytes were removed"))
    const to = yield* stage(local, path, expected, claim).pipe(Scope.provide(scope))
    for (const chunk of from.chunks) yield* to.write(chunk)
    state = { _tag: "Moved", to }
    return to
  }, Effect.uninterruptible)

  const ended = (how: string) => refused(`the staged bytes were already ${how}`)

  /** What to do with bytes in memory, and with a staging file. */
  const either = <A, E>(
    operation: string,
    inMemory: (memory: Memory) => Effect.Effect<A, E>,
    moved: (to: Staged) => Effect.Effect<A, E>
  ): Effect.Effect<A, E | BackendError> =>
    Effect.suspend((): Effect.Effect<A, E | BackendError> => {
      switch (state._tag) {
        case "Memory":
          return inMemory(state)
        case "Moved":
          return moved(state.to)
        case "Ended":
          return Effect.fail(failed(operation, ended(state.how)))
      }
    })

  const staged: Staged = {
    length: Effect.suspend(() => {
      if (state._tag === "Moved") return state.to.length
      return Effect.succeed(state._tag === "Memory" ? state.length : 0)
    }),
    write: (chunk) =>
      either("write", (memory) => {
        if (memory.length + chunk.length >= tooMany) return Effect.flatMap(move(memory), (to) => to.write(chunk))
        // The chunk's memory is somebody else's.
        memory.chunks.push(new Uint8Array(chunk))
        memory.length += chunk.length
        return Effect.void
      }, (to) => to.write(chunk)),
    restart: either("restart", () => Effect.sync(() => void (state = nothing())), (to) => to.restart),
    seal: either("seal", (memory) => Effect.flatMap(move(memory), (to) => to.seal), (to) => to.seal),
    discard: Effect.suspend(() => {
      if (state._tag === "Moved") return state.to.discard
      if (state._tag === "Memory") state = { _tag: "Ended", how: "discarded" }
      return Effect.void
    }),
    commit: (expected) =>
      either(
        "commit",
        Effect.fnUntraced(function*(memory) {
          if (claim.removed) return yield* failed("commit", refused("its staged bytes were removed"))
          const [outcome] = yield* commitTogether(local, [{ path, sha256: expected, bytes: wholeOf(memory) }])
          if (outcome === undefined) return yield* failed("commit", refused("nothing became of it"))
          if (Result.isSuccess(outcome)) state = { _tag: "Ended", how: "committed" }
          else if (outcome.failure._tag === "DigestMismatch") state = nothing()
          return yield* Effect.fromResult(outcome)
        }),
        (to) => to.commit(expected)
      ).pipe(Effect.uninterruptible)
  }
  return staged
})
