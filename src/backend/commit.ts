/** Showing staged bytes under their final name. */
import { Effect } from "effect"
import { AlreadyExists, type Held } from "../ports/Backend.ts"
import type { Sha256 } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { withoutLinks } from "./fileOperations.ts"
import { type Place, prepare, type Roots } from "./places.ts"
import { link, lstat, Refused, refused, rename, syncFolder, unlink, unsafe } from "./systemCalls.ts"

/** How often a folder may vanish under a commit before it gives up: somebody prunes empty folders all the time. */
export const tries = 100
export const vanishing = refused("its folder was removed again and again")

interface Source {
  readonly name: string
  readonly inode: bigint
  readonly device: bigint
  readonly sha256: Sha256
}

/**
 * Gives a durable staging file its final name. Never replaces anything: a link to an existing name fails, and only
 * then goes the old name away. A crash in between leaves two names of one whole file.
 */
export const place = Effect.fnUntraced(function*(
  roots: Roots,
  path: FilePath,
  source: Source,
  sync: boolean,
  linkFile: typeof link = link
): Effect.fn.Return<Held, AlreadyExists | Refused> {
  const at = yield* show(roots, path, source, sync, linkFile)
  const stat = yield* lstat(at.file)
  if (stat.ino !== source.inode || stat.dev !== source.device) return yield* standing(path, stat.isFile())
  if (sync) yield* syncFolder(at.folder)
  // The file stands. A staging name that stays behind is dropped when it is next opened, or by the next start.
  yield* Effect.ignore(unlink(source.name))
  return { sha256: source.sha256, size: Number(stat.size), mtime: stat.mtimeNs, inode: stat.ino }
})

const show = Effect.fnUntraced(function*(
  roots: Roots,
  path: FilePath,
  source: Source,
  sync: boolean,
  linkFile: typeof link
): Effect.fn.Return<Place, Refused> {
  for (let left = tries; left > 0; left--) {
    const at = yield* prepare(roots, path, sync).pipe(
      Effect.catchIf((error) => error.code === "ENOENT", () => Effect.undefined)
    )
    if (at !== undefined && (yield* giveName(source.name, at.file, linkFile)) !== "Vanished") return at
    yield* lstat(source.name).pipe(
      Effect.catchIf((error) => error.code === "ENOENT", () => Effect.fail(refused("its staged bytes were removed")))
    )
  }
  return yield* vanishing
})

/**
 * Gives a file another name when that is free; the old one stays, or goes at once where the filesystem has no hard
 * links. `Vanished`: the file or the folder is not there.
 */
export const giveName = (
  from: string,
  to: string,
  linkFile: typeof link = link
): Effect.Effect<"Given" | "Taken" | "Vanished", Refused> =>
  linkFile(from, to).pipe(
    Effect.catchIf(
      ({ code }) => withoutLinks.has(code),
      // Nothing but this process makes files here, so a look before is enough.
      () =>
        lstat(to).pipe(
          Effect.andThen(Effect.fail(taken)),
          Effect.catchIf((error) => error.code === "ENOENT", () => rename(from, to))
        )
    ),
    Effect.as("Given" as const),
    Effect.catchIf((error) => error.code === "EEXIST", () => Effect.succeed("Taken" as const)),
    Effect.catchIf((error) => error.code === "ENOENT", () => Effect.succeed("Vanished" as const))
  )

const taken = new Refused({ code: "EEXIST", detail: "the name is taken" })

const standing = (path: FilePath, isFile: boolean): Effect.Effect<never, AlreadyExists | Refused> =>
  Effect.fail(isFile ? new AlreadyExists({ path }) : unsafe("something that is no file stands under its final name"))
