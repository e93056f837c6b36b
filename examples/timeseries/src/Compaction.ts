/** Merges the small files of an hour into one. On the writer alone: two nodes must not replace the same files. */
import { Effect, FileSystem } from "effect"
import { Manifest, Registrar, View } from "effect-file-replication"
import { randomUUID } from "node:crypto"
import { dirname, join } from "node:path"
import { mergeParquet } from "./Duck.ts"

/** One replacement takes 100 paths: the merged file and those that it replaces. */
const most = 99

export interface Compacted {
  readonly hours: number
  readonly merged: number
  /** Hours whose files could not be merged, and stay as they are; the log says why. */
  readonly failed: number
}

/**
 * Merges every hour that has more than one file, 99 of them at most. `data`: the node's data folder; `work`: where files
 * are made.
 */
export const compact = Effect.fn("compact")(function*(data: string, work: string) {
  const registrar = yield* Registrar.Registrar
  const manifest = yield* Manifest.Manifest
  const view = yield* View.View
  const fs = yield* FileSystem.FileSystem
  // What was merged just now is still in the view before it has come as far.
  const head = yield* manifest.head
  yield* view.await(head).pipe(Effect.timeoutOrElse({
    duration: "10 seconds",
    orElse: () => Effect.fail(new View.Incomplete({ reason: `it is not at revision ${head.revision} yet` }))
  }))
  const { files } = yield* view.open(() => true)

  const merge = Effect.fnUntraced(function*(folder: string, measurement: string, paths: ReadonlyArray<string>) {
    const id = randomUUID()
    const file = join(work, `${id}.parquet`)
    const replace = registrar.replace(
      [{ path: `${folder}/merged-${id}.parquet`, measurement, bytes: fs.stream(file) }],
      paths.map((path) => ({ path, reason: "merged" }))
    )
    yield* mergeParquet(paths.map((path) => join(data, path)), file).pipe(
      Effect.andThen(replace),
      Effect.ensuring(Effect.ignore(fs.remove(file)))
    )
    return { hours: 1, merged: paths.length, failed: 0 } satisfies Compacted
  })

  const done = { hours: 0, merged: 0, failed: 0 }
  for (const [folder, all] of Map.groupBy(files, ({ entry }) => dirname(entry.path))) {
    const [first] = all
    if (first === undefined || all.length < 2) continue
    const { failed, hours, merged } = yield* merge(
      folder,
      first.entry.measurement,
      all.slice(0, most).map(({ entry }) => entry.path)
    ).pipe(
      // Somebody else has merged or deleted them meanwhile.
      Effect.catchTag("Gone", () => Effect.succeed({ hours: 0, merged: 0, failed: 0 })),
      Effect.catchIf(
        // Without the manifest no other hour can be merged either.
        (error) => error._tag !== "Unavailable",
        (error) =>
          Effect.as(Effect.logError(`${folder} is not merged: ${error.message}`), { hours: 0, merged: 0, failed: 1 })
      )
    )
    done.hours += hours
    done.merged += merged
    done.failed += failed
  }
  return done satisfies Compacted
}, Effect.scoped)
