/**
 * Which files some program has open for writing, as far as Linux tells: the processes of this user, or of all for root,
 * in this process's own namespace. Other systems tell nothing.
 */
import { Effect } from "effect"
import { readdir, readFile, readlink } from "node:fs/promises"
import { join } from "node:path"

/** Of some files, by their real paths, those that are open for writing. */
export const openForWriting = (files: ReadonlySet<string>): Effect.Effect<ReadonlySet<string>> =>
  Effect.promise(async () => {
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
  })

/** The two lowest bits of its flags, in octal, say how it was opened: 0 is for reading. */
const isForWriting = (info: string): boolean =>
  (Number.parseInt(/^flags:\s*([0-7]+)/m.exec(info)?.[1] ?? "0", 8) & 3) !== 0

// What has ended meanwhile, or belongs to somebody else, can't be read.
const orNothing = <A>(promise: Promise<A>): Promise<A | undefined> => promise.catch(() => undefined)
