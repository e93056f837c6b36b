/**
 * What is done to files on threads of their own. Knows nothing of Effect.
 *
 * A synchronous call costs a few microseconds, an asynchronous one ten times that, and a small file takes a dozen of
 * them: a thread that does nothing else gets through thousands of small files while the event loop goes on.
 */
import { hash } from "node:crypto"
import * as fs from "node:fs"
import { dirname, join } from "node:path"
import { withMemory } from "../internal/threadSide.ts"

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR } = fs.constants

const codeOf = (cause: unknown): string => {
  const code: unknown = cause instanceof Error ? Reflect.get(cause, "code") : undefined
  return typeof code === "string" ? code : "REFUSED"
}

/** An error in the words of an answer. */
const told = (cause: unknown) => ({
  code: codeOf(cause),
  detail: cause instanceof Error ? cause.message : String(cause)
})

/** An error that reaches the other side with its code. */
const refusal = (code: string, detail: string): Error => Object.assign(new Error(detail), { code })

/** Whether a folder is where its name says, without a symbolic link on the way. */
const isStraight = (folder: string): boolean => {
  try {
    return fs.realpathSync.native(folder) === folder
  } catch (cause) {
    if (["ENOENT", "ENOTDIR", "ELOOP", "ENAMETOOLONG"].includes(codeOf(cause))) return false
    throw cause
  }
}

const mustBeStraight = (folder: string): void => {
  if (fs.realpathSync.native(folder) !== folder) throw refusal("UNSAFE", "a symbolic link stands in the way")
}

// ---------------------------------------------------------------------------------------------------------------------
// Looking
// ---------------------------------------------------------------------------------------------------------------------

const statOf = (file: string) => {
  try {
    return fs.lstatSync(file, { bigint: true, throwIfNoEntry: false })
  } catch (cause) {
    if (["ENOTDIR", "ELOOP"].includes(codeOf(cause))) return undefined
    throw cause
  }
}

const isMissing = (name: string): boolean => {
  try {
    return fs.lstatSync(name, { throwIfNoEntry: false }) === undefined
  } catch {
    return false
  }
}

/**
 * Which of some files differ from what is said of them. `packed`: four texts a file, path, size, time of the last change
 * in nanoseconds, inode.
 */
const differing = (data: string, packed: string): ReadonlyArray<string> => {
  const fields = packed === "" ? [] : packed.split("\0")
  const different: Array<string> = []
  // Files of one folder come together, so one look at it serves them all.
  let folder = ""
  let straight = false
  for (let at = 0; at < fields.length; at += 4) {
    const path = fields[at] ?? ""
    const file = join(data, path)
    const above = dirname(file)
    if (above !== folder) {
      folder = above
      straight = isStraight(above)
    }
    const stat = straight ? statOf(file) : undefined
    const same = stat !== undefined && stat.isFile() && String(stat.size) === fields[at + 1]
      && String(stat.mtimeNs) === fields[at + 2] && String(stat.ino) === fields[at + 3]
    if (!same) different.push(path)
  }
  return different
}

/**
 * What lies in a folder under some names, without links and what is gone: nothing when the folder is not where its name
 * says. Both are packed: five texts each, `file` or `folder`, name, size, time of the last change in nanoseconds, inode.
 */
const look = (folder: string, packed: string): string =>
  packed === "" || !isStraight(folder) ? "" : packed.split("\0").flatMap((name) => {
    const stat = statOf(join(folder, name))
    const kind = stat?.isFile() === true ? "file" : stat?.isDirectory() === true ? "folder" : undefined
    return stat === undefined || kind === undefined ? [] : [kind, name, stat.size, stat.mtimeNs, stat.ino]
  }).join("\0")

/** The same of all names in a folder; `undefined` when they are more than `most`. */
const lookAll = (folder: string, most: number): string | undefined => {
  const names: Array<string> = []
  try {
    const dir = fs.opendirSync(folder, { bufferSize: most })
    try {
      for (let entry = dir.readSync(); entry !== null; entry = dir.readSync()) {
        if (names.push(entry.name) > most) return undefined
      }
    } finally {
      dir.closeSync()
    }
  } catch (cause) {
    if (!["ENOENT", "ENOTDIR"].includes(codeOf(cause))) throw cause
  }
  return look(folder, names.join("\0"))
}

const standingAbove = (folder: string): string => isMissing(folder) ? standingAbove(dirname(folder)) : folder

/** Of some paths, in one text, those under which nothing lies. What is in doubt is not among them. */
const absent = (data: string, packed: string): ReadonlyArray<string> => {
  let folder = ""
  let found: "straight" | "absent" | "doubtful" = "doubtful"
  return (packed === "" ? [] : packed.split("\0")).filter((path) => {
    const file = join(data, path)
    const above = dirname(file)
    if (above !== folder) {
      folder = above
      found = isStraight(above)
        ? "straight"
        : isMissing(above) && isStraight(standingAbove(above))
        ? "absent"
        : "doubtful"
    }
    return found === "absent" || (found === "straight" && isMissing(file))
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// Small files, whole
// ---------------------------------------------------------------------------------------------------------------------

const using = <A>(fd: number, use: (fd: number) => A): A => {
  try {
    return use(fd)
  } finally {
    fs.closeSync(fd)
  }
}

/** Fills memory with bytes of a file from `offset` on. Fails with `REFUSED` when it has fewer. */
const fill = (file: string, offset: number, into: Uint8Array): void =>
  using(fs.openSync(file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK), (fd) => {
    const stat = fs.fstatSync(fd)
    if (!stat.isFile()) throw refusal("UNSAFE", "something that is no file stands under this name")
    const { length } = into
    if (stat.size < offset + length) {
      throw refusal(
        "REFUSED",
        `it has ${stat.size} bytes, and bytes ${offset} to ${offset + length} were asked for`
      )
    }
    for (let at = 0; at < length;) {
      const count = fs.readSync(fd, into, at, length - at, offset + at)
      if (count === 0) throw refusal("REFUSED", "the file is shorter than it was")
      at += count
    }
  })

/** Some bytes of a file. Fails with `REFUSED` when it has fewer. */
const read = (file: string, offset: number, length: number): Uint8Array => {
  mustBeStraight(dirname(file))
  const memory = new ArrayBuffer(length)
  const bytes = new Uint8Array(memory)
  fill(file, offset, bytes)
  return withMemory(bytes, memory)
}

/** Why one of some files was not read; `n` is its place among them. */
export interface Unread {
  readonly n: number
  readonly code: string
  readonly detail: string
}

/**
 * The first bytes of many files, one behind another, and which could not be read. `packed`: two texts a file, its place
 * on this disk and how many bytes.
 */
const readTogether = (packed: string): { readonly bytes: Uint8Array; readonly unread: ReadonlyArray<Unread> } => {
  const fields = packed === "" ? [] : packed.split("\0")
  const lengths = fields.filter((_, at) => at % 2 === 1).map(Number)
  const memory = new ArrayBuffer(lengths.reduce((sum, length) => sum + length, 0))
  const unread: Array<Unread> = []
  // Files of one folder come together, so one look at it serves them all.
  let folder = ""
  let end = 0
  for (const [n, length] of lengths.entries()) {
    const file = fields[2 * n] ?? ""
    const above = dirname(file)
    try {
      if (above !== folder) {
        mustBeStraight(above)
        folder = above
      }
      fill(file, 0, new Uint8Array(memory, end, length))
      end += length
    } catch (cause) {
      unread.push({ n, ...told(cause) })
    }
  }
  return withMemory({ bytes: new Uint8Array(memory, 0, end), unread }, memory)
}

/** A whole small file that is to get its final name. */
export interface Commit {
  readonly bytes: Uint8Array
  /** What its bytes must have, in hex. */
  readonly sha256: string
  /** A free name in staging. */
  readonly staged: string
  readonly file: string
}

/** `Taken`: a file stands under the final name. `Wrong`: the bytes have another digest, and were not written. */
export type Committed =
  | { readonly _tag: "Placed"; readonly mtime: bigint; readonly inode: bigint }
  | { readonly _tag: "Taken"; readonly isFile: boolean }
  | { readonly _tag: "Wrong"; readonly sha256: string }
  | { readonly _tag: "Refused"; readonly code: string; readonly detail: string }

const syncFolder = (folder: string): void =>
  using(fs.openSync(folder, O_RDONLY | fs.constants.O_DIRECTORY | O_NOFOLLOW), fs.fsyncSync)

/** Codes of a filesystem without hard links. */
export const withoutLinks: ReadonlySet<string> = new Set(["EPERM", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EMLINK"])

/** Gives a staged file its final name when that is free. */
const giveName = ({ file, staged }: Commit): void => {
  try {
    fs.linkSync(staged, file)
  } catch (cause) {
    if (!withoutLinks.has(codeOf(cause))) throw cause
    // Nothing but this node makes files here, so a look before is enough.
    if (statOf(file) !== undefined) throw refusal("EEXIST", "the name is taken")
    fs.renameSync(staged, file)
  }
}

/** A file as it is before it has its name. */
type Written = { readonly _tag: "Written"; readonly inode: bigint; readonly device: bigint }

/** Hashes and writes one file, durably when `sync` is set. */
const write = ({ bytes, sha256: expected, staged }: Commit, sync: boolean): Written | Committed => {
  const sha256 = hash("sha256", bytes)
  if (sha256 !== expected) return { _tag: "Wrong", sha256 }
  return using(fs.openSync(staged, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o644), (fd) => {
    for (let at = 0; at < bytes.length;) at += fs.writeSync(fd, bytes, at, bytes.length - at, at)
    if (sync) fs.fsyncSync(fd)
    const { dev, ino } = fs.fstatSync(fd, { bigint: true })
    return { _tag: "Written", inode: ino, device: dev }
  })
}

/** Names one file whose folder was found to be where its name says; that is not durable yet. */
const name = (commit: Commit, { device, inode }: Written): Committed => {
  try {
    giveName(commit)
  } catch (cause) {
    if (codeOf(cause) !== "EEXIST") throw cause
    return { _tag: "Taken", isFile: statOf(commit.file)?.isFile() === true }
  }
  const named = statOf(commit.file)
  if (named?.ino !== inode || named.dev !== device) return { _tag: "Taken", isFile: named?.isFile() === true }
  return { _tag: "Placed", mtime: named.mtimeNs, inode: named.ino }
}

const drop = (name: string): void => {
  try {
    fs.unlinkSync(name)
  } catch {
    // It never came to be, was renamed, or is dropped or found by the next start.
  }
}

const orRefused = <A>(step: () => A): A | Committed => {
  try {
    return step()
  } catch (cause) {
    return { _tag: "Refused", ...told(cause) }
  }
}

/**
 * Gives many small files their final names, each written, synced and named as any other: never over another file. A
 * folder that several of them share is looked at once before the first is written and once before the first is named,
 * and synced once; no name in staging goes before that.
 */
const commit = (commits: ReadonlyArray<Commit>, sync: boolean): ReadonlyArray<Committed> => {
  /** What a step says of each folder in which something is still to be done. */
  const inFolders = (left: ReadonlyArray<{ readonly folder: string }>, step: (folder: string) => void) =>
    new Map(Array.from(new Set(left.map(({ folder }) => folder)), (folder) => [folder, orRefused(() => step(folder))]))

  const all = commits.map((each) => ({ each, folder: dirname(each.file) }))
  const standing = inFolders(all, mustBeStraight)
  const written = all.map(({ each, folder }) => ({
    each,
    folder,
    state: standing.get(folder) ?? orRefused(() => write(each, sync))
  }))
  const straight = inFolders(written.filter(({ state }) => state._tag === "Written"), mustBeStraight)
  const named = written.map(({ each, folder, state }) => ({
    each,
    folder,
    answer: state._tag === "Written" ? straight.get(folder) ?? orRefused(() => name(each, state)) : state
  }))
  const durable = inFolders(sync ? named.filter(({ answer }) => answer._tag === "Placed") : [], syncFolder)
  return named.map(({ answer, each, folder }) => {
    const refusal = answer._tag === "Placed" ? durable.get(folder) : undefined
    // A name that may not last is none.
    if (refusal !== undefined) drop(each.file)
    drop(each.staged)
    return refusal ?? answer
  })
}

export const operations = { absent, commit, differing, look, lookAll, read, readTogether }
export type FileOperations = typeof operations
