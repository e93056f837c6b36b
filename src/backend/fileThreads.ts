/**
 * Two threads for what is done to many files, or to small ones: see `fileOperations.ts`. They start when they are first
 * asked and end with the scope. What one was at when it dies is refused; a commit may then have shown its file, whole,
 * without saying so.
 *
 * Small files that are to be committed wait for a thread that is free, and go there together.
 */
import { type Cause, Effect, Exit, Fiber, Queue, type Scope } from "effect"
import { ask, type Asked } from "../internal/asked.ts"
import * as Thread from "../internal/Thread.ts"
import type { FileStat } from "../ports/Backend.ts"
import type { FilePath } from "../ports/FilePath.ts"
import type { Commit, Committed, FileOperations, Unread } from "./fileOperations.ts"
import type { Roots } from "./places.ts"
import { type Refused, refusedBy, unlink } from "./systemCalls.ts"

/** Files and folders that lie in a folder. */
export interface Found {
  readonly files: ReadonlyArray<Omit<FileStat, "path"> & { readonly name: string }>
  readonly folders: ReadonlyArray<string>
}

export interface FileThreads {
  /** Which of some files differ from what is said of them. */
  readonly differing: (files: ReadonlyArray<FileStat>) => Effect.Effect<ReadonlyArray<FilePath>, Refused>
  /** Of some paths, those under which nothing lies. */
  readonly absent: (paths: ReadonlyArray<FilePath>) => Effect.Effect<ReadonlyArray<FilePath>, Refused>
  /** What lies in a folder under some names, without links and what is gone. */
  readonly look: (folder: string, names: ReadonlyArray<string>) => Effect.Effect<Found, Refused>
  /** The same of all names in a folder, nothing when it is gone; `undefined` when they are more than `most`. */
  readonly lookAll: (folder: string, most: number) => Effect.Effect<Found | undefined, Refused>
  /** Some bytes of a file whose place was found to be in the data folder. */
  readonly read: (file: string, offset: number, length: number) => Effect.Effect<Uint8Array, Refused>
  /** The first bytes of many files, one behind another, whose places were found to be in the data folder. */
  readonly readTogether: (
    files: ReadonlyArray<{ readonly file: string; readonly length: number }>
  ) => Effect.Effect<{ readonly bytes: Uint8Array; readonly unread: ReadonlyArray<Unread> }, Refused>
  /**
   * Gives small files their final names. Gives what became of each, in their order: refused with `ENOENT` is one whose
   * folder does not exist. Nobody is at work on any of their bytes when it ends.
   */
  readonly commit: (commits: ReadonlyArray<Commit>) => Effect.Effect<ReadonlyArray<Committed>>
}

/** The most files that are committed together: none of them waits long for the others. */
const together = 32

const extension = import.meta.filename.endsWith(".ts") ? ".ts" : ".js"

type Call = <Name extends keyof FileOperations>(
  name: Name,
  ...args: Parameters<FileOperations[Name]>
) => Effect.Effect<ReturnType<FileOperations[Name]>, Refused>

const startThread: Effect.Effect<Call, never, Scope.Scope> = Effect.map(
  Thread.start({
    module: new URL(`./fileWorker${extension}`, import.meta.url),
    data: {},
    what: "files",
    name: "a thread for files",
    ended: "the backend is closed"
  }),
  (asked): Call => (name, ...args) =>
    // The thread runs the very function that `FileOperations` describes; structured clone keeps its result's shape.
    Effect.mapError(asked(name, args), ({ code, detail }) => refusedBy(String(code), detail)) as Effect.Effect<
      never,
      Refused
    >
)

type Waiting = Asked<Commit, Committed>

/** A refusal as it becomes of one file. */
export const refusal = ({ code, detail }: Refused): Committed => ({ _tag: "Refused", code, detail })

const closed = refusal(refusedBy("REFUSED", "the backend is closed"))
/** What becomes of a file of which nothing is said. */
export const unanswered = refusal(refusedBy("REFUSED", "the thread gave no answer"))

const foundIn = (packed: string): Found => {
  const files: Array<Found["files"][number]> = []
  const folders: Array<string> = []
  const fields = packed === "" ? [] : packed.split("\0")
  for (let at = 0; at < fields.length; at += 5) {
    const [kind, name = "", size = "", mtime = "", inode = ""] = fields.slice(at, at + 5)
    if (kind === "folder") folders.push(name)
    else files.push({ name, size: Number(size), mtime: BigInt(mtime), inode: BigInt(inode) })
  }
  return { files, folders }
}

export const make = Effect.fnUntraced(function*(roots: Roots, sync: boolean): Effect.fn.Return<
  FileThreads,
  never,
  Scope.Scope
> {
  const context = yield* Effect.context<Scope.Scope>()
  const queue = yield* Queue.unbounded<Waiting, Cause.Done>()

  const commitWaiting = (call: Call) =>
    Queue.takeBetween(queue, 1, together).pipe(
      Effect.flatMap((waiting) =>
        call("commit", waiting.map(({ question }) => question), sync).pipe(
          Effect.catchTag("Refused", (error) =>
            // A thread that died has not dropped what it staged.
            Effect.as(
              Effect.forEach(waiting, ({ question }) => Effect.ignore(unlink(question.staged)), { discard: true }),
              waiting.map(() => refusal(error))
            )),
          Effect.exit,
          Effect.map((exit) => {
            for (const [n, { answer }] of waiting.entries()) {
              answer(Exit.map(exit, (answers) => answers[n] ?? unanswered))
            }
          })
        )
      ),
      // Whoever waits for an answer gets it, even when the backend closes: closing ends the queue instead.
      Effect.uninterruptible,
      Effect.forever,
      Effect.ignore
    )

  // It is logged as this layer's, not as of whoever asks first.
  const asLayer = Effect.updateContext<never, Scope.Scope>(() => context)
  const one = yield* Effect.cached(asLayer(startThread))
  // One waits for the disk while the other works. A node that only looks has one of them.
  const both = yield* Effect.cached(
    Effect.gen(function*() {
      const calls = yield* Effect.all([one, startThread])
      const committing = yield* Effect.forEach(calls, (call) => Effect.forkScoped(commitWaiting(call)))
      yield* Effect.addFinalizer(() => Effect.andThen(Queue.end(queue), Fiber.awaitAll(committing)))
      return calls
    }).pipe(asLayer)
  )
  let turn = 0
  const read: Call = (name, ...args) =>
    Effect.flatMap(both, ([first, second]) => (turn++ % 2 === 0 ? first : second)(name, ...args))
  const look: Call = (name, ...args) => Effect.flatMap(one, (call) => call(name, ...args))

  return {
    differing: (files) => {
      const packed: Array<string | number | bigint> = []
      for (const { inode, mtime, path, size } of files) packed.push(path, size, mtime, inode)
      return Effect.map(look("differing", roots.data, packed.join("\0")), (different) => {
        if (different.length === 0) return []
        const paths = new Set(different)
        return files.flatMap(({ path }) => paths.has(path) ? [path] : [])
      })
    },
    absent: (paths) =>
      Effect.map(look("absent", roots.data, paths.join("\0")), (found) => {
        const absent = new Set(found)
        return paths.filter((path) => absent.has(path))
      }),
    look: (folder, names) => Effect.map(look("look", folder, names.join("\0")), foundIn),
    lookAll: (folder, most) =>
      Effect.map(look("lookAll", folder, most), (packed) => packed === undefined ? undefined : foundIn(packed)),
    read: (file, offset, length) => read("read", file, offset, length),
    readTogether: (files) => read("readTogether", files.flatMap(({ file, length }) => [file, length]).join("\0")),
    commit: Effect.fnUntraced(function*(commits) {
      yield* both
      return yield* ask<Commit, Committed>(commits, (waiting) => {
        for (const { answer } of Queue.offerAllUnsafe(queue, waiting)) answer(Exit.succeed(closed))
      })
    }, Effect.uninterruptible)
  }
})
