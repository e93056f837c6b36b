/**
 * The manifest in a SQLite file: the embedded engine, for any number of processes on one machine.
 *
 * One process's registrations that arrive together are committed together, because a durable commit costs the same
 * for one row as for hundreds. Other processes learn of a commit from a doorbell file beside the database, and from
 * the database itself every `poll`, should the bell ever be missed or be gone.
 */
import { Clock, Context, Duration, Effect, Layer, Option, Schema, type Scope } from "effect"
import { type FSWatcher, statSync, watch } from "node:fs"
import * as Bell from "../internal/Bell.ts"
import { type FileEntry, Revision } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import {
  Cursor,
  CursorLost,
  EntryRefused,
  type EventBatch,
  Manifest,
  ManifestCollector,
  Unavailable
} from "../ports/Manifest.ts"
import { retryBusy, sentence } from "../sqlite/retryBusy.ts"
import * as SqliteThread from "../sqlite/SqliteThread.ts"
import { decode, decodeAnswer, Events, Files, Lost, refusalOf, Replaced } from "./answers.ts"
import { batchLimit, boundedPage, follow, pages } from "./follow.ts"
import { askInForm, keptReason, replacementInForm } from "./form.ts"
import { groupCommit, type Registration } from "./groupCommit.ts"
import { doorbellOf, type ManifestOperations } from "./sqliteOperations.ts"
import { unpacked } from "./sqliteRows.ts"

export interface Options {
  /** The database file; its folder must exist, on a local disk. Made when it is missing. */
  readonly path: string
  /** How often to look for other processes' commits without having heard of one. 80 ms unless told. */
  readonly poll?: Duration.Input
}

export const layer = (options: Options): Layer.Layer<Manifest | ManifestCollector, Unavailable> =>
  Layer.effectContext(make(options))

/** The most registrations of one transaction. */
const commitLimit = 500
const collectLimit = 1000

const operations = SqliteThread.siblingModule(import.meta, "sqliteOperations")

const make = Effect.fnUntraced(function*(
  options: Options
): Effect.fn.Return<Context.Context<Manifest | ManifestCollector>, Unavailable, Scope.Scope> {
  const bell = Bell.make()
  // Added first, and so run when the database is closed: whoever waits for events looks once more, and is told so.
  yield* Effect.addFinalizer(() => Effect.sync(bell.ring))
  const thread = yield* SqliteThread.make<ManifestOperations>({ path: options.path, operations }).pipe(
    Effect.mapError((error) => new Unavailable({ operation: "open", detail: sentence(error) }))
  )
  const call: SqliteThread.SqliteThread<ManifestOperations>["call"] = (name, ...args) =>
    retryBusy(thread.call(name, ...args))

  yield* hearOthers(options, bell, call("dataVersion"))

  const commit = (entries: ReadonlyArray<FileEntry>): Effect.Effect<ReadonlyArray<Registration>, Unavailable> =>
    call("register", entries).pipe(
      unavailable("register"),
      Effect.flatMap(decodeAnswers),
      Effect.map((answers) => registrations(entries, answers)),
      Effect.ensuring(Effect.sync(bell.ring))
    )
  const register = yield* groupCommit(commit, commitLimit)

  const page = (after: Option.Option<FilePath>, limit: number) =>
    call("page", Option.getOrElse(after, () => ""), boundedPage(limit) + 1).pipe(
      unavailable("page"),
      Effect.flatMap((rows) => decodePage(unpacked(rows))),
      Effect.map((files) => {
        const shown = files.slice(0, boundedPage(limit))
        const last = files.length > shown.length ? shown.at(-1) : undefined
        return { files: shown, next: Option.fromUndefinedOr(last?.entry.path) }
      })
    )

  const getAll = (paths: ReadonlyArray<FilePath>) =>
    call("getAll", paths.join("\0")).pipe(
      unavailable("get"),
      Effect.flatMap((rows) => decodeGet(unpacked(rows))),
      Effect.map((files) => {
        const standing = new Map(files.map((file) => [file.entry.path, file]))
        return paths.map((path) => Option.fromUndefinedOr(standing.get(path)))
      })
    )

  const head = call("head").pipe(unavailable("head"), Effect.flatMap(decodeHead))

  const batchBehind = (after: Cursor): Effect.Effect<Option.Option<EventBatch>, CursorLost | Unavailable> =>
    call("events", after, batchLimit).pipe(
      unavailable("events"),
      Effect.flatMap(decodeEvents),
      Effect.flatMap((answer) => {
        if (answer._tag === "Lost") return Effect.fail(new CursorLost({ reason: answer.reason }))
        return Effect.succeed(
          answer._tag === "Batch" ? Option.some({ cursor: answer.cursor, events: answer.events }) : Option.none()
        )
      })
    )

  const refusals = (operation: "registerTogether" | "check", entries: ReadonlyArray<FileEntry>) =>
    askInForm(entries, (right) =>
      // With one that has no form nothing is registered; the others are answered all the same.
      call(right.length < entries.length ? "check" : operation, right).pipe(
        unavailable(operation),
        Effect.flatMap(decodeAnswers),
        Effect.map((answers) => registrations(right, answers).map((one) => "revision" in one ? undefined : one))
      ))

  const manifest = Manifest.of({
    register,
    registerAll: Effect.fn("Manifest.registerAll")((entries) =>
      askInForm(
        entries,
        Effect.fnUntraced(function*(right) {
          const answers: Array<Registration> = []
          for (let at = 0; at < right.length; at += commitLimit) {
            answers.push(...yield* commit(right.slice(at, at + commitLimit)))
          }
          return answers
        })
      )
    ),
    registerTogether: (entries) => refusals("registerTogether", entries).pipe(Effect.ensuring(Effect.sync(bell.ring))),
    check: (entries) => refusals("check", entries),
    remove: Effect.fn("Manifest.remove")(function*(path, reason) {
      const now = yield* Clock.currentTimeMillis
      return yield* call("remove", { path, reason: keptReason(reason) }, now).pipe(
        unavailable("remove"),
        Effect.ensuring(Effect.sync(bell.ring)),
        Effect.flatMap(decodeRevision)
      )
    }),
    replace: Effect.fn("Manifest.replace")(function*(change) {
      const { add, remove } = yield* replacementInForm(change)
      const now = yield* Clock.currentTimeMillis
      const answer = yield* call("replace", add, remove, now).pipe(
        unavailable("replace"),
        Effect.ensuring(Effect.sync(bell.ring)),
        Effect.flatMap(decodeReplaced)
      )
      return answer._tag === "Done" ? answer.revision : yield* refusalOf(answer.path, answer)
    }),
    get: (path) => Effect.map(getAll([path]), ([file = Option.none()]) => file),
    getAll,
    page,
    head,
    snapshot: (pageSize) =>
      Effect.map(head, (at) => ({ at, pages: pages((after: Option.Option<FilePath>) => page(after, pageSize)) })),
    lost: (cursor) =>
      call("lost", cursor).pipe(unavailable("lost"), Effect.flatMap(decodeLost), Effect.map(Option.fromUndefinedOr)),
    events: (after) => follow(bell, after, batchBehind)
  })

  const collector = ManifestCollector.of({
    collect: Effect.fn("ManifestCollector.collect")(function*(through, age) {
      const madeBy = (yield* Clock.currentTimeMillis) - Duration.toMillis(age)
      let dropped = 0
      while (true) {
        const some = yield* call("collect", through, madeBy, collectLimit).pipe(unavailable("collect"))
        dropped += some
        if (some < collectLimit) return dropped
      }
    })
  })

  return Context.make(Manifest, manifest).pipe(Context.add(ManifestCollector, collector))
})

/** The thread's answers to these entries, in their order. A row that is damaged is no matter of other paths. */
const registrations = (
  entries: ReadonlyArray<FileEntry>,
  answers: ReadonlyArray<unknown>
): ReadonlyArray<Registration> =>
  answers.flatMap((given, index): ReadonlyArray<Registration> => {
    const entry = entries[index]
    if (entry === undefined) return []
    const answer = decodeAnswer(given)
    if (answer._tag === "Added") return [{ entry, revision: answer.revision }]
    if (answer._tag === "Damaged") return [new EntryRefused({ path: entry.path, detail: answer.detail })]
    return [answer._tag === "Standing" ? answer.file : refusalOf(entry.path, answer)]
  })

const decodeAnswers = decode("register", Schema.Array(Schema.Unknown))
const decodePage = decode("page", Files)
const decodeGet = decode("get", Files)
const decodeHead = decode("head", Cursor)
const decodeEvents = decode("events", Events)
const decodeLost = decode("lost", Lost)
const decodeRevision = decode("remove", Revision)
const decodeReplaced = decode("replace", Replaced)

const unavailable =
  (operation: string) =>
  <A, R>(self: Effect.Effect<A, SqliteThread.SqliteError, R>): Effect.Effect<A, Unavailable, R> =>
    Effect.mapError(self, (error) => new Unavailable({ operation, detail: sentence(error) }))

/** Rings for the commits of other processes. */
const hearOthers = Effect.fnUntraced(function*(
  options: Options,
  bell: Bell.Bell,
  dataVersion: Effect.Effect<number, SqliteThread.SqliteError>
): Effect.fn.Return<void, never, Scope.Scope> {
  const doorbell = yield* Effect.acquireRelease(
    Effect.sync(() => watchDoorbell(doorbellOf(options.path), bell.ring)),
    (doorbell) => Effect.sync(doorbell.close)
  )
  let seen: number | undefined
  let deaf: string | undefined
  yield* Effect.suspend(() => {
    const why = doorbell.check()
    const told = why === undefined || deaf !== undefined
    deaf = why
    return told
      ? dataVersion
      : Effect.andThen(
        Effect.logWarning(`${options.path}: commits of other processes are seen a little later (${why})`),
        dataVersion
      )
  }).pipe(
    Effect.map((version) => {
      if (version !== seen) bell.ring()
      seen = version
    }),
    // Whoever waits then looks for himself, and gets the failure.
    Effect.catch(() => Effect.sync(bell.ring)),
    Effect.andThen(Effect.sleep(options.poll ?? "80 millis")),
    Effect.forever,
    Effect.forkScoped
  )
})

/**
 * Rings at each write to a file. When that was removed or replaced, `check` begins to watch the one that is there now;
 * it gives the reason when there is nothing to watch.
 */
const watchDoorbell = (path: string, ring: () => void) => {
  let watched: { readonly inode: number; readonly watcher: FSWatcher } | undefined
  const close = () => {
    watched?.watcher.close()
    watched = undefined
  }
  const check = (): string | undefined => {
    try {
      const inode = statSync(path).ino
      if (inode === watched?.inode) return undefined
      close()
      watched = { inode, watcher: watch(path, { persistent: false }, heard) }
      watched.watcher.on("error", close)
      return undefined
    } catch (cause) {
      close()
      return cause instanceof Error ? cause.message : String(cause)
    }
  }
  // A file that gives way to another one tells of that in the same way. The ring comes last: it covers what was written
  // to the other one before it was watched.
  const heard = () => {
    check()
    ring()
  }
  check()
  return { check, close }
}
