/** Merges the small files of an hour into one. On the writer alone: two nodes must not replace the same files. */
import { Effect, FileSystem } from "effect"
import { Registrar, View } from "effect-file-replication"
import { randomUUID } from "node:crypto"
import { dirname, join } from "node:path"
import { mergeParquet } from "./Duck.ts"

/** One replacement takes 100 paths: the merged file and those that it replaces. */
const most = 99

export interface Compacted {
  readonly hours: number
  readonly merged: number
}

/** Merges every hour that has more than one file. `data`: the node's data folder; `work`: where files are made. */
export const compact = Effect.fn("compact")(function*(data: string, work: string) {
  const registrar = yield* Registrar.Registrar
  const view = yield* View.View
  const fs = yield* FileSystem.FileSystem
  const { files } = yield* view.open(() => true)
  const hours = Map.groupBy(files, ({ entry }) => dirname(entry.path))
  let merged = 0
  let count = 0
  for (const [folder, all] of hours) {
    const some = all.slice(0, most)
    const [first] = some
    if (first === undefined || some.length < 2) continue
    const id = randomUUID()
    const file = join(work, `${id}.parquet`)
    yield* mergeParquet(some.map(({ entry }) => join(data, entry.path)), file)
    yield* registrar.replace(
      [{ path: `${folder}/merged-${id}.parquet`, measurement: first.entry.measurement, bytes: fs.stream(file) }],
      some.map(({ entry }) => ({ path: entry.path, reason: "merged" }))
    ).pipe(Effect.ensuring(Effect.ignore(fs.remove(file))))
    merged += some.length
    count++
  }
  return { hours: count, merged } satisfies Compacted
}, Effect.scoped)
