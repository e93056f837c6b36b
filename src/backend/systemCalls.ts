/**
 * `node:fs` as effects, and its errors as sentences.
 *
 * No call can be interrupted: until the kernel has answered, the memory and the descriptor are still in its hands.
 */
import { Data, Effect } from "effect"
import * as fs from "node:fs"
import { BackendError } from "../ports/Backend.ts"

type SystemError = NodeJS.ErrnoException

/** A call that did not do what it was asked, before it is known which operation on which path it was part of. */
export class Refused extends Data.TaggedError("Refused")<{
  /** The system's own code, `ENOENT`; `UNSAFE` and `REFUSED` for what we found out ourselves. */
  readonly code: string
  readonly detail: string
}> {}

/** Following what stands there could lead out of the data folder. */
export const unsafe = (detail: string): Refused => new Refused({ code: "UNSAFE", detail })

/** Anything else that a sentence explains best. */
export const refused = (detail: string): Refused => new Refused({ code: "REFUSED", detail })

export const toBackendError = (operation: string, path: string) => ({ code, detail }: Refused): BackendError =>
  new BackendError({ operation, path, reason: reasonOf(code), detail })

const reasonOf = (code: string): BackendError["reason"] => {
  switch (code) {
    case "ENOSPC":
    case "EDQUOT":
      return "NoSpace"
    case "ENOENT":
      return "NotFound"
    case "EIO":
      return "Unreadable"
    case "ELOOP":
    case "EISDIR":
    case "ENAMETOOLONG":
    case "ENOTDIR":
    case "ENXIO":
    case "UNSAFE":
      return "Unsafe"
    default:
      return "Io"
  }
}

const sentences: Readonly<Record<string, string>> = {
  EACCES: "permission denied",
  EDQUOT: "the disk quota is used up",
  EFBIG: "the file would be larger than this system allows",
  EIO: "the disk reported an error",
  EISDIR: "a folder stands where a file is needed",
  ELOOP: "a symbolic link stands in the way",
  EMFILE: "this process has too many open files",
  ENAMETOOLONG: "the name is too long for this filesystem",
  ENFILE: "this machine has too many open files",
  ENOENT: "no such file",
  ENOSPC: "the disk is full",
  ENOTDIR: "a file stands where a folder is needed",
  ENXIO: "something that is no file stands in the way",
  EPERM: "operation not permitted",
  EROFS: "the filesystem is read-only",
  EXDEV: "the folder is on another filesystem"
}

/** What a system call was refused with, by its code; `detail` where it is not one of the system's. */
export const refusedBy = (code: string, detail = `the system answered ${code}`): Refused =>
  new Refused({ code, detail: sentences[code] ?? detail })

const fromSystem = ({ code = "REFUSED" }: SystemError): Refused => refusedBy(code)

/** What `node:fs` rejects a promise with. */
export const fromUnknown = (error: unknown): Refused =>
  error instanceof Error ? fromSystem(error) : refused(String(error))

const call = <A>(run: (done: (error: SystemError | null, value: A) => void) => void): Effect.Effect<A, Refused> =>
  Effect.uninterruptible(Effect.callback<A, Refused>((resume) => {
    run((error, value) => resume(error === null ? Effect.succeed(value) : Effect.fail(fromSystem(error))))
  }))

const act = (run: (done: (error: SystemError | null) => void) => void): Effect.Effect<void, Refused> =>
  Effect.uninterruptible(Effect.callback<void, Refused>((resume) => {
    run((error) => resume(error === null ? Effect.void : Effect.fail(fromSystem(error))))
  }))

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR } = fs.constants

// Without O_NONBLOCK, opening a pipe would hold one of few threads until somebody opens its other end.
const modes = {
  read: O_RDONLY | O_NOFOLLOW | O_NONBLOCK,
  named: O_RDONLY | O_NONBLOCK,
  write: O_RDWR | O_NOFOLLOW | O_NONBLOCK,
  writeOrCreate: O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK,
  create: O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW,
  folder: O_RDONLY | O_DIRECTORY | O_NOFOLLOW
}

/**
 * Opens a file, never through a symbolic link; `named`: one of a user, through whatever it was named by. `create` fails
 * when anything stands there.
 */
export const open = (path: string, mode: keyof typeof modes): Effect.Effect<number, Refused> =>
  call((done) => fs.open(path, modes[mode], 0o644, done))

export const close = (fd: number): Effect.Effect<void> => Effect.ignore(act((done) => fs.close(fd, done)))

/** Opens a file for reading until the scope closes. Fails when it is no regular file. */
export const openToRead = Effect.fnUntraced(function*(path: string) {
  const fd = yield* Effect.acquireRelease(open(path, "read"), close)
  const stat = yield* fstat(fd)
  if (!stat.isFile()) return yield* unsafe("something that is no file stands under this name")
  return { fd, stat }
})

export const fstat = (fd: number): Effect.Effect<fs.BigIntStats, Refused> =>
  call((done) => fs.fstat(fd, { bigint: true }, done))

export const lstat = (path: string): Effect.Effect<fs.BigIntStats, Refused> =>
  call((done) => fs.lstat(path, { bigint: true }, done))

export const stat = (path: string): Effect.Effect<fs.BigIntStats, Refused> =>
  call((done) => fs.stat(path, { bigint: true }, done))

export const fsync = (fd: number): Effect.Effect<void, Refused> => act((done) => fs.fsync(fd, done))

/** Waits for a file's bytes, and for no more of the rest than it takes to find them again. */
export const fdatasync = (fd: number): Effect.Effect<void, Refused> => act((done) => fs.fdatasync(fd, done))

/** Makes the names in a folder durable. */
export const syncFolder = (path: string): Effect.Effect<void, Refused> =>
  Effect.acquireUseRelease(open(path, "folder"), fsync, close)

export const truncate = (fd: number, length: number): Effect.Effect<void, Refused> =>
  act((done) => fs.ftruncate(fd, length, done))

export const link = (from: string, to: string): Effect.Effect<void, Refused> => act((done) => fs.link(from, to, done))

export const unlink = (path: string): Effect.Effect<void, Refused> => act((done) => fs.unlink(path, done))

/**
 * Removes a name from a folder that was found to be where its name says. The folder may turn into a link meanwhile, so
 * what is opened is looked at, and the name is removed from that; outside Linux there is no way to.
 */
export const unlinkIn = (folder: string, name: string): Effect.Effect<void, Refused> =>
  process.platform !== "linux" ? unlink(`${folder}/${name}`) : Effect.acquireUseRelease(
    open(folder, "folder"),
    (fd) =>
      Effect.flatMap(realPath(`/proc/self/fd/${fd}`), (real) =>
        real === folder
          ? unlink(`/proc/self/fd/${fd}/${name}`)
          : Effect.fail(unsafe("a symbolic link stands in the way"))),
    close
  )

export const rename = (from: string, to: string): Effect.Effect<void, Refused> =>
  act((done) => fs.rename(from, to, done))

/** Removes a name and whatever stands under it, a symbolic link itself and not what it points to. */
export const removeAll = (path: string): Effect.Effect<void, Refused> =>
  act((done) => fs.rm(path, { recursive: true, force: true }, done))

export const makeFolder = (path: string): Effect.Effect<void, Refused> => act((done) => fs.mkdir(path, done))

export const makeFolders = (path: string): Effect.Effect<void, Refused> =>
  Effect.asVoid(call<string | undefined>((done) => fs.mkdir(path, { recursive: true }, done)))

export const removeFolder = (path: string): Effect.Effect<void, Refused> => act((done) => fs.rmdir(path, done))

export const names = (folder: string): Effect.Effect<ReadonlyArray<string>, Refused> =>
  call((done) => fs.readdir(folder, done))

export const realPath = (path: string): Effect.Effect<string, Refused> => call((done) => fs.realpath.native(path, done))

/** Bytes that an ordinary user may still write on the filesystem of a folder. */
export const freeBytes = (folder: string): Effect.Effect<number, Refused> =>
  Effect.map(call<fs.StatsFs>((done) => fs.statfs(folder, done)), (stats) => stats.bavail * stats.bsize)

/** Writes a whole chunk at a position; `meanwhile` runs while the first part is on its way. */
export const writeAll = (
  fd: number,
  chunk: Uint8Array,
  position: number,
  meanwhile: () => void
): Effect.Effect<void, Refused> =>
  Effect.uninterruptible(Effect.callback<void, Refused>((resume) => {
    const next = (from: number): void =>
      fs.write(fd, chunk, from, chunk.length - from, position + from, (error, written) => {
        if (error !== null) return resume(Effect.fail(fromSystem(error)))
        if (from + written === chunk.length) return resume(Effect.void)
        if (written === 0) return resume(Effect.fail(refused("the disk takes no more bytes")))
        next(from + written)
      })
    next(0)
    meanwhile()
  }))

/** Fills a buffer from a position on; gives fewer bytes only at the end of the file. */
export const readAll = (
  fd: number,
  buffer: Uint8Array,
  position: number,
  done: (result: number | Refused) => void
): void => {
  const next = (from: number): void =>
    fs.read(fd, buffer, from, buffer.length - from, position + from, (error, count) => {
      if (error !== null) return done(fromSystem(error))
      if (count === 0 || from + count === buffer.length) return done(from + count)
      next(from + count)
    })
  next(0)
}
