/** The inventory in memory, for tests and for nodes that hash everything at each start. */
import { Clock, Effect, Layer, Option, PubSub, Result, Stream } from "effect"
import type { FileEntry, Registered } from "../ports/FileEntry.ts"
import { Revision } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { isGiant } from "../ports/giant.ts"
import {
  type Brief,
  type Change,
  Inventory,
  type Owed,
  type Pending,
  type Progress,
  type Row,
  type Unlinking
} from "../ports/Inventory.ts"
import type { Cursor } from "../ports/Manifest.ts"
import { leftNote } from "../ports/notes.ts"
import {
  noTotals,
  onForget,
  onOwe,
  onRelease,
  onSettle,
  recount,
  type Standing,
  verifiedThrough
} from "./transition.ts"

/** A fresh, empty inventory. */
export const layer: Layer.Layer<Inventory> = Layer.effect(
  Inventory,
  Effect.map(PubSub.sliding<void>(1), (written) => make(written))
)

const bytesOf = (entry: FileEntry) => ({ sha256: entry.sha256, size: entry.size_bytes })

const standingOf = (row: Row | undefined): Standing => {
  switch (row?._tag) {
    case undefined:
      return { _tag: "Absent" }
    case "Owed":
    case "Verified":
      return { _tag: row._tag, revision: row.file.revision, bytes: bytesOf(row.file.entry) }
    case "Unlinking":
      return { _tag: "Unlinking", revision: row.revision }
  }
}

const atRevision = <R extends Row>(row: R, revision: Revision): R =>
  row._tag === "Unlinking" ? { ...row, revision } : { ...row, file: { entry: row.file.entry, revision } }

const briefOf = (row: Row): Brief => {
  switch (row._tag) {
    case "Owed":
    case "Verified": {
      const { entry, revision } = row.file
      const { inode, mtime } = row._tag === "Verified" ? row.held : { mtime: 0n, inode: 0n }
      return { path: entry.path, state: row._tag, revision, size: entry.size_bytes, mtime, inode }
    }
    case "Unlinking":
      return { path: row.path, state: "Unlinking", revision: row.revision, size: 0, mtime: 0n, inode: 0n }
  }
}

const inBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b))

const pathOf = (row: Row): FilePath => row._tag === "Unlinking" ? row.path : row.file.entry.path
const revisionOf = (row: Owed | Unlinking): number => row._tag === "Owed" ? row.file.revision : row.revision

const make = (written: PubSub.PubSub<void>): Inventory["Service"] => {
  const rows = new Map<FilePath, Row>()
  // The rows that have a time to act, beside the many that only rest.
  const debts = new Map<FilePath, Owed | Unlinking>()
  const pendings = new Map<FilePath, Pending>()
  const notes = new Map<string, string>()
  let totals = noTotals
  let cursor = Option.none<Cursor>()

  const set = (path: FilePath, row: Row | undefined): void => {
    totals = recount(totals, standingOf(rows.get(path)), standingOf(row))
    if (row === undefined) rows.delete(path)
    else rows.set(path, row)
    if (row === undefined || row._tag === "Verified") debts.delete(path)
    else debts.set(path, row)
  }

  const change = (change: Change, now: number): void => {
    if (change._tag === "Owe") {
      const { due, file, reason } = change
      const row = rows.get(file.entry.path)
      switch (onOwe(standingOf(row), file.revision, bytesOf(file.entry))._tag) {
        case "Owe":
          return set(file.entry.path, {
            _tag: "Owed",
            file,
            since: now,
            rounds: 0,
            due: Math.ceil(due),
            reason,
            answers: []
          })
        case "Renew":
          if (row === undefined || row._tag === "Unlinking") return
          return set(
            file.entry.path,
            row._tag === "Owed" ? { ...row, file, due: Math.min(row.due, Math.ceil(due)) } : { ...row, file }
          )
        case "Keep":
        case "Unlink":
          return
      }
    }
    if (change._tag === "NewHistory") {
      for (const [path, row] of rows) set(path, atRevision(row, Revision.make(0)))
      cursor = Option.none()
      return
    }
    if (change._tag === "Release") {
      if (!onRelease(standingOf(rows.get(change.path)))) return
      notes.set(leftNote(change.path), "another history of the manifest does not know it")
      return set(change.path, undefined)
    }
    if (change._tag === "Lost") {
      const { due, held, path, reason } = change
      const row = rows.get(path)
      if (row?._tag !== "Verified" || row.held.inode !== held.inode || row.held.mtime !== held.mtime) return
      return set(path, {
        _tag: "Owed",
        file: row.file,
        since: now,
        rounds: 0,
        due: Math.ceil(due),
        reason,
        answers: []
      })
    }
    const { due, path, revision } = change
    if (onForget(standingOf(rows.get(path)), pendings.has(path), revision)._tag !== "Unlink") return
    pendings.delete(path)
    set(path, { _tag: "Unlinking", path, revision, due: Math.ceil(due) })
  }

  const settle = (file: Registered, held: Parameters<Inventory["Service"]["settle"]>[1]): boolean => {
    const path = file.entry.path
    const row = rows.get(path)
    const pending = pendings.get(path)
    const settlement = onSettle(
      standingOf(row),
      pending === undefined ? undefined : bytesOf(pending.entry),
      { revision: file.revision, bytes: bytesOf(file.entry) },
      held
    )
    if (settlement._tag === "Refuse") return false
    const known = settlement._tag === "Verify" || row === undefined || row._tag === "Unlinking" ? file : row.file
    set(path, { _tag: "Verified", file: known, held })
    pendings.delete(path)
    return true
  }

  // A pending file is finished by whoever wrote it.
  const waiting = () =>
    Array.from(debts.values()).filter((row) => row._tag === "Unlinking" || !pendings.has(pathOf(row)))

  const due = (now: number) =>
    waiting().filter((row) => row.due <= now).sort((a, b) => a.due - b.due || revisionOf(a) - revisionOf(b))

  const page = (after: Option.Option<FilePath>, limit: number): Array<Row> => {
    const from = Option.getOrElse(after, () => "")
    return Array.from(rows.values()).filter((row) => inBytes(pathOf(row), from) > 0)
      .sort((a, b) => inBytes(pathOf(a), pathOf(b)))
      .slice(0, limit)
  }

  const write = <A>(body: () => A): Effect.Effect<A> =>
    Effect.tap(Effect.sync(body), () => PubSub.publish(written, undefined))

  const progress = Effect.sync((): Progress => {
    const owed = Array.from(debts.values()).filter((row) => row._tag === "Owed")
    const lowest = owed.reduce((least, row) => Math.min(least, row.file.revision), Infinity)
    const oldest = owed.reduce((least, row) => Math.min(least, row.since), Infinity)
    const reached = Option.getOrUndefined(cursor)?.revision
    return {
      cursor,
      owed: { files: totals.owedFiles, bytes: Number(totals.owedBytes) },
      oldestOwed: owed.length === 0 ? Option.none() : Option.some(oldest),
      verified: { files: totals.verifiedFiles, bytes: Number(totals.verifiedBytes) },
      unlinking: totals.unlinking,
      verifiedThrough: Revision.make(verifiedThrough(reached, owed.length === 0 ? undefined : lowest))
    }
  })

  return {
    apply: Effect.fnUntraced(function*(changes, next) {
      const now = yield* Clock.currentTimeMillis
      yield* write(() => {
        for (const each of changes) change(each, now)
        if (next !== undefined) cursor = Option.some(next)
      })
    }),
    pend: (pending) => write(() => void pendings.set(pending.entry.path, pending)),
    unpend: (path) => write(() => void pendings.delete(path)),
    pendings: Effect.sync(() => Array.from(pendings.values())),
    settle: (file, held) => write(() => settle(file, held)),
    settleTogether: (settlements) =>
      write(() => settlements.map(({ file, held }) => Result.succeed(settle(file, held)))),
    unlinked: (path, revision) =>
      write(() => {
        const row = rows.get(path)
        if (row?._tag === "Unlinking" && row.revision === revision) set(path, undefined)
      }),
    look: (paths) => Effect.sync(() => paths.map((path) => ({ row: rows.get(path), pending: pendings.get(path) }))),
    why: (path) => Effect.sync(() => Option.fromUndefinedOr(rows.get(path))),
    verified: (path) =>
      Effect.sync(() => Option.filter(Option.fromUndefinedOr(rows.get(path)), (row) => row._tag === "Verified")),
    due: (now, limit, inHand = []) =>
      Effect.sync(() => {
        const known = new Map(inHand.map(({ entry, revision }) => [entry.path, revision]))
        const owed = due(now).filter((row) => row._tag === "Owed")
          .filter(({ file }) => known.get(file.entry.path) !== file.revision)
        const fresh = owed.filter(({ rounds }) => rounds === 0).sort((a, b) => b.file.revision - a.file.revision)
        const small = fresh.filter(({ file }) => !isGiant(file.entry.size_bytes))
        const giant = fresh.filter(({ file }) => isGiant(file.entry.size_bytes))
        const again = owed.filter(({ rounds }) => rounds > 0)
        return [small, giant, again].flatMap((rows) => rows.slice(0, limit))
      }),
    dueUnlinks: (now, limit) => Effect.sync(() => due(now).filter((row) => row._tag === "Unlinking").slice(0, limit)),
    nextDue: (now) =>
      Effect.sync(() => {
        const next = waiting().reduce(
          (least, { due }) => due > now ? Math.min(least, due) : least,
          Infinity
        )
        return next === Infinity ? Option.none() : Option.some(next)
      }),
    postpone: ({ entry, revision }, due, reason, answers) =>
      write(() => {
        const row = rows.get(entry.path)
        if (row?._tag !== "Owed" || row.file.revision !== revision) return
        set(entry.path, { ...row, rounds: row.rounds + 1, due: Math.ceil(due), reason, answers })
      }),
    rearm: ({ behind, from, limit, until }) =>
      Effect.sync(() => {
        const found = Array.from(debts.values())
          .filter((row) => row._tag === "Owed")
          .filter((row) => row.due > behind)
          .sort((a, b) => a.due - b.due || a.file.revision - b.file.revision)
          .slice(0, limit)
        for (const [n, row] of found.entries()) {
          set(row.file.entry.path, { ...row, due: Math.floor(from + (until - from) * n / found.length) })
        }
        return found.length
      }),
    page: (after, limit) => Effect.sync(() => page(after, limit)),
    briefs: (after, limit) => Effect.sync(() => page(after, limit).map(briefOf)),
    unknown: (paths) => Effect.sync(() => paths.filter((path) => !rows.has(path) && !pendings.has(path))),
    recall: (name) => Effect.sync(() => Option.fromUndefinedOr(notes.get(name))),
    remember: (name, text) =>
      Effect.sync(() => void (Option.isSome(text) ? notes.set(name, text.value) : notes.delete(name))),
    progress,
    orphans: Effect.sync(() =>
      Option.isNone(cursor)
        ? 0
        : Array.from(rows.values()).filter((row) => row._tag === "Verified" && row.file.revision === 0).length
    ),
    failed: Effect.sync(() => Array.from(debts.values()).filter((row) => row._tag === "Owed" && row.rounds > 0).length),
    changes: Stream.unwrap(Effect.map(
      PubSub.subscribe(written),
      (signals) =>
        Stream.concat(Stream.succeed(undefined), Stream.fromSubscription(signals)).pipe(
          Stream.mapEffect(() => progress)
        )
    ))
  }
}
