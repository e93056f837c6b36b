/** Walking the data folder. */
import { type Effect, Stream } from "effect"
import { opendir } from "node:fs/promises"
import { join } from "node:path"
import type { FileStat } from "../ports/Backend.ts"
import { FilePath, offence } from "../ports/FilePath.ts"
import type { Found } from "./fileThreads.ts"
import { isOwn, type Roots } from "./places.ts"
import { fromUnknown, type Refused } from "./systemCalls.ts"

/** Names that are looked at together. */
const batch = 256

/** The names in a folder, some at a time; none when it is gone. */
async function* namesIn(folder: string): AsyncGenerator<ReadonlyArray<string>> {
  let found: Array<string> = []
  try {
    for await (const { name } of await opendir(folder, { bufferSize: batch })) {
      found.push(name)
      if (found.length < batch) continue
      yield found
      found = []
    }
  } catch (error) {
    const code: unknown = error instanceof Error ? Reflect.get(error, "code") : undefined
    if (code !== "ENOENT" && code !== "ENOTDIR") throw error
  }
  if (found.length > 0) yield found
}

/**
 * The files under a folder, one open folder a level. Links are not followed, and what vanishes meanwhile is left out.
 * `relative` is `""` for the data folder itself. `look` tells what lies in a folder under some names.
 */
export const walk = (
  roots: Roots,
  look: (folder: string, names: ReadonlyArray<string>) => Effect.Effect<Found, Refused>,
  relative: string
): Stream.Stream<FileStat, Refused> => {
  const folder = join(roots.data, relative)
  if (isOwn(roots, folder)) return Stream.empty
  const pathOf = (name: string) => relative === "" ? name : `${relative}/${name}`
  // Read anew by whoever runs the stream again.
  const names = { [Symbol.asyncIterator]: () => namesIn(folder) }
  return Stream.fromAsyncIterable(names, fromUnknown).pipe(
    Stream.mapEffect((names) => look(folder, names.filter((name) => offence(pathOf(name)) === undefined))),
    Stream.flatMap(({ files, folders }) =>
      Stream.concat(
        Stream.fromArray(files.map(({ name, ...stat }): FileStat => ({ path: FilePath.make(pathOf(name)), ...stat }))),
        Stream.flatMap(Stream.fromArray(folders), (name) => walk(roots, look, pathOf(name)))
      )
    )
  )
}
