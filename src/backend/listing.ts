/** Walking the data folder. */
import type { Dir } from "node:fs"
import { lstat, opendir, realpath } from "node:fs/promises"
import { join } from "node:path"
import type { FileStat } from "../ports/Backend.ts"
import { FilePath, offence } from "../ports/FilePath.ts"
import { isOwn, type Roots } from "./places.ts"

const batch = 256

/**
 * The files under a folder, some at a time, one open folder a level. Links are not followed, and what vanishes
 * meanwhile is left out. `relative` is `""` for the data folder itself.
 */
export async function* walk(roots: Roots, relative: string): AsyncGenerator<Array<FileStat>> {
  let found: Array<FileStat> = []
  const levels: Array<{ readonly dir: Dir; readonly relative: string }> = []

  const enter = async (relative: string): Promise<void> => {
    const folder = join(roots.data, relative)
    if (isOwn(roots, folder) || await orGone(realpath(folder)) !== folder) return
    const dir = await orGone(opendir(folder, { bufferSize: batch }))
    if (dir !== undefined) levels.push({ dir, relative })
  }

  try {
    await enter(relative)
    for (let level = levels.at(-1); level !== undefined; level = levels.at(-1)) {
      const entry = await level.dir.read()
      if (entry === null) {
        await level.dir.close()
        levels.pop()
        continue
      }
      const path = level.relative === "" ? entry.name : `${level.relative}/${entry.name}`
      if (offence(path) !== undefined) continue
      const stat = await orGone(lstat(join(roots.data, path), { bigint: true }))
      if (stat?.isDirectory()) await enter(path)
      if (stat?.isFile()) {
        found.push({ path: FilePath.make(path), size: Number(stat.size), mtime: stat.mtimeNs, inode: stat.ino })
      }
      if (found.length === batch) {
        yield found
        found = []
      }
    }
    if (found.length > 0) yield found
  } finally {
    for (const { dir } of levels) await dir.close()
  }
}

const orGone = async <A>(promise: Promise<A>): Promise<A | undefined> => {
  try {
    return await promise
  } catch (error) {
    const code: unknown = error instanceof Error ? Reflect.get(error, "code") : undefined
    if (code === "ENOENT" || code === "ENOTDIR") return undefined
    throw error
  }
}
