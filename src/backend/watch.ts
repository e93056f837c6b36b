/**
 * What changes in the data folder, as it changes. The folders are watched and not their files: a hundred thousand files
 * cost nothing, and a name that appears in a folder is all that is asked for.
 */
import { Deferred, Effect, Latch, type Scope, Stream } from "effect"
import { join, relative } from "node:path"
import { offence } from "../ports/FilePath.ts"
import { isOwn, type Roots } from "./places.ts"
import { fromUnknown, type Refused } from "./systemCalls.ts"

/** Beyond so many names at once the whole folder is named instead. */
const manyNames = 10_000

/** Names of files and folders, `""` for all: first when watching has begun, and whenever single ones would be too many. */
export const watch = (roots: Roots): Stream.Stream<string, Refused> =>
  Stream.unwrap(Effect.map(start(roots), (take) => Stream.flattenIterable(Stream.fromEffectRepeat(take))))

const start = Effect.fnUntraced(
  function*(roots: Roots): Effect.fn.Return<Effect.Effect<ReadonlyArray<string>, Refused>, Refused, Scope.Scope> {
    // Nobody who does not watch pays for the library.
    const chokidar = yield* Effect.tryPromise({ try: () => import("chokidar"), catch: fromUnknown })
    const names = new Set<string>()
    const some = Latch.makeUnsafe(false)
    const failure = yield* Deferred.make<never, Refused>()

    const add = (name: string): void => {
      if (name !== "" && offence(name) !== undefined) return
      const all = name === "" || names.has("") || names.size >= manyNames
      if (all) names.clear()
      names.add(all ? "" : name)
      // Last: whoever waits may take the names within this call.
      some.openUnsafe()
    }

    yield* Effect.acquireRelease(
      Effect.sync(() => {
        const watcher = chokidar.watch(roots.data, {
          ignoreInitial: true,
          followSymlinks: false,
          ignored: (path, stats) => path !== roots.data && (isOwn(roots, path) || stats?.isFile() === true)
        })
        watcher.on("ready", () => add(""))
        // A folder may have been filled before it was watched.
        watcher.on("addDir", (folder) => add(relative(roots.data, folder)))
        watcher.on("raw", (_event, name, details) => {
          const watched: unknown = Reflect.get(Object(details), "watchedPath")
          if (typeof watched === "string" && typeof name === "string") add(relative(roots.data, join(watched, name)))
        })
        watcher.on("error", (error) => Deferred.doneUnsafe(failure, Effect.fail(fromUnknown(error))))
        return watcher
      }),
      (watcher) => Effect.promise(() => watcher.close())
    )
    const take = Effect.map(some.await, () => {
      const taken = Array.from(names)
      names.clear()
      some.closeUnsafe()
      return taken
    })
    return Effect.raceFirst(take, Deferred.await(failure))
  }
)
