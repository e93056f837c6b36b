/** What is left over on the disk, and what of it goes. */
import { Effect } from "effect"
import type { Cap, Dropped } from "../ports/Backend.ts"
import { lstat, names, type Refused, unlink } from "./systemCalls.ts"

export interface Leftover<Name = string> {
  readonly name: Name
  /** Bytes. */
  readonly size: number
  /** When it was left, milliseconds since 1970. */
  readonly at: number
}

/** Pure: which leftovers are beyond a cap, the oldest first. */
export const beyond = <Name>(
  leftovers: ReadonlyArray<Leftover<Name>>,
  { maxAgeMillis, maxBytes }: Cap,
  now: number
): ReadonlyArray<Leftover<Name>> => {
  let bytes = 0
  for (const { size } of leftovers) bytes += size
  return leftovers.toSorted((a, b) => a.at - b.at).filter(({ at, size }) => {
    const goes = now - at > maxAgeMillis || bytes > maxBytes
    if (goes) bytes -= size
    return goes
  })
}

/** A file that was left; nothing when it is gone, or no file. `named`: since it has this name, else since it was written to. */
export const leftoverAt = (
  name: string,
  since: "written" | "named"
): Effect.Effect<ReadonlyArray<Leftover>, Refused> =>
  lstat(name).pipe(
    Effect.map((stat) =>
      stat.isFile()
        ? [{ name, size: Number(stat.size), at: Number(since === "written" ? stat.mtimeMs : stat.ctimeMs) }]
        : []
    ),
    Effect.catchIf((error) => error.code === "ENOENT", () => Effect.succeed([]))
  )

/** Removes the files of a folder beyond a cap, by when they got their names. */
export const trimFolder = Effect.fnUntraced(function*(
  folder: string,
  cap: Cap,
  now: number
): Effect.fn.Return<Dropped, Refused> {
  const found: Array<Leftover> = []
  for (const name of yield* names(folder)) found.push(...yield* leftoverAt(`${folder}/${name}`, "named"))
  let bytes = 0
  const gone = beyond(found, cap, now)
  for (const { name, size } of gone) {
    yield* unlink(name)
    bytes += size
  }
  return { files: gone.length, bytes }
})
