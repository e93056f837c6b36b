/**
 * The inventory in one SQLite file in the state folder.
 *
 * Every write is durable when its effect ends. Writes that wait at the same time share one transaction, so that many
 * workers that settle at once pay for the disk once. Reading one row back costs some 30 µs of decoding here besides
 * its way to the thread and back; ask for pages of hundreds, not of hundred thousands.
 */
import {
  type Cause,
  Clock,
  Deferred,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  PubSub,
  Queue,
  Result,
  Schedule,
  Schema,
  Stream
} from "effect"
import { ask, type Asked } from "../internal/asked.ts"
import { type Held } from "../ports/Backend.ts"
import { explain } from "../ports/explain.ts"
import { type FileEntry, fromJson, type Registered, Revision, toJson } from "../ports/FileEntry.ts"
import { FilePath } from "../ports/FilePath.ts"
import {
  type Brief,
  type Change,
  Inventory,
  InventoryError,
  PeerAnswer,
  type Pending,
  type Progress,
  type Row
} from "../ports/Inventory.ts"
import { Cursor } from "../ports/Manifest.ts"
import { retryBusy } from "../sqlite/retryBusy.ts"
import { make as makeThread, siblingModule, type SqliteError, type SqliteThread } from "../sqlite/SqliteThread.ts"
import type { InventoryOperations, StoredLocal, StoredProgress } from "./sqliteOperations.ts"
import { verifiedThrough } from "./transition.ts"
import type { StoredChange, StoredFile, StoredRow, Write } from "./writeOperations.ts"

/**
 * Opens the file, or makes it; its folder must exist. Fails when it is damaged or from a newer version. A damaged one
 * may be moved away: what it knew is then hashed again.
 */
export const layer = (options: { readonly path: string }): Layer.Layer<Inventory, InventoryError> =>
  Layer.effect(Inventory, make(options.path))

/** Each is told by itself, for they may share no transaction. */
type Written = Result.Result<boolean, InventoryError>
type Job = Asked<Write, Written>

/** Rows that one transaction may touch before the next begins: whoever reads waits behind it. */
const rowsPerTransaction = 2000

const make = Effect.fnUntraced(function*(path: string) {
  const thread = yield* makeThread<InventoryOperations>({
    path,
    operations: siblingModule(import.meta, "sqliteOperations")
  }).pipe(Effect.mapError(failed("open")))
  const jobs = yield* Queue.unbounded<Job, Cause.Done>()
  const written = yield* PubSub.sliding<void>(1)

  let writes = 0
  const writer = yield* Effect.forkScoped(writeAll(thread, jobs, {
    count: Effect.sync(() => writes++),
    signal: Effect.asVoid(PubSub.publish(written, undefined))
  }))
  yield* Effect.addFinalizer(() => Effect.andThen(Queue.end(jobs), Fiber.await(writer)))

  const writeMany = (writes: ReadonlyArray<Write>) =>
    ask<Write, Written>(writes, (asked) => {
      for (const { answer, question: { _tag } } of Queue.offerAllUnsafe(jobs, asked)) {
        answer(Exit.succeed(Result.fail(new InventoryError({ operation: _tag, detail: "it is closed" }))))
      }
    })
  const write = Effect.fnUntraced(function*(write: Write) {
    const [answer] = yield* writeMany([write])
    return answer !== undefined && (yield* Effect.fromResult(answer))
  })

  const one = (operation: string, path: FilePath) =>
    thread.call("row", path).pipe(
      Effect.mapError(failed(operation)),
      Effect.flatMap((row) =>
        row === undefined
          ? Effect.succeedNone
          : Effect.asSome(decodeRow(operation, row))
      )
    )

  const many = (operation: string, rows: Effect.Effect<Array<StoredRow>, SqliteError>) =>
    rows.pipe(
      Effect.mapError(failed(operation)),
      Effect.flatMap(Effect.forEach((row) => decodeRow(operation, row)))
    )

  const progress = thread.call("progress").pipe(
    Effect.mapError(failed("progress")),
    Effect.flatMap(decodeProgress)
  )
  // Everybody who follows the changes asks at each of them, and what was read behind a write serves all until the next.
  let read: { readonly writes: number; readonly answer: Deferred.Deferred<Progress, InventoryError> } | undefined
  const progressBehindWrites = Effect.suspend(() => {
    if (read?.writes === writes) return Deferred.await(read.answer)
    const answer = Deferred.makeUnsafe<Progress, InventoryError>()
    read = { writes, answer }
    return progress.pipe(
      Effect.onExit((exit) => {
        if (exit._tag === "Failure") read = undefined
        return Deferred.done(answer, exit)
      })
    )
    // Who asked first may be interrupted; the others get the answer all the same.
  }).pipe(Effect.uninterruptible)

  const inventory: Inventory["Service"] = {
    apply: Effect.fnUntraced(function*(changes, cursor) {
      const now = yield* Clock.currentTimeMillis
      yield* write({ _tag: "Apply", changes: changes.map(storedChange), cursor, now })
    }),
    pend: ({ entry, token }) =>
      Effect.asVoid(
        write({ _tag: "Pend", path: entry.path, bytes: bytesOf(entry), entry: toJson(entry), token })
      ),
    unpend: (path) => Effect.asVoid(write({ _tag: "Unpend", path })),
    pendings: thread.call("pendings").pipe(
      Effect.mapError(failed("pendings")),
      Effect.flatMap(Effect.forEach(decodePending))
    ),
    settle: (file, held) => write(settlement({ file, held })),
    settleTogether: (settlements) => writeMany(settlements.map(settlement)),
    unlinked: (path, revision) => Effect.asVoid(write({ _tag: "Unlinked", path, revision })),
    look: (paths) =>
      thread.call("look", paths).pipe(
        Effect.mapError(failed("look")),
        Effect.flatMap(Effect.forEach(decodeLocal))
      ),
    why: (path) => one("why", path),
    verified: (path) => Effect.map(one("verified", path), Option.filter((row) => row._tag === "Verified")),
    due: (now, limit, inHand = []) =>
      Effect.map(
        many(
          "due",
          thread.call("due", now, limit, inHand.flatMap(({ entry, revision }) => [entry.path, revision]).join("\0"))
        ),
        (rows) => rows.filter((row) => row._tag === "Owed")
      ),
    dueUnlinks: (now, limit) =>
      Effect.map(
        many("dueUnlinks", thread.call("dueUnlinks", now, limit)),
        (rows) => rows.filter((row) => row._tag === "Unlinking")
      ),
    nextDue: (now) =>
      thread.call("nextDue", now).pipe(Effect.mapError(failed("nextDue")), Effect.map(Option.fromUndefinedOr)),
    postpone: ({ entry, revision }, due, reason, answers) =>
      Effect.asVoid(write({
        _tag: "Postpone",
        path: entry.path,
        revision,
        due: Math.ceil(due),
        reason,
        answers: JSON.stringify(answers)
      })),
    rearm: (span) => retryBusy(thread.call("rearm", { ...span })).pipe(Effect.mapError(failed("rearm"))),
    briefs: (after, limit) =>
      thread.call("briefs", Option.getOrElse(after, () => ""), limit).pipe(
        Effect.mapError(failed("briefs")),
        Effect.flatMap(decodeBriefs)
      ),
    unknown: (paths) =>
      thread.call("unknown", paths).pipe(
        Effect.mapError(failed("unknown")),
        Effect.map((unknown) => {
          const left = new Set<string>(unknown)
          return paths.filter((path) => left.has(path))
        })
      ),
    recall: (name) =>
      thread.call("recall", name).pipe(
        Effect.mapError(failed("recall")),
        Effect.map((row) => Option.map(Option.fromUndefinedOr(row?.["text"]), String))
      ),
    remember: (name, text) => Effect.asVoid(write({ _tag: "Remember", name, text: Option.getOrUndefined(text) })),
    page: (after, limit) => many("page", thread.call("page", Option.getOrElse(after, () => ""), limit)),
    progress,
    failed: Effect.mapError(thread.call("failed"), failed("failed")),
    orphans: Effect.mapError(thread.call("orphans"), failed("orphans")),
    changes: Stream.unwrap(Effect.map(
      PubSub.subscribe(written),
      // Whoever writes after this question is asked leaves a signal behind, and the question is asked again.
      (signals) =>
        Stream.concat(Stream.succeed(undefined), Stream.fromSubscription(signals)).pipe(
          Stream.mapEffect(() => progressBehindWrites)
        )
    ))
  }
  return inventory
})

const writeAll = (
  thread: SqliteThread<InventoryOperations>,
  jobs: Queue.Dequeue<Job, Cause.Done>,
  written: { readonly count: Effect.Effect<void>; readonly signal: Effect.Effect<void> }
): Effect.Effect<void> =>
  Effect.gen(function*() {
    const waiting = yield* Queue.takeBetween(jobs, 1, 256)
    for (const group of groups(waiting)) {
      const answers = yield* thread.call("write", group.map(({ question }) => question)).pipe(
        Effect.retry({
          while: (error) => error.reason === "Busy",
          schedule: Schedule.spaced("50 millis"),
          times: 100
        }),
        Effect.mapError(failed("write")),
        Effect.result,
        Effect.exit
      )
      // Counted before anybody has an answer: whoever has one must never be shown what was read before this write.
      yield* written.count
      for (const [n, { answer }] of group.entries()) {
        answer(Exit.map(answers, Result.map((all) => all[n] === true)))
      }
      yield* written.signal
    }
  }).pipe(
    // An answer must reach whoever waits for it, even when the layer closes: closing ends the queue instead.
    Effect.uninterruptible,
    Effect.forever,
    Effect.ignore
  )

/** Neighbours share a transaction as long as it stays short. */
const groups = (jobs: ReadonlyArray<Job>): Array<Array<Job>> => {
  const all: Array<Array<Job>> = []
  let rows = Infinity
  for (const job of jobs) {
    const weight = job.question._tag === "Apply" ? job.question.changes.length : 1
    if (rows + weight > rowsPerTransaction) {
      all.push([])
      rows = 0
    }
    rows += weight
    all.at(-1)?.push(job)
  }
  return all
}

const failed = (operation: string) => (error: SqliteError): InventoryError =>
  new InventoryError({
    operation,
    detail: error.reason === "Corrupt"
      ? `${error.path} is damaged (${error.detail}); move it away, and all files are hashed again`
      : error.message
  })

const damaged = (operation: string, detail: string): InventoryError =>
  new InventoryError({ operation, detail: `a damaged row: ${detail}` })

const bytesOf = (entry: FileEntry) => ({ sha256: entry.sha256, size: entry.size_bytes })

const storedFile = ({ entry, revision }: Registered): StoredFile => ({
  path: entry.path,
  revision,
  bytes: bytesOf(entry),
  entry: toJson(entry)
})

const settlement = ({ file, held }: { readonly file: Registered; readonly held: Held }): Write => ({
  _tag: "Settle",
  file: storedFile(file),
  held: { sha256: held.sha256, size: held.size },
  mtime: String(held.mtime),
  inode: String(held.inode)
})

const storedChange = (change: Change): StoredChange => {
  switch (change._tag) {
    case "Owe":
      return { _tag: "Owe", file: storedFile(change.file), reason: change.reason, due: Math.ceil(change.due) }
    case "Forget":
      return { ...change, due: Math.ceil(change.due) }
    case "Lost": {
      const { due, held, path, reason } = change
      return { _tag: "Lost", path, mtime: String(held.mtime), inode: String(held.inode), reason, due: Math.ceil(due) }
    }
    case "NewHistory":
    case "Release":
      return change
  }
}

const Stored = Schema.Union([
  Schema.Struct({
    state: Schema.Literal("Owed"),
    revision: Revision,
    entry: Schema.String,
    since: Schema.Int,
    rounds: Schema.Natural,
    due: Schema.Int,
    reason: Schema.String,
    answers: Schema.fromJsonString(Schema.Array(PeerAnswer))
  }),
  Schema.Struct({
    state: Schema.Literal("Verified"),
    revision: Revision,
    entry: Schema.String,
    mtime: Schema.BigIntFromString,
    inode: Schema.BigIntFromString
  }),
  Schema.Struct({ state: Schema.Literal("Unlinking"), path: FilePath, revision: Revision, due: Schema.Int })
])
const decodeStored = Schema.decodeUnknownResult(Stored)

const decodeRow = (operation: string, stored: StoredRow): Effect.Effect<Row, InventoryError> =>
  Effect.fromResult(Result.gen(function*() {
    const row = yield* decodeStored(stored).pipe(Result.mapError((error) => damaged(operation, explain(error))))
    if (row.state === "Unlinking") {
      return { _tag: "Unlinking" as const, path: row.path, revision: row.revision, due: row.due }
    }
    const entry = yield* Result.mapError(fromJson(row.entry), (detail) => damaged(operation, detail))
    const file = { entry, revision: row.revision }
    if (row.state === "Owed") {
      const { answers, due, reason, rounds, since } = row
      return { _tag: "Owed" as const, file, since, rounds, due, reason, answers }
    }
    const held: Held = { sha256: entry.sha256, size: entry.size_bytes, mtime: row.mtime, inode: row.inode }
    return { _tag: "Verified" as const, file, held }
  }))

const isState = (text: string | undefined): text is Brief["state"] =>
  text === "Owed" || text === "Verified" || text === "Unlinking"

// A hundred thousand of them are read at each start, so no schema looks at each. Their paths were checked when they
// were written, and whoever touches a disk by one checks where it leads.
const decodeBriefs = (packed: string): Effect.Effect<ReadonlyArray<Brief>, InventoryError> =>
  Effect.suspend(() => {
    const fields = packed === "" ? [] : packed.split("\0")
    const briefs: Array<Brief> = []
    for (let at = 0; at < fields.length; at += 6) {
      const path = fields[at] ?? ""
      const state = fields[at + 1]
      const mtime = fields[at + 4] ?? ""
      const inode = fields[at + 5] ?? ""
      if (!isState(state) || !digits.test(mtime) || !digits.test(inode)) {
        return Effect.fail(damaged("briefs", path))
      }
      briefs.push({
        path: FilePath.make(path, unchecked),
        state,
        revision: Revision.make(Number(fields[at + 2]), unchecked),
        size: Number(fields[at + 3]),
        mtime: BigInt(mtime),
        inode: BigInt(inode)
      })
    }
    return Effect.succeed(briefs)
  })

const unchecked = { disableChecks: true }
const digits = /^-?\d+$/

const decodePending = (row: StoredRow): Effect.Effect<Pending, InventoryError> =>
  Effect.fromResult(
    Result.map(fromJson(String(row["entry"])), (entry) => ({ entry, token: String(row["token"]) }))
  ).pipe(Effect.mapError((detail) => damaged("pendings", detail)))

const decodeLocal = Effect.fnUntraced(function*({ pending, row }: StoredLocal) {
  return {
    row: row === undefined ? undefined : yield* decodeRow("look", row),
    pending: pending === undefined ? undefined : yield* decodePending(pending)
  }
})

const decodeCursor = Schema.decodeUnknownResult(Cursor)

const decodeProgress = (stored: StoredProgress): Effect.Effect<Progress, InventoryError> =>
  Effect.fromResult(Result.gen(function*() {
    const cursor = stored.cursor === undefined
      ? Option.none<Cursor>()
      : Option.some(
        yield* Result.mapError(decodeCursor(stored.cursor), (error) => damaged("progress", explain(error)))
      )
    const { owedBytes, owedFiles, unlinking, verifiedBytes, verifiedFiles } = stored.totals
    return {
      cursor,
      owed: { files: owedFiles, bytes: Number(owedBytes) },
      oldestOwed: Option.fromUndefinedOr(stored.oldestOwed),
      verified: { files: verifiedFiles, bytes: Number(verifiedBytes) },
      unlinking,
      verifiedThrough: Revision.make(verifiedThrough(stored.cursor?.revision, stored.lowestOwed))
    }
  }))
