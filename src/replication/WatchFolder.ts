/**
 * Registers what other programs write into the data folder, once it is complete.
 *
 * A file is complete when it has not changed for a while, nobody has it open for writing, its bytes were hashed without a
 * change meanwhile, and, if it is a Parquet file, it ends as one. Where the system does not tell who has it open, and it
 * is no Parquet file, that while is a long one. What `Inventory` knows or
 * ever knew, what the manifest has deleted, hidden and temporary names are left alone. A walk over the folder at the
 * start and from time to time finds what the watching has missed.
 */
import { Clock, Duration, Effect, Layer, Option, Result, Semaphore, Stream } from "effect"
import { Backend, type BackendError, type FileStat, type Writing } from "../ports/Backend.ts"
import { FilePath, offence } from "../ports/FilePath.ts"
import { Inventory } from "../ports/Inventory.ts"
import { Manifest } from "../ports/Manifest.ts"
import { Membership } from "../ports/Membership.ts"
import { leftNote } from "../ports/notes.ts"
import { Background } from "./Background.ts"
import { describe } from "./newFile.ts"
import { Registrar } from "./Registrar.ts"

export interface WatchFolderOptions {
  /** How long a file must not have changed, milliseconds. */
  readonly settleMillis: number
  /** The same for a file whose writer may be out of sight. */
  readonly unseenSettleMillis: number
  /** Between two walks over the folder, milliseconds; 0: only at the start. */
  readonly walkIntervalMillis: number
  /** Before a file is looked at again that could not be registered, milliseconds. */
  readonly restMillis: number
}

/** Between two looks at what is not complete yet, milliseconds. */
const lookMillis = 500

/** Looking who has a file open goes over every process: one that stays open is asked for ever more rarely. */
const openRestMillis = 10_000

/** Files that are looked at together. */
const together = 256

/**
 * Files that are registered at once. What a small one waits for is the disk, which makes many durable as fast as one; of
 * others each has memory and a share of the disk's speed.
 */
const smallBytes = 1024 * 1024
const smallAtOnce = 32
const largeAtOnce = 4

/** A file that may have to be registered. */
interface Candidate {
  /** As it was at the last look; `undefined` before the first. */
  readonly stat: FileStat | undefined
  /** Since when it has not changed, and before when it is not looked at; milliseconds since 1970. */
  readonly since: number
  readonly notBefore: number
  /** Its failure was logged. */
  readonly told: boolean
}

const sameFile = (a: FileStat, b: FileStat): boolean => a.size === b.size && a.mtime === b.mtime && a.inode === b.inode

/** Pure: whether a name says that its file is hidden, or not finished. */
export const isTemporary = (path: string): boolean =>
  path.split("/").some((name) =>
    name.startsWith(".") || name.startsWith("_temporary") || name.startsWith("tmp_")
    || /(~|\.(tmp|temp|part|partial|crdownload|swp|wal|lock))$/i.test(name)
  )

/** Pure: what a look at a candidate says, and whether it may be complete. */
export const look = (
  before: Candidate,
  stat: FileStat,
  now: number,
  settleMillis: number
): { readonly candidate: Candidate; readonly settled: boolean } => {
  const unchanged = before.stat !== undefined && sameFile(before.stat, stat)
  const candidate = { ...before, stat, since: unchanged ? before.since : now }
  // What was written long ago and appears now was renamed into place: two looks are enough.
  const old = now - Number(stat.mtime / 1_000_000n) >= settleMillis
  return { candidate, settled: unchanged && (old || now - candidate.since >= settleMillis) }
}

/**
 * Pure: when a settled file is looked at again that somebody has open, or may have; `undefined`: it is complete.
 * `mtime` in milliseconds since 1970, like the others.
 */
export const lookAgain = (
  writing: Writing | undefined,
  { mtime, since }: { readonly mtime: number; readonly since: number },
  now: number,
  unseenSettleMillis: number
): number | undefined => {
  switch (writing) {
    case undefined:
      return undefined
    case "Open":
      return now + Math.min((now - since) / 2, openRestMillis)
    case "Unknown": {
      const until = Math.min(since, mtime) + unseenSettleMillis
      return until > now ? until : undefined
    }
  }
}

const isParquet = (path: string): boolean => /\.parquet$/i.test(path)

/** The last bytes of every Parquet file. */
const footer = "PAR1"

const nothing = "0".repeat(64)

export const layer = (
  { restMillis, ...options }: WatchFolderOptions
): Layer.Layer<never, never, Background | Backend | Inventory | Manifest | Membership | Registrar> =>
  Layer.effectDiscard(Effect.gen(function*() {
    const backend = yield* Backend
    const inventory = yield* Inventory
    const manifest = yield* Manifest
    const registrar = yield* Registrar
    const { self } = yield* Membership
    const background = yield* Background
    const candidates = new Map<FilePath, Candidate>()
    // Refused once and not changed since.
    const left = new Map<FilePath, FileStat>()
    const walking = yield* Semaphore.make(1)

    // ---------------------------------------------------------------------
    // What may have to be registered
    // ---------------------------------------------------------------------

    const consider = Effect.fnUntraced(function*(paths: ReadonlyArray<FilePath>) {
      const unknown = yield* inventory.unknown(paths.filter((path) => !isTemporary(path) && !candidates.has(path)))
      for (const path of unknown) candidates.set(path, { stat: undefined, since: 0, notBefore: 0, told: false })
    })

    const walk = (folder: string) =>
      backend.list(folder).pipe(
        Stream.map(({ path }) => path),
        Stream.grouped(together),
        Stream.runForEach(consider),
        walking.withPermit
      )

    const onName = Effect.fnUntraced(function*(name: string) {
      if (name !== "" && (isTemporary(name) || offence(name) !== undefined)) return
      if (name === "") return yield* walk(name)
      const path = FilePath.make(name)
      const stat = yield* Effect.orElseSucceed(backend.stat(path), () => undefined)
      if (stat !== undefined) return Option.isSome(stat) ? yield* consider([path]) : undefined
      // Something that is no file may be a folder that was filled before it was watched.
      yield* Effect.catchTag(walk(name), "BackendError", () => Effect.void)
    })

    // ---------------------------------------------------------------------
    // Whether it is complete
    // ---------------------------------------------------------------------

    const isWhole = Effect.fnUntraced(function*({ path, size }: FileStat) {
      if (!isParquet(path)) return true
      if (size < 2 * footer.length) return false
      let end = ""
      yield* backend.read(path, size - footer.length, footer.length, {
        write: (chunk) => Effect.sync(() => void (end += Buffer.from(chunk).toString("latin1")))
      })
      return end === footer
    })

    const leave = Effect.fnUntraced(function*(stat: FileStat, why: string) {
      candidates.delete(stat.path)
      if (left.size >= 100_000) left.clear()
      left.set(stat.path, stat)
      yield* Effect.logWarning(`${stat.path} lies in the data folder and is not registered: ${why}`)
    })

    const register = (stat: FileStat) =>
      Effect.gen(function*() {
        const { path } = stat
        const note = yield* inventory.recall(leftNote(path))
        if (Option.isSome(note)) return yield* leave(stat, note.value)
        const [refusal] = yield* manifest.check([yield* describe({ path }, nothing, 0, self.id)])
        if (refusal?._tag === "Gone") return yield* refusal
        if (!(yield* isWhole(stat))) return yield* rest(path, options.settleMillis)
        const file = yield* registrar.adopt({ path }, stat)
        candidates.delete(path)
        yield* Effect.logInfo(`${path} was found in the data folder and registered at revision ${file.revision}`)
      }).pipe(
        Effect.catchTag(["Conflict", "Gone", "InvalidEntry"], ({ message }) =>
          Effect.andThen(inventory.remember(leftNote(stat.path), Option.some(message)), leave(stat, message))),
        Effect.catchTag("BackendError", (error) =>
          error.reason === "NotFound"
            ? Effect.sync(() =>
              void candidates.delete(stat.path)
            )
            : failed(stat.path, error)),
        // What was recorded as pending is finished by the registrar.
        Effect.catchTag(["EntryRefused", "Unavailable", "InventoryError"], (error) =>
          Effect.andThen(
            Effect.logWarning(`${stat.path} is not registered yet: ${error.message}`),
            rest(stat.path, restMillis)
          ))
      )

    const isTold = (path: FilePath) => candidates.get(path)?.told === true

    const rest = Effect.fnUntraced(function*(path: FilePath, millis: number, told = isTold(path)) {
      const now = yield* Clock.currentTimeMillis
      candidates.set(path, { stat: undefined, since: now, notBefore: now + millis, told })
    })

    /** A disk that fails for an hour is told of once. */
    const failed = Effect.fnUntraced(function*(path: FilePath, { message }: BackendError) {
      if (!isTold(path)) yield* Effect.logWarning(`${path} is not registered yet, and is tried again: ${message}`)
      yield* rest(path, restMillis, true)
    })

    const examine = Effect.fnUntraced(function*(paths: ReadonlyArray<FilePath>) {
      const now = yield* Clock.currentTimeMillis
      const unknown = new Set(yield* inventory.unknown(paths))
      const settled: Array<FileStat> = []
      for (const path of paths) {
        const before = candidates.get(path)
        if (before === undefined || before.notBefore > now) continue
        const looked = yield* Effect.result(backend.stat(path))
        if (Result.isFailure(looked)) {
          yield* failed(path, looked.failure)
          continue
        }
        const stat = Option.getOrUndefined(looked.success)
        const refused = left.get(path)
        if (!unknown.has(path) || stat === undefined || (refused !== undefined && sameFile(refused, stat))) {
          candidates.delete(path)
          continue
        }
        const found = look(before, stat, now, options.settleMillis)
        candidates.set(path, found.candidate)
        if (found.settled) settled.push(stat)
      }
      if (settled.length === 0) return
      const writing = yield* backend.writing(settled.map(({ path }) => path))
      const closed: Array<FileStat> = []
      for (const stat of settled) {
        const candidate = candidates.get(stat.path)
        const found = writing.get(stat.path)
        // A Parquet file tells by itself whether it is whole.
        const seen = found === "Unknown" && isParquet(stat.path) ? undefined : found
        const mtime = Number(stat.mtime / 1_000_000n)
        const again = lookAgain(seen, { since: candidate?.since ?? now, mtime }, now, options.unseenSettleMillis)
        if (again === undefined) closed.push(stat)
        else if (candidate !== undefined) candidates.set(stat.path, { ...candidate, notBefore: again })
      }
      const small = closed.filter(({ size }) => size < smallBytes)
      const large = closed.filter(({ size }) => size >= smallBytes)
      yield* Effect.forEach(small, register, { concurrency: smallAtOnce, discard: true })
      yield* Effect.forEach(large, register, { concurrency: largeAtOnce, discard: true })
    })

    const examineAll = Effect.gen(function*() {
      const paths = Array.from(candidates.keys())
      for (let at = 0; at < paths.length; at += together) yield* examine(paths.slice(at, at + together))
    }).pipe(
      Effect.catchTag(
        "InventoryError",
        (error) =>
          Effect.andThen(Effect.logWarning(`the watch folder pauses: ${error.message}`), Effect.sleep("5 seconds"))
      )
    )

    // ---------------------------------------------------------------------
    // What runs
    // ---------------------------------------------------------------------

    const again = (what: string) => (error: { readonly message: string }) =>
      Effect.andThen(Effect.logWarning(`${what}: ${error.message}`), Effect.sleep("1 minute"))

    if (!(yield* backend.seesWriters)) {
      const settle = Duration.format(Duration.millis(options.unseenSettleMillis))
      yield* Effect.logWarning(
        "this node can't see which files of the data folder programs of other users or in other containers have open. "
          + `Such files are registered when nothing has changed for ${settle} (storage.watch_unseen_settle_ms), Parquet `
          + "files as soon as they end as such. To be safe, write under a temporary name and rename"
      )
    }
    yield* background.run(
      "the watching of the data folder",
      backend.watch.pipe(
        Stream.runForEach(onName),
        Effect.catchTag(["BackendError", "InventoryError"], again("the data folder is not watched for a minute")),
        Effect.forever
      )
    )
    yield* background.run(
      "the looks at files that were found",
      Effect.forever(Effect.andThen(examineAll, Effect.sleep(Duration.millis(lookMillis))))
    )
    if (options.walkIntervalMillis > 0) {
      yield* background.run(
        "the walks over the data folder",
        Effect.sleep(Duration.millis(options.walkIntervalMillis)).pipe(
          Effect.andThen(walk("")),
          Effect.catchTag(["BackendError", "InventoryError"], again("the data folder was not walked")),
          Effect.forever
        )
      )
    }
  }))
