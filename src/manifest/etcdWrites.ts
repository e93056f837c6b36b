/**
 * Changes of a manifest in etcd: read what the change can meet, decide, and write in one transaction that succeeds only
 * if nothing of what was read has changed. When it has, somebody was first: read again.
 *
 * A lost answer is not told from a lost race: what was written is then found standing, and that is the answer.
 */
import { Clock, Effect, Schedule, Schema } from "effect"
import { randomBytes } from "node:crypto"
import type { EtcdClient } from "../etcd/EtcdClient.ts"
import type { EtcdError } from "../etcd/EtcdError.ts"
import type { Compare, Operation, Range, RangeAnswer } from "../etcd/messages.ts"
import { type FileEntry, Revision } from "../ports/FileEntry.ts"
import { folders } from "../ports/FilePath.ts"
import { Unavailable } from "../ports/Manifest.ts"
import { type Draft, makeDraft, type Removal, type View, type Write } from "./etcdDraft.ts"
import {
  type Damaged,
  fileOf,
  fileValue,
  identityOf,
  type Keys,
  type StandingFile,
  type Tombstone,
  tombstoneOf,
  tombstoneValue
} from "./etcdKeys.ts"

/** What etcd takes in one transaction, operations and comparisons alike, counted along a path through nested ones. */
export const transactionLimit = 128

/** Of a nested transaction; one of {@link transactionLimit} then has room for 27 of them and the head. */
const nestedLimit = 100

/** Writes, and bytes of them, in one transaction; etcd refuses a request over 1.5 MiB. */
const writeLimit = 1000
const byteLimit = 1024 * 1024

/** Reads of one change, or of many paths, under way at once. */
export const readsAtOnce = 4

/** Files that a change adds, and what it removes. */
export interface Parts {
  readonly add: ReadonlyArray<FileEntry>
  readonly remove: ReadonlyArray<Removal>
}

/** Another writer was first. */
class Overtaken extends Schema.TaggedError<Overtaken>()("Overtaken", {}) {}

/** For whom others are always first, after a while. */
const overtakenAgain = Schedule.min([Schedule.exponential("1 millis"), Schedule.spaced("50 millis")]).pipe(
  Schedule.jittered,
  Schedule.upTo({ duration: "10 seconds" })
)

export interface Writes {
  /** What the change would meet now. */
  readonly draft: (parts: Parts) => Effect.Effect<Draft, Damaged | EtcdError>
  /**
   * Makes a change of at most {@link writeLimit} writes, all of it or nothing. `decide` gives its answer, and whether
   * to write what it has drafted. `revision` is where it was written, the head when nothing was.
   */
  readonly change: <A>(
    parts: Parts,
    decide: (draft: Draft) => { readonly answer: A; readonly write: boolean }
  ) => Effect.Effect<{ readonly answer: A; readonly revision: Revision }, Damaged | EtcdError | Unavailable>
  /**
   * A change of any length. It is drafted as a whole, and written piece by piece, each only if nobody else has changed
   * anything since; otherwise the rest is drafted again. `written`: how many writes were made before `decide` declined.
   */
  readonly long: <A>(
    parts: Parts,
    decide: (draft: Draft) => { readonly answer: A; readonly write: boolean }
  ) => Effect.Effect<{ readonly answer: A; readonly written: number }, Damaged | EtcdError | Unavailable>
}

export const make = (client: EtcdClient["Service"], keys: Keys): Writes => {
  const read = Effect.fnUntraced(function*(parts: Parts) {
    const ranges = rangesOf(parts, keys)
    const ask = Effect.fnUntraced(function*(some: ReadonlyArray<Range>) {
      const success = some.map((range): Operation => ({ _tag: "Range", range }))
      const { header, responses } = yield* client.txn({ success })
      return { header, answers: responses.flatMap((one) => (one._tag === "Range" ? [one.range] : [])) }
    })
    const first = yield* ask([{ key: keys.head }, ...ranges.slice(0, transactionLimit - 1)])
    // All as of one moment, whatever happens meanwhile.
    const { revision } = first.header
    const rest = yield* Effect.forEach(
      pieces(ranges.slice(transactionLimit - 1), transactionLimit),
      (some) => ask(some.map((range) => ({ ...range, revision }))),
      { concurrency: readsAtOnce }
    )
    const answers = [first, ...rest].flatMap((one) => one.answers)
    return yield* viewOf(keys, ranges, answers)
  })

  const write = Effect.fnUntraced(function*(writes: ReadonlyArray<Write>, guards: ReadonlyArray<Compare>) {
    const mark = randomBytes(9).toString("base64url")
    const at = yield* Clock.currentTimeMillis
    const operations = writes.flatMap((one) => operationsOf(one, keys, mark, at))
    const last = writes.at(-1)
    const lastPath = last === undefined ? "" : last._tag === "Add" ? last.entry.path : last.removal.path
    const head: Operation = { _tag: "Put", put: { key: keys.head, value: identityOf(mark, lastPath) } }
    const flat = operations.length < transactionLimit
    const success = flat ? operations : pieces(operations, nestedLimit).map((success): Operation => ({
      _tag: "Txn",
      txn: { success }
    }))
    const { header, succeeded } = yield* client.txn({ compare: guards, success: [...success, head] })
    return succeeded ? Revision.make(header.revision) : yield* new Overtaken()
  })

  const headIs = (head: Revision): Compare => ({ key: keys.head, target: "MOD", result: "EQUAL", value: head })

  const patiently = <A>(
    attempt: Effect.Effect<A, Damaged | EtcdError | Overtaken>
  ): Effect.Effect<A, Damaged | EtcdError | Unavailable> =>
    attempt.pipe(
      Effect.retry({ schedule: overtakenAgain, while: (error) => error._tag === "Overtaken" }),
      Effect.catchTag("Overtaken", () =>
        Effect.fail(
          new Unavailable({ operation: "write", detail: "other writers were first, again and again; try later" })
        ))
    )

  return {
    draft: (parts) => Effect.map(read(parts), (view) => makeDraft(view, keys)),
    change: (parts, decide) =>
      patiently(Effect.gen(function*() {
        const view = yield* read(parts)
        const draft = makeDraft(view, keys)
        const { answer, write: wanted } = decide(draft)
        if (!wanted || draft.writes.length === 0) return { answer, revision: view.head }
        const guards = draft.guards()
        const fits = guards !== undefined && guards.length <= transactionLimit
          && 2 * draft.writes.length < transactionLimit
        return { answer, revision: yield* write(draft.writes, fits ? guards : [headIs(view.head)]) }
      })),
    long: (parts, decide) =>
      Effect.suspend(() => {
        let written = 0
        return patiently(Effect.gen(function*() {
          const view = yield* read(parts)
          const draft = makeDraft(view, keys)
          const { answer, write: wanted } = decide(draft)
          if (!wanted) return { answer, written }
          let head = view.head
          for (const piece of inPieces(draft.writes)) {
            head = yield* write(piece, [headIs(head)])
            written += piece.length
          }
          return { answer, written }
        }))
      })
  }
}

/** Everything that is looked at for a change, each once. */
const rangesOf = ({ add, remove }: Parts, keys: Keys): ReadonlyArray<Range> => {
  const paths = new Set<string>()
  const tombstones = new Set<string>()
  const removedBelow = new Map<string, number>()
  for (const { path } of remove) {
    paths.add(path)
    tombstones.add(path)
    for (const folder of folders(path)) removedBelow.set(folder, (removedBelow.get(folder) ?? 0) + 1)
  }
  for (const { path } of add) {
    paths.add(path)
    tombstones.add(path)
    for (const folder of folders(path)) paths.add(folder)
  }
  return [
    ...[...paths].map((path): Range => ({ key: keys.file(path) })),
    ...[...tombstones].map((path): Range => ({ key: keys.tombstone(path) })),
    ...[...new Set(add.map(({ path }) => path))].map((path): Range => ({
      key: keys.file(`${path}/`),
      rangeEnd: keys.file(`${path}0`),
      limit: (removedBelow.get(path) ?? 0) + 1
    }))
  ]
}

const viewOf = Effect.fnUntraced(function*(
  keys: Keys,
  ranges: ReadonlyArray<Range>,
  answers: ReadonlyArray<RangeAnswer>
): Effect.fn.Return<View, Damaged> {
  const files = new Map<string, StandingFile>()
  const tombstones = new Map<string, Tombstone>()
  const below = new Map<string, ReadonlyArray<StandingFile>>()
  for (const [index, range] of ranges.entries()) {
    const kvs = answers[index + 1]?.kvs ?? []
    const [kv] = kvs
    if (kv === undefined) continue
    if (range.rangeEnd !== undefined) {
      below.set(range.key, yield* Effect.forEach(kvs, (kv) => Effect.fromResult(fileOf(kv))))
    } else if (keys.kindOf(range.key) === "file") files.set(range.key, yield* Effect.fromResult(fileOf(kv)))
    else tombstones.set(range.key, yield* Effect.fromResult(tombstoneOf(kv)))
  }
  return {
    head: Revision.make(answers[0]?.kvs[0]?.modRevision ?? 0),
    file: (path) => files.get(keys.file(path)),
    tombstone: (path) => tombstones.get(keys.tombstone(path)),
    below: (path) => below.get(keys.file(`${path}/`)) ?? []
  }
})

const operationsOf = (one: Write, keys: Keys, mark: string, at: number): ReadonlyArray<Operation> => {
  if (one._tag === "Add") {
    return [{ _tag: "Put", put: { key: keys.file(one.entry.path), value: fileValue(mark, one.entry) } }]
  }
  const { buried, removal: { path, reason } } = one
  const before = buried === undefined ? {} : { buried: { revision: buried.revision, mark: buried.mark } }
  return [
    { _tag: "Delete", delete: { key: keys.file(path) } },
    { _tag: "Put", put: { key: keys.tombstone(path), value: tombstoneValue({ mark, path, reason, at, ...before }) } }
  ]
}

export const pieces = <A>(all: ReadonlyArray<A>, size: number): ReadonlyArray<ReadonlyArray<A>> =>
  Array.from({ length: Math.ceil(all.length / size) }, (_, index) => all.slice(index * size, (index + 1) * size))

/** What an entry takes in a request, bytes. */
const weight = (entry: FileEntry): number =>
  Buffer.byteLength(fileValue("0123456789ab", entry)) + Buffer.byteLength(entry.path) + 100

const inPieces = (writes: ReadonlyArray<Write>): ReadonlyArray<ReadonlyArray<Write>> =>
  grouped(writes, (one) => (one._tag === "Add" ? weight(one.entry) : 500), byteLimit, writeLimit)

/** Entries in groups of which each is one change with few enough comparisons. */
export const inChanges = (entries: ReadonlyArray<FileEntry>): ReadonlyArray<ReadonlyArray<FileEntry>> => {
  const changes: Array<Array<FileEntry>> = []
  let current: Array<FileEntry> = []
  let compared = new Set<string>()
  let bytes = 0
  for (const entry of entries) {
    const more = [...folders(entry.path), entry.path].filter((path) => !compared.has(path))
    // A file is compared with a folder of its name and with a tombstone besides.
    const comparisons = compared.size + 2 * current.length + more.length + 2
    if (current.length > 0 && (comparisons > transactionLimit || bytes + weight(entry) > byteLimit)) {
      changes.push(current)
      current = []
      compared = new Set()
      bytes = 0
    }
    current.push(entry)
    for (const path of [...folders(entry.path), entry.path]) compared.add(path)
    bytes += weight(entry)
  }
  if (current.length > 0) changes.push(current)
  return changes
}

const grouped = <A>(
  all: ReadonlyArray<A>,
  weigh: (one: A) => number,
  heaviest: number,
  most: number
): ReadonlyArray<ReadonlyArray<A>> => {
  const groups: Array<Array<A>> = []
  let current: Array<A> = []
  let total = 0
  for (const one of all) {
    if (current.length > 0 && (current.length >= most || total + weigh(one) > heaviest)) {
      groups.push(current)
      current = []
      total = 0
    }
    current.push(one)
    total += weigh(one)
  }
  if (current.length > 0) groups.push(current)
  return groups
}
