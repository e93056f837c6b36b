/** Walking the data folder. */
import { Stream } from "effect"
import { opendir } from "node:fs/promises"
import { join } from "node:path"
import type { FileStat } from "../ports/Backend.ts"
import { FilePath, offence } from "../ports/FilePath.ts"
import type { FileThreads } from "./fileThreads.ts"
import { isMissing, isOwn, type Roots } from "./places.ts"
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
    if (!isMissing(fromUnknown(error))) throw error
  }
  if (found.length > 0) yield found
}

/**
 * The files under a folder, one open folder a level. Links are not followed, and what vanishes meanwhile is left out.
 * `relative` is `""` for the data folder itself.
 */
export const walk = (
  roots: Roots,
  threads: Pick<FileThreads, "look" | "lookAll">,
  relative: string
): Stream.Stream<FileStat, Refused> => {
  const folder = join(roots.data, relative)
  if (isOwn(roots, folder)) return Stream.empty
  const pathOf = (name: string) => relative === "" ? name : `${relative}/${name}`
  const isValid = (name: string) => offence(pathOf(name)) === undefined
  // Read anew by whoever runs the stream again.
  const names = { [Symbol.asyncIterator]: () => namesIn(folder) }
  const piecewise = Stream.mapEffect(Stream.fromAsyncIterable(names, fromUnknown), (some) => threads.look(folder, some))
  return Stream.fromEffect(threads.lookAll(folder, batch)).pipe(
    Stream.flatMap((all) => all === undefined ? piecewise : Stream.succeed(all)),
    Stream.flatMap(({ files, folders }) =>
      Stream.concat(
        Stream.fromArray(
          files.filter(({ name }) => isValid(name)).map(({ inode, mtime, name, size }): FileStat => ({
            path: FilePath.make(pathOf(name)),
            size,
            mtime,
            inode
          }))
        ),
        Stream.flatMap(Stream.fromArray(folders.filter(isValid)), (name) => walk(roots, threads, pathOf(name)))
      )
    )
  )
}
