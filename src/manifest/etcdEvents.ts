/**
 * Whether a cursor belongs to this history, and what came behind it.
 *
 * The cluster's id is not enough: a snapshot that is put back keeps it when the members start with the same flags, and
 * counts again from lower revisions. So the head, which every change writes, is looked at as of the cursor's revision:
 * it must have been written there, with the cursor's identity.
 */
import { Effect, Result, Schedule, Stream } from "effect"
import type { EtcdClient, Watched } from "../etcd/EtcdClient.ts"
import { EtcdError } from "../etcd/EtcdError.ts"
import type { Event, KeyValue } from "../etcd/messages.ts"
import { Revision } from "../ports/FileEntry.ts"
import { type Cursor, CursorLost, type EventBatch, type ManifestEvent } from "../ports/Manifest.ts"
import { type Damaged, fileOf, type Keys, partsOf, tombstoneOf } from "./etcdKeys.ts"
import { batchLimit } from "./follow.ts"

/** Where a watch goes on from a cursor, or why it can't. */
export type Standing =
  | { readonly _tag: "Stands"; readonly from: number }
  | { readonly _tag: "Lost"; readonly reason: CursorLost["reason"] }

/** How a watch begins again when its member is gone: at once, then slower, and with any event it counts anew. */
const again = Schedule.min([Schedule.exponential("20 millis"), Schedule.spaced("500 millis")]).pipe(
  Schedule.jittered,
  Schedule.upTo({ duration: "8 seconds" })
)

const epochChanged: Standing = { _tag: "Lost", reason: "EpochChanged" }
const compacted: Standing = { _tag: "Lost", reason: "Compacted" }

export const makeEvents = (client: EtcdClient["Service"], keys: Keys) => {
  const standing = Effect.fnUntraced(function*(
    cursor: Cursor
  ): Effect.fn.Return<Standing, Damaged | EtcdError> {
    const { header, kvs: [head] } = yield* client.range({ key: keys.head })
    if (epochOf(header) !== cursor.epoch) return epochChanged
    const behindNow: Standing = { _tag: "Stands", from: header.revision + 1 }
    if (cursor.revision === 0) {
      if (cursor.mark !== "") return epochChanged
      return head === undefined ? behindNow : yield* fromTheFirst(head.createRevision)
    }
    if (head === undefined || head.modRevision < cursor.revision) return epochChanged
    // Nothing has happened since, whatever is kept of the time between.
    if (head.modRevision === cursor.revision) return isAt(head, cursor) ? behindNow : epochChanged
    const then = yield* Effect.result(client.range({ key: keys.head, revision: cursor.revision }))
    if (Result.isSuccess(then)) {
      const [head] = then.success.kvs
      return head !== undefined && isAt(head, cursor) ? { _tag: "Stands", from: cursor.revision + 1 } : epochChanged
    }
    if (then.failure.reason === "FutureRevision") return epochChanged
    if (then.failure.reason !== "Compacted") return yield* then.failure
    return yield* fromTheOldest(cursor)
  })

  /** Where events begin for who has seen none: with the first change of all, if that is still kept. */
  const fromTheFirst = Effect.fnUntraced(function*(revision: number): Effect.fn.Return<Standing, EtcdError> {
    const first = yield* Effect.result(client.range({ key: keys.head, revision }))
    if (Result.isSuccess(first)) return { _tag: "Stands", from: revision }
    return first.failure.reason === "Compacted" ? compacted : yield* first.failure
  })

  /** For a cursor at a revision that is no longer kept: perhaps nothing of the manifest happened until one that is. */
  const fromTheOldest = Effect.fnUntraced(function*(cursor: Cursor): Effect.fn.Return<
    Standing,
    Damaged | EtcdError
  > {
    const oldest = yield* oldestBehind(cursor.revision)
    if (oldest !== undefined) {
      const [head] = (yield* client.range({ key: keys.head, revision: oldest })).kvs
      if (head !== undefined && isAt(head, cursor)) return { _tag: "Stands", from: oldest + 1 }
    }
    return (yield* isRemembered(cursor)) ? compacted : epochChanged
  })

  /** The oldest revision that is kept, as a watch from an older one says it. */
  const oldestBehind = Effect.fnUntraced(function*(startRevision: number) {
    const { changes } = yield* client.watch({ key: keys.head, rangeEnd: `${keys.head}\0`, startRevision })
    const end = yield* Effect.result(Stream.runDrain(Stream.take(changes, 1)))
    return Result.isFailure(end) && end.failure.reason === "Compacted" ? end.failure.compactedTo : undefined
  }, Effect.scoped)

  /**
   * Whether the change at a cursor has left a trace: its file, its tombstone, or the tombstone over its file. Without
   * one nobody can tell whether that change was ever part of this history.
   */
  const isRemembered = Effect.fnUntraced(function*(cursor: Cursor): Effect.fn.Return<boolean, Damaged | EtcdError> {
    const { mark, path } = partsOf(cursor.mark)
    const [file] = (yield* client.range({ key: keys.file(path) })).kvs
    const [tombstone] = (yield* client.range({ key: keys.tombstone(path) })).kvs
    const traces: Array<{ readonly revision: Revision; readonly mark: string }> = []
    if (file !== undefined) traces.push(yield* Effect.fromResult(fileOf(file)))
    if (tombstone !== undefined) {
      const value = yield* Effect.fromResult(tombstoneOf(tombstone))
      traces.push(value, ...(value.buried === undefined ? [] : [value.buried]))
    }
    return traces.some((trace) => trace.revision === cursor.revision && trace.mark === mark)
  })

  /** One watch, on one member, behind a cursor. */
  const watching = Effect.fnUntraced(function*(cursor: Cursor) {
    const before = yield* standing(cursor)
    if (before._tag === "Lost") return yield* new CursorLost({ reason: before.reason })
    const watch = yield* client.watch({ ...keys.all, startRevision: before.from })
    // Asked once more: from here on the member holds the watch, and another history can't slip in before it.
    const after = yield* standing(cursor)
    if (after._tag === "Lost") return yield* new CursorLost({ reason: after.reason })
    const { epoch } = cursor
    return changesOf(watch.changes).pipe(
      Stream.mapEffect((changes) => Effect.fromResult(batchOf(epoch, keys, changes))),
      Stream.flatMap((batch) => (batch === undefined ? Stream.empty : Stream.succeed(batch)))
    )
  })

  const events = (after: Cursor): Stream.Stream<EventBatch, CursorLost | Damaged | EtcdError> =>
    Stream.suspend(() => {
      let cursor = after
      return Stream.unwrap(Effect.suspend(() => watching(cursor))).pipe(
        Stream.tap((batch) =>
          Effect.sync(() => {
            cursor = batch.cursor
          })
        ),
        Stream.retry(
          Schedule.while(again, ({ input }) =>
            // A compaction that came between the question and the watch: the question answers it.
            input instanceof EtcdError && ["Unreachable", "TokenExpired", "Compacted"].includes(input.reason))
        )
      )
    })

  return { standing, events }
}

export const epochOf = (header: { readonly clusterId: bigint }): string => header.clusterId.toString(16)

const isAt = (head: KeyValue, cursor: Cursor): boolean =>
  head.modRevision === cursor.revision && head.value.toString("utf8") === cursor.mark

/** Everything that happened at one revision. */
type Change = ReadonlyArray<Event>

/** Whole changes, in groups of about {@link batchLimit} events. */
const changesOf = <E>(watched: Stream.Stream<Watched, E>): Stream.Stream<ReadonlyArray<Change>, E> =>
  watched.pipe(
    Stream.mapAccum(
      (): Array<Event> => [],
      (open, { complete, events }) => {
        const changes: Array<Change> = []
        let current = open
        for (const event of events) {
          const [first] = current
          if (first !== undefined && first.kv.modRevision !== event.kv.modRevision) {
            changes.push(current)
            current = []
          }
          current.push(event)
        }
        if (complete && current.length > 0) {
          changes.push(current)
          current = []
        }
        return [current, inGroups(changes)]
      }
    )
  )

const inGroups = (changes: ReadonlyArray<Change>): ReadonlyArray<ReadonlyArray<Change>> => {
  const groups: Array<Array<Change>> = []
  let size = batchLimit
  for (const change of changes) {
    if (size >= batchLimit) {
      groups.push([])
      size = 0
    }
    groups.at(-1)?.push(change)
    size += change.length
  }
  return groups
}

/** `undefined` when nothing of it was a change of the manifest: tombstones that were collected make no event. */
const batchOf = (
  epoch: string,
  keys: Keys,
  changes: ReadonlyArray<Change>
): Result.Result<EventBatch | undefined, Damaged> => {
  const events: Array<ManifestEvent> = []
  let cursor: Cursor | undefined
  for (const change of changes) {
    const head = change.find(({ kv, type }) => type === "PUT" && keys.kindOf(kv.key) === "head")
    // Not written by a manifest: it has no place in its history. The next walk finds what it did.
    if (head === undefined) continue
    for (const { kv, type } of change) {
      if (type === "DELETE") continue
      const kind = keys.kindOf(kv.key)
      if (kind === "file") {
        const file = fileOf(kv)
        if (Result.isFailure(file)) return Result.fail(file.failure)
        const { entry, revision } = file.success
        events.push({ _tag: "Put", file: { entry, revision } })
      } else if (kind === "tombstone") {
        const tombstone = tombstoneOf(kv)
        if (Result.isFailure(tombstone)) return Result.fail(tombstone.failure)
        const { path, reason, revision } = tombstone.success
        events.push({ _tag: "Removed", path, revision, reason })
      }
    }
    cursor = { epoch, revision: Revision.make(head.kv.modRevision), mark: head.kv.value.toString("utf8") }
  }
  return Result.succeed(cursor === undefined ? undefined : { cursor, events })
}
