/** What is copied: files of random bytes, so that nothing is saved by compression or by holes. */
import { randomFillSync } from "node:crypto"
import { closeSync, mkdirSync, openSync, writeSync } from "node:fs"
import { dirname, join } from "node:path"

export const KiB = 1024
export const MiB = 1024 * KiB
export const GiB = 1024 * MiB

export interface Work {
  readonly folder: string
  readonly files: ReadonlyArray<string>
  readonly size: number
  readonly bytes: number
}

/** Writes `count` files of `size` bytes, at most a thousand to a folder. */
export const make = (folder: string, count: number, size: number): Work => {
  const block = Buffer.allocUnsafe(Math.min(size, 8 * MiB))
  const files = Array.from({ length: count }, (_, n) => join(folder, `db/part-${Math.floor(n / 1000)}`, `${n}.parquet`))
  for (const file of files) {
    mkdirSync(dirname(file), { recursive: true })
    const fd = openSync(file, "w")
    for (let left = size; left > 0; left -= block.length) {
      randomFillSync(block, 0, Math.min(block.length, 64 * KiB))
      writeSync(fd, block, 0, Math.min(block.length, left))
    }
    closeSync(fd)
  }
  return { folder, files, size, bytes: count * size }
}
