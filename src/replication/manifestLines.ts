/** The manifest as lines of JSON, one entry each: out, and in. */
import { Effect, Predicate, Result, Schema, Stream } from "effect"
import * as ExactJson from "../ports/ExactJson.ts"
import * as FileEntry from "../ports/FileEntry.ts"
import { Conflict, EntryRefused, Gone, Manifest, type Refusal, type Unavailable } from "../ports/Manifest.ts"

/** Every entry of the manifest, as text, one line each. */
export const exportLines = Stream.unwrap(Effect.gen(function*() {
  const manifest = yield* Manifest
  const { pages } = yield* manifest.snapshot(1000)
  return Stream.map(pages, (files) => files.map(({ entry }) => `${FileEntry.toJson(entry)}\n`).join(""))
}))

/** A line that can't be imported. */
export const Wrong = Schema.Struct({
  /** Counted from 1. */
  line: Schema.Int,
  why: Schema.String
}).annotate({ identifier: "WrongLine" })
export interface Wrong extends Schema.Schema.Type<typeof Wrong> {}

/** What became of an import. */
export const Imported = Schema.Struct({
  /** Entries that are in the manifest now, those that were before included. */
  imported: Schema.Natural,
  /** The first thousand lines that are wrong or refused. */
  wrong: Schema.Array(Wrong),
  /** How many there are besides. */
  more: Schema.Natural
}).annotate({ identifier: "Imported" })
export interface Imported extends Schema.Schema.Type<typeof Imported> {}

/** Pure: what became of an import that left lines out, in a few words. */
export const outcome = ({ imported, more, wrong }: Imported): string => {
  const count = wrong.length + more
  const lines = count === 1 ? "1 line is wrong" : `${count} lines are wrong`
  return `${lines}; ${imported === 0 ? "nothing was imported" : `${imported} entries were imported`}`
}

const manyWrong = 1000

/** No entry is longer as a line, in bytes. */
const longestLine = 256 * 1024

/** What is registered together when the rest does not depend on it. */
const batch = { lines: 1000, bytes: 4 * 1024 * 1024 }

/** A line that is not empty, counted from 1: its text, or why it has none. */
interface Text {
  readonly line: number
  readonly text: Result.Result<string, string>
}

/** Lines as they come. Holds one line. */
const linesOf = <E, R>(bytes: Stream.Stream<Uint8Array, E, R>) =>
  Stream.suspend(() => {
    const decoder = new TextDecoder("utf-8", { fatal: true })
    let parts: Array<Uint8Array> = []
    let length = 0
    let line = 0
    const take = (part: Uint8Array) => {
      length += part.length
      if (length > longestLine) parts = []
      else if (part.length > 0) parts.push(part)
    }
    const end = (): ReadonlyArray<Text> => {
      line++
      if (length === 0) return []
      const bytes = Buffer.concat(parts)
      const text = length > longestLine
        ? Result.fail(`it is longer than ${longestLine} bytes`)
        : Result.try({ try: () => decoder.decode(bytes), catch: () => "it is not UTF-8" })
      parts = []
      length = 0
      return Result.isSuccess(text) && text.success.trim() === "" ? [] : [{ line, text }]
    }
    const split = (chunk: Uint8Array) => {
      const ended: Array<Text> = []
      let begin = 0
      for (let at = chunk.indexOf(10); at !== -1; at = chunk.indexOf(10, begin)) {
        take(chunk.subarray(begin, at))
        ended.push(...end())
        begin = at + 1
      }
      take(chunk.subarray(begin))
      return ended
    }
    return bytes.pipe(
      Stream.map(split),
      Stream.concat(Stream.fromEffect(Effect.sync(end))),
      Stream.flattenIterable
    )
  })

/** A log sequence number in a text, as answers over HTTP have those beyond 2^53. */
const withLsn = (value: unknown): unknown => {
  if (!Predicate.hasProperty(value, "lsn")) return value
  const { lsn } = value
  return typeof lsn === "string" && /^\d{1,20}$/.test(lsn) ? { ...value, lsn: BigInt(lsn) } : value
}

interface Line {
  readonly line: number
  readonly entry: FileEntry.FileEntry
}

/** Why a line is refused; a line that stands in the way of another is named by its number. */
const explain = (lines: ReadonlyArray<Line>) => {
  const byPath = new Map<string, Line>()
  for (const each of lines) if (!byPath.has(each.entry.path)) byPath.set(each.entry.path, each)
  return ({ entry, line }: Line, refusal: Refusal): Wrong => {
    const other = refusal._tag === "Conflict" ? byPath.get(refusal.standing.path) : undefined
    if (refusal._tag !== "Conflict" || other === undefined || !FileEntry.sameBytes(other.entry, refusal.standing)) {
      return { line, why: refusal.message }
    }
    return refusal.kind === "OtherBytes"
      ? { line, why: `${entry.path} has other bytes here than in line ${other.line}` }
      : { line, why: `${entry.path} and line ${other.line} would make one name a file and a folder` }
  }
}

/** The first of them, in order, and how many there are. */
const tally = () => {
  let first: Array<Wrong> = []
  let count = 0
  return {
    add: (wrong: ReadonlyArray<Wrong>) => {
      count += wrong.length
      const last = first[manyWrong - 1]
      if (last !== undefined && wrong.every(({ line }) => line > last.line)) return
      first = [...first, ...wrong].sort((a, b) => a.line - b.line).slice(0, manyWrong)
    },
    count: () => count,
    told: (imported: number): Imported => ({ imported, wrong: first, more: count - first.length })
  }
}

/**
 * Registers every entry of some lines; those that are registered already are fine. All or nothing: when a line is wrong
 * or refused nothing is registered, and all entries are held in memory. With `keepGoing` what is right is registered,
 * piece by piece.
 */
export const importLines = Effect.fn("importLines")(function*<E, R>(
  bytes: Stream.Stream<Uint8Array, E, R>,
  { keepGoing }: { readonly keepGoing: boolean }
): Effect.fn.Return<Imported, E | Unavailable, R | Manifest> {
  const manifest = yield* Manifest
  const wrong = tally()
  let right: Array<Line> = []
  let length = 0
  let imported = 0

  const register = Effect.gen(function*() {
    const entries = right.map(({ entry }) => entry)
    const answers = yield* keepGoing
      ? manifest.registerAll(entries)
      : wrong.count() > 0
      ? manifest.check(entries)
      : manifest.registerTogether(entries)
    const why = explain(right)
    const refused = right.flatMap((each, index) => {
      const answer = answers[index]
      const isRefusal = answer instanceof Conflict || answer instanceof Gone || answer instanceof EntryRefused
      return isRefusal ? [why(each, answer)] : []
    })
    wrong.add(refused)
    imported += entries.length - refused.length
    right = []
    length = 0
  })

  yield* linesOf(bytes).pipe(
    Stream.runForEach(({ line, text }) =>
      Effect.suspend(() => {
        const entry = text.pipe(
          Result.flatMap(ExactJson.parse),
          Result.flatMap((value) => FileEntry.fromValue(withLsn(value)))
        )
        if (Result.isFailure(entry)) {
          wrong.add([{ line, why: entry.failure }])
          return Effect.void
        }
        right.push({ line, entry: entry.success })
        length += Result.getOrElse(text, () => "").length
        const full = right.length >= batch.lines || length >= batch.bytes
        return keepGoing && full ? register : Effect.void
      })
    )
  )
  yield* register
  return wrong.told(keepGoing || wrong.count() === 0 ? imported : 0)
})
