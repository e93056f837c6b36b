/**
 * Where a path lies on this disk, and that it lies there and nowhere else.
 *
 * A symbolic link below the data folder is never followed: the real path of a file's folder must be the very one that
 * its name says, and the file itself is only ever opened without following links.
 */
import { Effect, Result } from "effect"
import { dirname, join, sep } from "node:path"
import { lstat, makeFolder, realPath, type Refused, removeFolder, syncFolder, unsafe } from "./systemCalls.ts"

/** The two folders of a node, as real paths. */
export interface Roots {
  readonly data: string
  readonly state: string
}

export interface Place {
  /** The folder that holds the file. */
  readonly folder: string
  readonly file: string
}

export const isInside = (inner: string, outer: string): boolean => inner === outer || inner.startsWith(outer + sep)

/** Whether a real path belongs to the node itself and not to the data. The data may lie in the state folder. */
export const isOwn = (roots: Roots, path: string): boolean =>
  isInside(path, roots.state) && !isInside(roots.data, roots.state)

/** Where a path lies, by its name alone. */
export const placeIn = (roots: Roots, path: string): Result.Result<Place, Refused> => {
  const file = join(roots.data, path)
  if (!isInside(file, roots.data)) return Result.fail(unsafe("the path leads out of the data folder"))
  if (isOwn(roots, file)) {
    return Result.fail(unsafe("the path leads into the node's own state folder"))
  }
  return Result.succeed({ folder: dirname(file), file })
}

/** The same, as an effect. */
export const placeOf = (roots: Roots, path: string): Effect.Effect<Place, Refused> =>
  Effect.fromResult(placeIn(roots, path))

const throughLink = unsafe("a symbolic link stands in the way")

/** Fails unless a folder exists and no symbolic link leads to it. */
export const checkFolder = (folder: string): Effect.Effect<void, Refused> =>
  Effect.flatMap(
    realPath(folder),
    (real) => real === folder ? Effect.void : Effect.fail(throughLink)
  )

/** Where an existing file lies. Fails with `ENOENT` when its folder does not exist. */
export const find = Effect.fnUntraced(function*(roots: Roots, path: string) {
  const place = yield* placeOf(roots, path)
  yield* checkFolder(place.folder)
  return place
})

/** Where a new file may lie: makes the folders that are missing, durably when `sync` is set. */
export const prepare = Effect.fnUntraced(function*(roots: Roots, path: string, sync: boolean) {
  const place = yield* placeOf(roots, path)
  yield* checkFolder(place.folder).pipe(
    Effect.catchIf(isMissing, () => makeMissing(roots, place.folder, sync))
  )
  return place
})

const makeMissing = Effect.fnUntraced(function*(roots: Roots, folder: string, sync: boolean) {
  let above = roots.data
  for (const name of folder.slice(roots.data.length).split(sep).filter((part) => part !== "")) {
    const here = join(above, name)
    yield* makeFolder(here).pipe(
      Effect.andThen(sync ? syncFolder(above) : Effect.void),
      Effect.catchIf((error) => error.code === "EEXIST", () => mustBeFolder(here, name))
    )
    above = here
  }
  yield* checkFolder(folder)
})

const mustBeFolder = Effect.fnUntraced(function*(folder: string, name: string) {
  const stat = yield* lstat(folder)
  if (stat.isSymbolicLink()) return yield* unsafe(`${name} is a symbolic link`)
  if (!stat.isDirectory()) return yield* unsafe(`${name} is a file, and the path needs a folder there`)
})

/** Fails unless a file can have this name, and makes nothing. A file that stands there is fine. */
export const checkName = Effect.fnUntraced(function*(roots: Roots, path: string) {
  const { file, folder } = yield* placeOf(roots, path)
  const stat = yield* unlessGone(lstat(file))
  if (stat?.isFile() === false) return yield* unsafe("something that is no file stands under this name")
  yield* checkAbove(folder)
})

/** Fails unless a folder, or the lowest one above it that exists, is where its name says. */
const checkAbove = Effect.fnUntraced(function*(folder: string): Effect.fn.Return<void, Refused> {
  const real = yield* unlessGone(realPath(folder))
  if (real === folder) return
  if (real !== undefined) return yield* throughLink
  const stat = yield* unlessGone(lstat(folder))
  // A link that leads nowhere has no real path either.
  if (stat?.isSymbolicLink() === true) return yield* throughLink
  // Where it stands by now, somebody has just made it.
  yield* checkAbove(stat === undefined ? dirname(folder) : folder)
})

const unlessGone = <A>(effect: Effect.Effect<A, Refused>) =>
  Effect.catchIf(effect, ({ code }) => code === "ENOENT", () => Effect.undefined)

/** Removes a folder and those above it as long as they are empty. Somebody else may fill them meanwhile. */
export const prune = (roots: Roots, folder: string): Effect.Effect<void> =>
  folder === roots.data ? Effect.void : removeFolder(folder).pipe(
    Effect.andThen(Effect.suspend(() => prune(roots, dirname(folder)))),
    // It is not empty, or already gone, or not ours to remove: an empty folder does no harm.
    Effect.ignore
  )

/** No such file, or not even its folder. */
export const isMissing = (error: Pick<Refused, "code">): boolean => error.code === "ENOENT" || error.code === "ENOTDIR"
