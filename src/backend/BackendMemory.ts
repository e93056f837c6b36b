/** A data folder in memory, for tests and for applications that need nothing to last. */
import { Clock, Effect, Layer, Option, Result, type Scope, Stream } from "effect"
import { createHash, randomBytes } from "node:crypto"
import {
  AlreadyExists,
  Backend,
  BackendError,
  type Cap,
  DigestMismatch,
  type Dropped,
  type FileStat,
  type Held,
  type Staged,
  type Whole
} from "../ports/Backend.ts"
import { Sha256 } from "../ports/FileEntry.ts"
import { FilePath, folders, offence } from "../ports/FilePath.ts"
import { beyond, type Leftover } from "./leftovers.ts"

const step = 16 * 1024
const chunkSize = 1024 * 1024

interface Stored {
  readonly bytes: Uint8Array
  readonly held: Held
}

/** What is staged under one token: for a path and a digest, or for one writer. */
interface Part {
  chunks: Array<Uint8Array>
  length: number
  sealed: boolean
  open: boolean
  /** When it was last written to, milliseconds since 1970. */
  at: number
}

/** A fresh, empty data folder with room for 4 GiB. */
export const layer: Layer.Layer<Backend> = Layer.effect(Backend, Effect.sync(() => make(4 * 1024 ** 3)))

/** The same with room for so many bytes, staged ones included; beyond it writes fail with `NoSpace`. */
export const layerWith = (options: { readonly capacity: number }): Layer.Layer<Backend> =>
  Layer.effect(Backend, Effect.sync(() => make(options.capacity)))

const sha256Of = (chunks: Iterable<Uint8Array>): Sha256 => {
  const hash = createHash("sha256")
  for (const chunk of chunks) hash.update(chunk)
  return Sha256.make(hash.digest("hex"))
}

const make = (capacity: number): Backend["Service"] => {
  const files = new Map<FilePath, Stored>()
  const parts = new Map<FilePath, Map<string, Part>>()
  const quarantined = new Set<Leftover<FilePath>>()
  // How many files lie below each folder.
  const below = new Map<string, number>()
  let inodes = 0n
  let free = capacity
  let id: string | undefined

  const failed = (operation: string, path: string, reason: BackendError["reason"], detail: string) =>
    new BackendError({ operation, path, reason, detail })

  const empty = (part: Part): void => {
    free += part.length
    part.chunks = []
    part.length = 0
  }

  const drop = (path: FilePath, token: string): void => {
    const mine = parts.get(path)
    const part = mine?.get(token)
    if (mine === undefined || part === undefined) return
    empty(part)
    mine.delete(token)
    if (mine.size === 0) parts.delete(path)
  }

  const statOf = (path: FilePath, { held }: Stored): FileStat => ({
    path,
    size: held.size,
    mtime: held.mtime,
    inode: held.inode
  })

  /** What keeps a file from being shown under a name. */
  const checkName = (operation: string, path: FilePath): Effect.Effect<void, BackendError> => {
    const unsafe = (detail: string) => Effect.fail(failed(operation, path, "Unsafe", detail))
    if ((below.get(path) ?? 0) > 0) return unsafe("something that is no file stands under this name")
    const above = folders(path).find((folder) => files.has(FilePath.make(folder)))
    return above === undefined ? Effect.void : unsafe(`${above} is a file, and the path needs a folder there`)
  }

  const put = (path: FilePath, stored: Stored): void => {
    files.set(path, stored)
    for (const folder of folders(path)) below.set(folder, (below.get(folder) ?? 0) + 1)
  }

  const take = (path: FilePath): Stored | undefined => {
    const stored = files.get(path)
    if (stored === undefined) return undefined
    files.delete(path)
    for (const folder of folders(path)) below.set(folder, (below.get(folder) ?? 0) - 1)
    return stored
  }

  const open = (operation: string, path: FilePath, token: string, keep: (part: Part) => boolean) =>
    Effect.acquireRelease(
      Effect.suspend(() => {
        const mine = parts.get(path) ?? new Map<string, Part>()
        const part = mine.get(token) ?? { chunks: [], length: 0, sealed: false, open: false, at: 0 }
        if (part.open) {
          return Effect.fail(failed(operation, path, "Io", "these very bytes are already being staged"))
        }
        part.open = true
        parts.set(path, mine.set(token, part))
        return Effect.succeed(part)
      }),
      (part) =>
        Effect.sync(() => {
          part.open = false
          if (!keep(part) && parts.get(path)?.get(token) === part) drop(path, token)
        })
    )

  const staged = (path: FilePath, token: string, part: Part): Staged => {
    let ended: "committed" | "discarded" | undefined
    const check = (operation: string, allowSealed: boolean) =>
      Effect.suspend(() =>
        ended !== undefined
          ? Effect.fail(failed(operation, path, "Io", `the staged bytes were already ${ended}`))
          : parts.get(path)?.get(token) !== part
          ? Effect.fail(failed(operation, path, "Io", "its staged bytes were removed"))
          : part.sealed && !allowSealed
          ? Effect.fail(failed(operation, path, "Io", "the staged bytes are sealed"))
          : Effect.void
      )
    const discard = Effect.sync(() => {
      if (parts.get(path)?.get(token) === part) drop(path, token)
      ended ??= "discarded"
    })
    return {
      write: Effect.fnUntraced(function*(chunk) {
        yield* check("write", false)
        if (chunk.length > free) return yield* failed("write", path, "NoSpace", "the memory set aside is full")
        free -= chunk.length
        part.at = yield* Clock.currentTimeMillis
        part.chunks.push(new Uint8Array(chunk))
        part.length += chunk.length
      }),
      length: Effect.sync(() => ended === undefined ? part.length : 0),
      restart: Effect.andThen(check("restart", false), Effect.sync(() => empty(part))),
      seal: Effect.andThen(
        check("seal", true),
        Effect.sync(() => {
          part.sealed = true
          return { sha256: sha256Of(part.chunks), size: part.length, token }
        })
      ),
      commit: Effect.fnUntraced(function*(expected) {
        yield* check("commit", true)
        const actual = sha256Of(part.chunks)
        if (actual !== expected) {
          if (part.sealed) yield* discard
          else empty(part)
          return yield* new DigestMismatch({ path, expected, actual })
        }
        if (files.has(path)) return yield* new AlreadyExists({ path })
        yield* checkName("commit", path)
        const mtime = yield* Clock.currentTimeNanos
        const bytes = Buffer.concat(part.chunks)
        const held: Held = { sha256: actual, size: bytes.length, mtime, inode: ++inodes }
        put(path, { bytes, held })
        drop(path, token)
        free -= bytes.length
        ended = "committed"
        return held
      }, Effect.uninterruptible),
      discard
    }
  }

  /** Some bytes of a file; they stay ours. */
  const bytesOf = (path: FilePath, offset: number, length: number): Result.Result<Uint8Array, BackendError> => {
    const file = files.get(path)
    if (file === undefined) return Result.fail(failed("read", path, "NotFound", "no such file"))
    const end = offset + length
    if (end <= file.bytes.length) return Result.succeed(file.bytes.subarray(offset, end))
    const detail = `it has ${file.bytes.length} bytes, and bytes ${offset} to ${end} were asked for`
    return Result.fail(failed("read", path, "Io", detail))
  }

  const stage = Effect.fnUntraced(function*(
    path: FilePath,
    expected?: Sha256
  ): Effect.fn.Return<Staged, BackendError, Scope.Scope> {
    const token = expected === undefined ? `sealed.${randomBytes(16).toString("hex")}` : `pull.${expected}`
    const part = yield* open(
      "stage",
      path,
      token,
      (part) => part.sealed || (expected !== undefined && part.length > 0)
    )
    part.sealed = false
    const border = part.length - (part.length % step)
    if (part.length !== border && sha256Of(part.chunks) !== expected) {
      const whole = Buffer.concat(part.chunks)
      part.chunks = [whole.subarray(0, border)]
      part.length = border
      free += whole.length - border
    }
    return staged(path, token, part)
  })

  const commitWhole = Effect.fnUntraced(function*({ bytes, path, sha256 }: Whole) {
    const to = yield* stage(path)
    yield* to.write(bytes)
    return yield* to.commit(sha256)
  }, Effect.scoped)

  return {
    stage,
    commitTogether: (whole) =>
      Effect.uninterruptible(Effect.forEach(whole, (each) => Effect.result(commitWhole(each)))),
    unseal: Effect.fnUntraced(function*(path, token) {
      const found = parts.get(path)?.get(token)
      if (found === undefined) return Option.none()
      const part = yield* open("unseal", path, token, () => true)
      part.sealed = true
      return Option.some(staged(path, token, part))
    }),
    read: Effect.fnUntraced(function*(path, offset, length, sink) {
      const bytes = yield* Effect.fromResult(bytesOf(path, offset, length))
      for (let at = 0; at < length; at += chunkSize) {
        // A copy: the chunk is the sink's, and it may write over it.
        yield* sink.write(new Uint8Array(bytes.subarray(at, at + chunkSize)))
      }
    }),
    readTogether: (asked) =>
      Effect.sync(() => {
        const read: Array<Uint8Array> = []
        const unread = new Map<number, BackendError>()
        for (const [n, { length, path }] of asked.entries()) {
          const bytes = bytesOf(path, 0, length)
          if (Result.isSuccess(bytes)) read.push(bytes.success)
          else unread.set(n, bytes.failure)
        }
        return { bytes: Buffer.concat(read), unread }
      }),
    dropSealed: (kept) =>
      Effect.sync(() => {
        const forgotten = Array.from(parts).flatMap(([path, mine]) =>
          Array.from(mine).filter(([token, part]) => part.sealed && !part.open && !kept.has(token))
            .map(([token]) => ({ path, token }))
        )
        for (const { path, token } of forgotten) drop(path, token)
        return forgotten.length
      }),
    trim: (caps) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        const drops = <Name>(found: ReadonlyArray<Leftover<Name>>, cap: Cap, drop: (name: Name) => void): Dropped => {
          const gone = beyond(found, cap, now)
          for (const { name } of gone) drop(name)
          return { files: gone.length, bytes: gone.reduce((sum, { size }) => sum + size, 0) }
        }
        const tries = Array.from(parts).flatMap(([path, mine]) =>
          Array.from(mine).filter(([, part]) => !part.sealed && !part.open)
            .map(([token, { at, length }]) => ({ name: { path, token }, size: length, at }))
        )
        const aside = Array.from(quarantined, (each) => ({ ...each, name: each }))
        return {
          partials: drops(tries, caps.partials, ({ path, token }) => drop(path, token)),
          quarantined: drops(aside, caps.quarantined, (each) => {
            quarantined.delete(each)
            free += each.size
          })
        }
      }),
    adopt: (path) => Effect.sync(() => Option.map(Option.fromUndefinedOr(files.get(path)), ({ held }) => held)),
    stat: (path) =>
      Effect.sync(() => Option.map(Option.fromUndefinedOr(files.get(path)), (stored) => statOf(path, stored))),
    list: (folder) => {
      const why = folder === "" ? undefined : offence(folder)
      if (why !== undefined) return Stream.fail(failed("list", folder, "Unsafe", `no folder of the data: ${why}`))
      return Stream.suspend(() =>
        Stream.fromIterable(
          Array.from(files).filter(([path]) => folder === "" || path.startsWith(`${folder}/`))
            .map(([path, stored]) => statOf(path, stored))
        )
      )
    },
    checkName: (path) => Effect.suspend(() => checkName("name", path)),
    remove: (path) =>
      Effect.sync(() => {
        for (const token of Array.from(parts.get(path)?.keys() ?? [])) drop(path, token)
        free += take(path)?.held.size ?? 0
      }),
    differing: (all) =>
      Effect.sync(() =>
        all.filter(({ inode, mtime, path, size }) => {
          const held = files.get(path)?.held
          return held === undefined || held.size !== size || held.mtime !== mtime || held.inode !== inode
        }).map(({ path }) => path)
      ),
    absent: (paths) => Effect.sync(() => paths.filter((path) => !files.has(path))),
    watch: Stream.concat(Stream.succeed(""), Stream.never),
    writing: () => Effect.succeed(new Map()),
    seesWriters: Effect.succeed(true),
    // Out of sight, and its memory stays taken, as a disk's would.
    quarantine: (path) =>
      Effect.map(Clock.currentTimeMillis, (at) => {
        const stored = take(path)
        if (stored !== undefined) quarantined.add({ name: path, size: stored.held.size, at })
      }),
    id: Effect.sync(() => Option.fromUndefinedOr(id)),
    claim: (wanted) => Effect.sync(() => (id ??= wanted)),
    freeSpace: Effect.sync(() => free)
  }
}
