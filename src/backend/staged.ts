/** Bytes on their way to a final name, on disk. */
import { Effect, type Scope } from "effect"
import { createHash, type Hash } from "node:crypto"
import { type BackendError, DigestMismatch, type Staged } from "../ports/Backend.ts"
import { Sha256 } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { place } from "./commit.ts"
import type { FileThreads } from "./fileThreads.ts"
import type { Roots } from "./places.ts"
import { type Buffers, feed } from "./readAhead.ts"
import { type Claim, isToken, randomSuffix, type StagedFile, type Staging } from "./staging.ts"
import {
  fsync,
  Refused,
  refused,
  rename,
  syncFolder,
  toBackendError,
  truncate,
  unlink,
  writeAll
} from "./systemCalls.ts"
import * as WriteBack from "./writeBack.ts"

export interface Local {
  readonly roots: Roots
  readonly staging: Staging
  readonly quarantine: string
  readonly fsync: boolean
  readonly buffers: Buffers
  readonly threads: FileThreads
  readonly turn: WriteBack.Turn
}

/** An earlier try is believed up to a multiple of this, bytes. Each file that was on its way loses the rest of one. */
const step = 16 * 1024

/**
 * ```
 * Writing ──seal──▶ Sealed ──▶ Ended        commit leads from Writing or Sealed to Ended, discard from everywhere;
 *    │  ▲                                   restart leads to Writing, but not from Sealed
 *    ▼  └─ restart ─ Broken
 * ```
 */
type State =
  | { readonly _tag: "Writing"; readonly hash: Hash; length: number }
  | { readonly _tag: "Sealed"; readonly sha256: Sha256; readonly length: number; readonly token: string }
  /** A write failed: the hash knows of bytes that the disk may not have. A sync failed: it may have none of them. */
  | { readonly _tag: "Broken"; readonly length: number; readonly cause: Refused }
  | { readonly _tag: "Ended"; readonly length: 0; readonly how: "committed" | "discarded" }

const digestOf = (hash: Hash): Sha256 => Sha256.make(hash.copy().digest("hex"))

const writing = (hash: Hash = createHash("sha256"), length = 0): State => ({ _tag: "Writing", hash, length })

/** Begins to stage, or goes on. `claim`: whoever calls has claimed the name already. */
export const stage = Effect.fnUntraced(function*(
  local: Local,
  path: FilePath,
  expected: Sha256 | undefined,
  claim?: Claim
) {
  const refine = Effect.mapError(toBackendError("stage", path))
  let state = writing()
  const keep = () => state._tag === "Sealed" || (expected !== undefined && state._tag !== "Ended" && state.length > 0)
  if (expected === undefined) {
    const file = yield* local.staging.open(path, `write.${randomSuffix()}`, "create", keep).pipe(refine)
    return yield* make(local, path, file, () => state, (next) => (state = next), `sealed.${file.name.slice(-32)}`)
  }
  let opened = false
  const file = yield* local.staging.open(path, `pull.${expected}`, "goOn", () => !opened || keep(), claim).pipe(refine)
  state = yield* goOn(local, file, expected).pipe(refine)
  opened = true
  return yield* make(local, path, file, () => state, (next) => (state = next), `pull.${expected}`)
})

/** Finds sealed bytes again. */
export const unseal = Effect.fnUntraced(function*(local: Local, path: FilePath, token: string) {
  if (!isToken(token)) return undefined
  const refine = Effect.mapError(toBackendError("unseal", path))
  let state: State | undefined
  const file = yield* local.staging.open(path, token, "find", () => state?._tag !== "Ended").pipe(
    Effect.catchIf((error) => error.code === "ENOENT", () => Effect.undefined),
    refine
  )
  if (file === undefined) return undefined
  const hash = createHash("sha256")
  yield* feed(local.buffers, file.fd, 0, file.size, hashing(hash)).pipe(refine)
  const sealed: State = { _tag: "Sealed", sha256: digestOf(hash), length: file.size, token }
  state = sealed
  return yield* make(local, path, file, () => state ?? sealed, (next) => (state = next), token)
})

export const hashing = (hash: Hash) => ({
  write: (chunk: Uint8Array) => Effect.sync(() => void hash.update(chunk))
})

/**
 * What an earlier try left is hashed, never believed: the whole of it when it is the whole file, else up to the last
 * whole step, because a crash may have left anything in the end.
 */
const goOn = Effect.fnUntraced(function*(local: Local, file: StagedFile, expected: Sha256) {
  const border = file.size - (file.size % step)
  const hash = createHash("sha256")
  yield* feed(local.buffers, file.fd, 0, border, hashing(hash))
  const atBorder = hash.copy()
  yield* feed(local.buffers, file.fd, border, file.size - border, hashing(hash))
  if (digestOf(hash) === expected) return writing(hash, file.size)
  if (file.size !== border) yield* truncate(file.fd, border)
  return writing(atBorder, border)
})

const make = Effect.fnUntraced(function*(
  local: Local,
  path: FilePath,
  file: StagedFile,
  get: () => State,
  set: (state: State) => void,
  token: string
): Effect.fn.Return<Staged, never, Scope.Scope> {
  const failure = (operation: string, cause: Refused): BackendError => toBackendError(operation, path)(cause)

  const unfit = (state: State): Refused => {
    switch (state._tag) {
      case "Broken":
        return new Refused({ code: state.cause.code, detail: `an earlier write failed: ${state.cause.detail}` })
      case "Ended":
        return refused(`the staged bytes were already ${state.how}`)
      case "Sealed":
        return refused("the staged bytes are sealed")
      case "Writing":
        return refused("the staged bytes are not sealed")
    }
  }

  const unsynced = (cause: Refused): void => {
    const { _tag } = get()
    if (_tag === "Writing" || _tag === "Broken") set({ _tag: "Broken", length: 0, cause })
  }
  const writeBack = yield* WriteBack.make(local.turn, file.fd, unsynced)

  /** Makes the bytes durable that were written. The kernel says only once that it lost some. */
  const sync = Effect.tapError(fsync(file.fd), (cause) => Effect.sync(() => unsynced(cause)))

  const write = (chunk: Uint8Array): Effect.Effect<void, BackendError> =>
    Effect.uninterruptible(Effect.suspend(() => {
      const state = get()
      if (state._tag !== "Writing") return Effect.fail(failure("write", unfit(state)))
      if (chunk.length === 0) return Effect.void
      return writeAll(file.fd, chunk, state.length, () => state.hash.update(chunk)).pipe(
        Effect.matchEffect({
          onSuccess: () => {
            state.length += chunk.length
            return local.fsync ? writeBack.wrote(chunk.length) : Effect.void
          },
          onFailure: (cause) => {
            const { length } = get()
            set({ _tag: "Broken", length, cause })
            return Effect.andThen(Effect.ignore(truncate(file.fd, length)), Effect.fail(failure("write", cause)))
          }
        })
      )
    }))

  const empty = writeBack.settled.pipe(
    Effect.andThen(truncate(file.fd, 0)),
    Effect.andThen(Effect.sync(() => set(writing())))
  )

  const restart = Effect.uninterruptible(Effect.suspend(() => {
    const state = get()
    return state._tag === "Writing" || state._tag === "Broken" ? empty : Effect.fail(unfit(state))
  })).pipe(Effect.mapError((cause) => failure("restart", cause)))

  const discard = Effect.uninterruptible(Effect.suspend(() => {
    if (get()._tag === "Ended") return Effect.void
    return unlink(file.name).pipe(
      Effect.catchIf((error) => error.code === "ENOENT", () => Effect.void),
      Effect.andThen(Effect.sync(() => set({ _tag: "Ended", length: 0, how: "discarded" })))
    )
  })).pipe(Effect.mapError((cause) => failure("discard", cause)))

  const seal = Effect.gen(function*() {
    yield* writeBack.settled
    const state = get()
    if (state._tag === "Sealed") return { sha256: state.sha256, size: state.length, token }
    if (state._tag !== "Writing") return yield* unfit(state)
    const sha256 = digestOf(state.hash)
    if (local.fsync) yield* sync
    if (isToken(token)) yield* file.rename(token, rename)
    if (local.fsync) yield* syncFolder(local.staging.folderOf(path))
    set({ _tag: "Sealed", sha256, length: state.length, token })
    return { sha256, size: state.length, token }
  }).pipe(Effect.uninterruptible, Effect.mapError((cause) => failure("seal", cause)))

  const commit = (expected: Sha256) =>
    Effect.gen(function*() {
      yield* writeBack.settled
      const state = get()
      if (state._tag !== "Writing" && state._tag !== "Sealed") return yield* unfit(state)
      const actual = state._tag === "Sealed" ? state.sha256 : digestOf(state.hash)
      if (actual !== expected) {
        yield* state._tag === "Sealed" ? discard : empty
        return yield* new DigestMismatch({ path, expected, actual })
      }
      if (local.fsync && state._tag === "Writing") yield* sync
      const held = yield* place(
        local.roots,
        path,
        { name: file.name, inode: file.inode, device: file.device, sha256: actual },
        local.fsync
      )
      set({ _tag: "Ended", length: 0, how: "committed" })
      return held
    }).pipe(
      Effect.uninterruptible,
      Effect.mapError((cause) => cause instanceof Refused ? failure("commit", cause) : cause)
    )

  return { write, length: Effect.sync(() => get().length), restart, seal, commit, discard }
})
