/**
 * Which files some program has open for writing, as far as Linux tells: the processes of this user, or of all for root,
 * in this process's own namespace. Of a file that another program may be writing unseen, that is said. Other systems
 * tell nothing.
 */
import { Effect } from "effect"
import { lstat, readdir, readFile, readlink } from "node:fs/promises"
import { join } from "node:path"
import type { Writing } from "../ports/Backend.ts"

/** Of some files, by their real paths, those that are open for writing, or of which that is not known. */
export const writing = (files: ReadonlySet<string>): Effect.Effect<ReadonlyMap<string, Writing>> =>
  Effect.promise(async () => {
    const found = new Map<string, Writing>()
    for (const file of await openFor(files)) found.set(file, "Open")
    const everything = await seesNamespaces()
    for (const file of files) {
      if (!found.has(file) && !(everything && await seesWritersOf(file))) found.set(file, "Unknown")
    }
    return found
  })

/** Whether all programs are seen: only root does, and outside of every container. */
export const seesWriters: Effect.Effect<boolean> = Effect.promise(async () =>
  process.geteuid?.() === 0 && await seesNamespaces()
)

/** The first namespace of processes, in which those of all others are seen; Linux gives it this number. */
const firstNamespace = "pid:[4026531836]"

const seesNamespaces = async () => await orNothing(readlink("/proc/self/ns/pid")) === firstNamespace

/** A file belongs to whoever made it. */
const seesWritersOf = async (file: string) => {
  const user = process.geteuid?.()
  return user === 0 || (await orNothing(lstat(file)))?.uid === user
}

const openFor = async (files: ReadonlySet<string>): Promise<ReadonlySet<string>> => {
  const open = new Set<string>()
  for (const id of await orNothing(readdir("/proc")) ?? []) {
    if (!/^\d+$/.test(id)) continue
    const folder = join("/proc", id, "fd")
    for (const fd of await orNothing(readdir(folder)) ?? []) {
      const file = await orNothing(readlink(join(folder, fd)))
      if (file === undefined || !files.has(file) || open.has(file)) continue
      const info = await orNothing(readFile(join("/proc", id, "fdinfo", fd), "utf8"))
      if (info !== undefined && isForWriting(info)) open.add(file)
    }
  }
  return open
}

/** The two lowest bits of its flags, in octal, say how it was opened: 0 is for reading. */
const isForWriting = (info: string): boolean =>
  (Number.parseInt(/^flags:\s*([0-7]+)/m.exec(info)?.[1] ?? "0", 8) & 3) !== 0

// What has ended meanwhile, or belongs to somebody else, can't be read.
const orNothing = <A>(promise: Promise<A>): Promise<A | undefined> => promise.catch(() => undefined)
