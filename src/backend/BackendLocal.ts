/**
 * The data folder on this machine's disk.
 *
 * Bytes are staged in the state folder, on the same filesystem, and shown under their final name only whole: by a
 * link that never replaces anything. `fsync: false` leaves out every wait for the disk; a power failure may then take
 * files that were already committed.
 *
 * Both folders belong to one process at a time. Sparing a folder two writers is not this module's.
 */
import { Clock, Effect, Layer, Option, Result, type Scope, Stream } from "effect"
import { createHash } from "node:crypto"
import { basename, join } from "node:path"
import { Backend, BackendError, type FileStat, type Held } from "../ports/Backend.ts"
import type { ByteSink } from "../ports/ByteSink.ts"
import { Sha256 } from "../ports/FileEntry.ts"
import { type FilePath, offence } from "../ports/FilePath.ts"
import { giveName } from "./commit.ts"
import { commitTogether } from "./commitTogether.ts"
import { make as makeFileThreads } from "./fileThreads.ts"
import * as FolderId from "./FolderId.ts"
import { trimFolder } from "./leftovers.ts"
import { walk } from "./listing.ts"
import { checkName, find, isInside, isMissing, type Place, placeIn, placeOf, prune, type Roots } from "./places.ts"
import { feed, makeBuffers } from "./readAhead.ts"
import { stageInMemory } from "./smallStaged.ts"
import { hashing, type Local, stage, unseal } from "./staged.ts"
import { openStaging, ownFolder } from "./staging.ts"
import {
  freeBytes,
  fstat,
  fsync,
  lstat,
  makeFolders,
  openToRead,
  realPath,
  Refused,
  refused,
  refusedBy,
  stat,
  syncFolder,
  toBackendError,
  unlinkIn,
  unsafe
} from "./systemCalls.ts"
import { watch } from "./watch.ts"
import { seesWriters, writing } from "./writers.ts"

export interface Options {
  /** The files, under their final names. Made when it is missing. */
  readonly dataFolder: string
  /** Everything else of this node, on the same filesystem; it may lie in the data folder. Made when it is missing. */
  readonly stateFolder: string
  /** Whether to wait for the disk before bytes and names count as there. */
  readonly fsync: boolean
  /** Another process, a running node, may have files in staging too: they are left alone. */
  readonly guest?: boolean
}

/** Fails when a folder is none, or when the two are the same or on different filesystems. */
export const layer = (options: Options): Layer.Layer<Backend, BackendError> => Layer.effect(Backend, make(options))

/** How often a file that changes while it is hashed is hashed again. */
const adoptTries = 3

/** So many bytes are read in one go, bytes. */
const smallRead = 256 * 1024

const make = Effect.fnUntraced(function*(
  options: Options
): Effect.fn.Return<Backend["Service"], BackendError, Scope.Scope> {
  const local = yield* open(options)
  const { buffers, roots, staging, threads } = local

  const read = <E>(path: FilePath, offset: number, length: number, sink: ByteSink<E>) =>
    Effect.gen(function*() {
      if (length > 0 && length <= smallRead) {
        const { file } = yield* placeOf(roots, path)
        return yield* sink.write(yield* threads.read(file, offset, length))
      }
      const at = yield* find(roots, path)
      const { fd, stat } = yield* openToRead(at.file)
      if (stat.size < offset + length) {
        return yield* refused(`it has ${stat.size} bytes, and bytes ${offset} to ${offset + length} were asked for`)
      }
      yield* feed(buffers, fd, offset, length, sink)
    }).pipe(
      Effect.scoped,
      Effect.mapError((error) => error instanceof Refused ? toBackendError("read", path)(error) : error)
    )

  const readTogether: Backend["Service"]["readTogether"] = Effect.fnUntraced(
    function*(files) {
      const unread = new Map<number, BackendError>()
      const places: Array<
        { readonly n: number; readonly path: FilePath; readonly file: string; readonly length: number }
      > = []
      for (const [n, { length, path }] of files.entries()) {
        const place = placeIn(roots, path)
        if (Result.isSuccess(place)) places.push({ n, path, file: place.success.file, length })
        else unread.set(n, toBackendError("read", path)(place.failure))
      }
      const read = yield* threads.readTogether(places)
      for (const { code, detail, n } of read.unread) {
        const place = places[n]
        if (place !== undefined) unread.set(place.n, toBackendError("read", place.path)(refusedBy(code, detail)))
      }
      return { bytes: read.bytes, unread }
    },
    Effect.mapError(toBackendError("read", roots.data))
  )

  const adoptOnce = Effect.fnUntraced(function*(path: FilePath) {
    const at = yield* find(roots, path)
    const { fd, stat: before } = yield* openToRead(at.file)
    const hash = createHash("sha256")
    const read = yield* Effect.exit(feed(buffers, fd, 0, Number(before.size), hashing(hash)))
    const after = yield* fstat(fd)
    const named = yield* lstat(at.file)
    const changed = after.size !== before.size || after.mtimeNs !== before.mtimeNs || named.ino !== before.ino
    if (changed) return undefined
    yield* read
    // What counts as held must survive a power failure, even when the process that placed it died before its own sync.
    if (local.fsync) yield* Effect.andThen(fsync(fd), syncFolder(at.folder))
    return {
      sha256: Sha256.make(hash.digest("hex")),
      size: Number(before.size),
      mtime: before.mtimeNs,
      inode: before.ino
    }
  }, Effect.scoped)

  const adopt = Effect.fnUntraced(function*(path: FilePath): Effect.fn.Return<Held, Refused> {
    for (let left = adoptTries; left > 0; left--) {
      const held = yield* adoptOnce(path)
      if (held !== undefined) return held
    }
    return yield* refused("it keeps changing while it is read")
  })

  const look = Effect.fnUntraced(function*(path: FilePath) {
    const at = yield* find(roots, path)
    const found = yield* lstat(at.file)
    if (!found.isFile()) return yield* unsafe("something that is no file stands under this name")
    const stat: FileStat = { path, size: Number(found.size), mtime: found.mtimeNs, inode: found.ino }
    return { at, stat }
  })

  const unname = Effect.fnUntraced(function*({ file, folder }: Place) {
    yield* unlinkIn(folder, basename(file)).pipe(Effect.catchIf((error) => error.code === "ENOENT", () => Effect.void))
    if (local.fsync) yield* syncFolder(folder)
    yield* prune(roots, folder)
  })

  const remove = Effect.fnUntraced(
    function*(path: FilePath) {
      yield* staging.removeAll(path)
      const at = yield* find(roots, path)
      if ((yield* lstat(at.file)).isFile()) yield* unname(at)
    },
    Effect.catchIf(({ code }) => code === "ENAMETOOLONG", () => Effect.void),
    Effect.uninterruptible
  )

  const quarantine = Effect.fnUntraced(function*(path: FilePath) {
    const { at } = yield* look(path)
    const name = join(local.quarantine, quarantineName(path))
    for (let n = 1; (yield* giveName(at.file, `${name}-${n}`)) === "Taken"; n++);
    if (local.fsync) yield* syncFolder(local.quarantine)
    yield* unname(at)
  }, Effect.uninterruptible)

  const orNone = <A, E>(operation: string, path: FilePath, effect: Effect.Effect<A, Refused, E>) =>
    effect.pipe(
      Effect.asSome,
      Effect.catchIf(isMissing, () => Effect.succeed(Option.none<A>())),
      Effect.mapError(toBackendError(operation, path))
    )

  return {
    stage: (path, expected) =>
      expected === undefined || staging.mayHold(path, `pull.${expected}`)
        ? stage(local, path, expected)
        : stageInMemory(local, path, expected),
    commitTogether: (files) => commitTogether(local, files),
    unseal: (path, token) => Effect.map(unseal(local, path, token), Option.fromUndefinedOr),
    read,
    readTogether,
    adopt: (path) => orNone("adopt", path, adopt(path)),
    stat: (path) => orNone("stat", path, Effect.map(look(path), ({ stat }) => stat)),
    differing: (files) => threads.differing(files).pipe(Effect.mapError(toBackendError("differing", roots.data))),
    absent: (paths) => threads.absent(paths).pipe(Effect.mapError(toBackendError("absent", roots.data))),
    list: (folder) => list(local, folder),
    watch: Stream.mapError(watch(roots), toBackendError("watch", roots.data)),
    writing: (paths) =>
      Effect.map(
        writing(new Set(paths.map((path) => join(roots.data, path)))),
        (found) =>
          new Map(paths.flatMap((path) => {
            const said = found.get(join(roots.data, path))
            return said === undefined ? [] : [[path, said]]
          }))
      ),
    seesWriters,
    trim: ({ partials, quarantined }) =>
      Effect.gen(function*() {
        const now = yield* Clock.currentTimeMillis
        return {
          partials: yield* staging.trim(partials, now),
          quarantined: yield* trimFolder(local.quarantine, quarantined, now)
        }
      }).pipe(Effect.mapError(toBackendError("trim", options.stateFolder))),
    dropSealed: (kept) => Effect.mapError(staging.dropSealed(kept), toBackendError("dropSealed", "staging")),
    checkName: (path) => Effect.mapError(checkName(roots, path), toBackendError("name", path)),
    remove: (path) => Effect.asVoid(orNone("remove", path, remove(path))),
    quarantine: (path) => Effect.asVoid(orNone("quarantine", path, quarantine(path))),
    id: FolderId.read(roots.data),
    claim: (id) => FolderId.claim(roots.data, id),
    freeSpace: freeBytes(roots.data).pipe(Effect.mapError(toBackendError("freeSpace", roots.data)))
  }
})

const open = Effect.fnUntraced(function*(options: Options) {
  const data = yield* root(options.dataFolder)
  const state = yield* root(options.stateFolder)
  const roots: Roots = { data: data.real, state: state.real }
  const stagingFolder = join(roots.state, "staging")
  const quarantineFolder = join(roots.state, "quarantine")
  const refine = Effect.mapError(toBackendError("open", options.stateFolder))
  if (roots.data === roots.state || isInside(roots.data, stagingFolder) || isInside(roots.data, quarantineFolder)) {
    return yield* refine(Effect.fail(unsafe("the state folder must be another than the data folder")))
  }
  for (const { dev } of [state, yield* refine(ownFolder(stagingFolder)), yield* refine(ownFolder(quarantineFolder))]) {
    if (dev !== data.dev) {
      return yield* refine(
        Effect.fail(
          refused(`it is on another filesystem than the data folder ${options.dataFolder}; it must be on the same`)
        )
      )
    }
  }
  const local: Local = {
    roots,
    staging: yield* refine(openStaging(stagingFolder, options.guest === true)),
    quarantine: quarantineFolder,
    fsync: options.fsync,
    buffers: makeBuffers(),
    threads: yield* makeFileThreads(roots, options.fsync),
    turn: { taken: false }
  }
  return local
})

const root = (folder: string) =>
  Effect.gen(function*() {
    // EEXIST: something stands there, and the next look says what.
    yield* makeFolders(folder).pipe(Effect.catchIf((error) => error.code === "EEXIST", () => Effect.void))
    const real = yield* realPath(folder)
    const found = yield* stat(real)
    if (!found.isDirectory()) return yield* unsafe("it is not a folder")
    return { real, dev: found.dev }
  }).pipe(Effect.mapError(toBackendError("open", folder)))

const list = ({ roots, threads }: Local, folder: string): Stream.Stream<FileStat, BackendError> => {
  const refine = toBackendError("list", folder)
  const why = folder === "" ? undefined : offence(folder)
  const check = folder === ""
    ? Effect.void
    : why === undefined
    ? Effect.asVoid(find(roots, `${folder}/x`))
    : Effect.fail(unsafe(`no folder of the data: ${why}`))
  return Stream.unwrap(check.pipe(
    Effect.as(Stream.mapError(walk(roots, threads, folder), refine)),
    Effect.catchIf(isMissing, () => Effect.succeed(Stream.empty)),
    Effect.mapError(refine)
  ))
}

/** A name that tells people where the file came from, and that fits in any filesystem. */
const quarantineName = (path: string): string => {
  const name = Buffer.from(basename(path)).subarray(0, 180).toString()
  return `${name}-${createHash("sha256").update(path).digest("hex").slice(0, 8)}`
}
