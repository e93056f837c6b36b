/**
 * The names under which bytes are staged.
 *
 * ```
 * staging/<digit>/<sha256 of the path>.pull.<sha256 of the file>   fetched from peers; an earlier try goes on
 *                                    .write.<random>              being written by this process
 *                                    .sealed.<random>             written, durable, waiting for its commit
 * ```
 *
 * The first digit of the path's digest spreads them over 16 folders, so that looking for what is staged for one path
 * means looking at few names. Whatever stands under such a name and is not a plain file of our own is dropped.
 */
import { Effect, type Scope } from "effect"
import { hash } from "node:crypto"
import { opendir } from "node:fs/promises"
import { join, sep } from "node:path"
import { makeRandomHex } from "../internal/randomHex.ts"
import type { Cap, Dropped } from "../ports/Backend.ts"
import { beyond, type Leftover, leftoverAt } from "./leftovers.ts"
import {
  close,
  fromUnknown,
  fstat,
  lstat,
  makeFolder,
  names,
  open,
  type Refused,
  refused,
  removeAll,
  unlink,
  unsafe
} from "./systemCalls.ts"

/** What follows the path's digest in a name. */
export type Suffix = `pull.${string}` | `write.${string}` | `sealed.${string}`

const tokens = /^(?:pull\.[0-9a-f]{64}|sealed\.[0-9a-f]{32})$/
export const isToken = (text: string): text is Suffix => tokens.test(text)

export const randomSuffix = makeRandomHex(16)

/** An open staging file; nobody else has it open. */
export interface StagedFile {
  readonly fd: number
  /** Its name now, absolute. */
  readonly name: string
  /** Length in bytes when it was opened. */
  readonly size: number
  /** What tells the file apart from any other, whatever its name. */
  readonly inode: bigint
  readonly device: bigint
  /** Gives the file another name of the same path. */
  readonly rename: (suffix: Suffix, move: (from: string, to: string) => Effect.Effect<void, Refused>) => Effect.Effect<
    void,
    Refused
  >
}

/** A name that nobody else stages under, until the scope closes that it was made in. */
export interface Claim {
  /** What was staged under it has been removed: whoever stages can no longer commit. */
  removed: boolean
}

export interface Staging {
  /** Claims a name. Fails when somebody stages under it. */
  readonly claim: (path: string, suffix: Suffix) => Effect.Effect<Claim, Refused, Scope.Scope>
  /** Whether an earlier try lies under a name. Not known to a guest, who finds out by opening it. */
  readonly mayHold: (path: string, suffix: Suffix) => boolean
  /** A name that nobody uses. */
  readonly freeName: (path: string) => string
  /**
   * Opens a staging file until the scope closes, then removes it unless `keep` says otherwise. `create`: it must be
   * new. `goOn`: it may be an earlier try. `find`: it must exist. Claims the name unless the caller has.
   */
  readonly open: (
    path: string,
    suffix: Suffix,
    mode: "create" | "goOn" | "find",
    keep: () => boolean,
    claim?: Claim
  ) => Effect.Effect<StagedFile, Refused, Scope.Scope>
  /** Removes everything that is staged for a path. Whoever has it open can no longer commit it. */
  readonly removeAll: (path: string) => Effect.Effect<void, Refused>
  /** Removes what is sealed under any other token than these. Gives how many there were. */
  readonly dropSealed: (kept: ReadonlySet<string>) => Effect.Effect<number, Refused>
  /** Removes tries to pull that nobody has open, beyond a cap. */
  readonly trim: (cap: Cap, now: number) => Effect.Effect<Dropped, Refused>
  /** The folder of a path's names. */
  readonly folderOf: (path: string) => string
}

/** Hex digits of a path's digest. */
const keyLength = 64

const keyOf = (path: string): string => hash("sha256", path)

/** A folder of our own: made when it is missing, refused when it is anything else. */
export const ownFolder = Effect.fnUntraced(function*(folder: string) {
  yield* makeFolder(folder).pipe(Effect.catchIf((error) => error.code === "EEXIST", () => Effect.void))
  const stat = yield* lstat(folder)
  if (!stat.isDirectory()) return yield* unsafe(`${folder} is no folder`)
  return stat
})

/** Opens the staging area; unless for a guest, removes what a process that died had not sealed. */
export const openStaging = Effect.fnUntraced(function*(root: string, guest: boolean) {
  yield* ownFolder(root)
  const digits = Array.from("0123456789abcdef", (digit) => join(root, digit))
  // Earlier tries. Another process beside a guest makes them too.
  const kept = new Set<string>()
  yield* Effect.forEach(
    digits,
    (folder) =>
      Effect.andThen(
        ownFolder(folder),
        guest ? Effect.void : Effect.map(sweep(folder), (names) => {
          for (const name of names) kept.add(name)
        })
      ),
    { concurrency: 8, discard: true }
  )
  const inUse = new Map<string, Claim>()
  const folderOfKey = (key: string) => root + sep + key.slice(0, 1)
  const folderOf = (path: string) => folderOfKey(keyOf(path))
  const nameOf = (path: string, suffix: Suffix) => {
    const key = keyOf(path)
    return folderOfKey(key) + sep + `${key}.${suffix}`
  }

  /** `release` gives the name that the claim has by then. */
  const claimName = (name: string, release = () => name): Effect.Effect<Claim, Refused, Scope.Scope> =>
    Effect.acquireRelease(
      Effect.suspend(() => {
        if (inUse.has(name)) return Effect.fail(refused("these very bytes are already being staged"))
        const claim: Claim = { removed: false }
        inUse.set(name, claim)
        return Effect.succeed(claim)
      }),
      () => Effect.sync(() => inUse.delete(release()))
    )

  const staging: Staging = {
    folderOf,
    claim: (path, suffix) => claimName(nameOf(path, suffix)),
    mayHold: (path, suffix) => guest || kept.has(nameOf(path, suffix)),
    freeName: (path) => nameOf(path, `write.${randomSuffix()}`),
    open: Effect.fnUntraced(function*(path, suffix, mode, keep, claim) {
      let name = nameOf(path, suffix)
      if (claim === undefined) yield* claimName(name, () => name)
      const { fd, stat } = yield* Effect.acquireRelease(
        openFile(name, mode),
        ({ fd }) => {
          const keeps = keep()
          if (keeps) kept.add(name)
          else kept.delete(name)
          // What can't be removed now is removed by the next start.
          return Effect.andThen(close(fd), keeps ? Effect.void : Effect.ignore(unlink(name)))
        }
      )
      return {
        fd,
        size: Number(stat.size),
        inode: stat.ino,
        device: stat.dev,
        get name() {
          return name
        },
        rename: (suffix, move) =>
          Effect.suspend(() => {
            const to = nameOf(path, suffix)
            return Effect.map(move(name, to), () => {
              const mine = inUse.get(name)
              inUse.delete(name)
              if (mine !== undefined) inUse.set(to, mine)
              name = to
            })
          })
      }
    }),
    dropSealed: Effect.fnUntraced(function*(kept) {
      let dropped = 0
      for (const folder of digits) {
        const forgotten = (yield* names(folder)).filter((name) => {
          const token = name.slice(keyLength + 1)
          return token.startsWith("sealed.") && !kept.has(token) && !inUse.has(join(folder, name))
        })
        yield* Effect.forEach(forgotten, (name) => removeAll(join(folder, name)), { discard: true })
        dropped += forgotten.length
      }
      return dropped
    }),
    trim: Effect.fnUntraced(function*(cap, now) {
      const found: Array<Leftover> = []
      for (const folder of digits) {
        for (const name of yield* names(folder)) {
          const file = join(folder, name)
          if (!name.slice(keyLength + 1).startsWith("pull.") || inUse.has(file)) continue
          found.push(...yield* leftoverAt(file, "written"))
        }
      }
      let files = 0
      let bytes = 0
      for (const { name, size } of beyond(found, cap, now)) {
        // Somebody may have gone on with it meanwhile.
        const dropped = yield* Effect.scoped(Effect.andThen(claimName(name), unlink(name))).pipe(
          Effect.as(true),
          Effect.catchIf(({ code }) => code === "REFUSED" || code === "ENOENT", () => Effect.succeed(false))
        )
        if (!dropped) continue
        kept.delete(name)
        files++
        bytes += size
      }
      return { files, bytes }
    }),
    removeAll: Effect.fnUntraced(function*(path) {
      const key = keyOf(path)
      const folder = folderOfKey(key)
      const begin = join(folder, `${key}.`)
      for (const [name, claim] of inUse) if (name.startsWith(begin)) claim.removed = true
      const mine = (yield* names(folder)).filter((name) => name.startsWith(`${key}.`))
      yield* Effect.forEach(mine, (name) => removeAll(join(folder, name)), { discard: true })
    })
  }
  return staging
})

const openFile = Effect.fnUntraced(function*(name: string, mode: "create" | "goOn" | "find") {
  if (mode === "create") return yield* statOf(yield* open(name, "create"))
  const found = yield* open(name, mode === "find" ? "write" : "writeOrCreate").pipe(
    Effect.flatMap(statOf),
    Effect.catchIf((error) => ["ELOOP", "EISDIR", "ENXIO"].includes(error.code), () => Effect.undefined)
  )
  // A second name means that a commit had placed these very bytes when the process died: writing here would write
  // there.
  if (found !== undefined && found.stat.isFile() && found.stat.nlink === 1n) return found
  if (found !== undefined) yield* close(found.fd)
  yield* removeAll(name)
  return yield* open(name, mode === "find" ? "write" : "create").pipe(Effect.flatMap(statOf))
})

const statOf = (fd: number) =>
  fstat(fd).pipe(
    Effect.map((stat) => ({ fd, stat })),
    Effect.onError(() => close(fd))
  )

/** Removes what nobody can go on from. Gives the names of what stays. */
const sweep = (folder: string): Effect.Effect<ReadonlyArray<string>, Refused> =>
  Effect.tryPromise({
    try: async () => {
      const dead: Array<string> = []
      for await (const { name } of await opendir(folder)) {
        if (/^[0-9a-f]{64}\./.test(name)) dead.push(name)
      }
      return dead
    },
    catch: fromUnknown
  }).pipe(
    Effect.flatMap(Effect.forEach((name) => {
      const file = join(folder, name)
      return Effect.flatMap(lstat(file), (stat) =>
        isToken(name.slice(keyLength + 1)) && stat.isFile() && stat.nlink === 1n
          ? Effect.succeed([file])
          : Effect.as(removeAll(file), []))
    })),
    Effect.map((stay) =>
      stay.flat()
    )
  )
