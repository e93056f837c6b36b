/**
 * Takes points in, and publishes them as Parquet files: when there are enough of them, when they have waited long
 * enough, or when somebody asks.
 */
import {
  Clock,
  Context,
  Duration,
  Effect,
  FileSystem,
  Layer,
  Option,
  type PlatformError,
  Queue,
  Schema,
  Semaphore
} from "effect"
import { Registrar } from "effect-file-replication"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { setImmediate } from "node:timers/promises"
import { type DuckFailed, writeParquet } from "./Duck.ts"
import { parseInTurns, type Point, type Precision } from "./lineProtocol.ts"
import { extend, type Kind, type Known, maxName, partitionsOf } from "./partitions.ts"
import * as Wal from "./Wal.ts"

/** The request has lines that are wrong. Nothing of it was taken. */
export class Rejected extends Schema.TaggedError<Rejected>()("Rejected", {
  errors: Schema.Array(Schema.Struct({ line: Schema.Int, reason: Schema.String }))
}) {
  override get message(): string {
    const named = this.errors.map(({ line, reason }) => `line ${line}: ${reason}`).join("; ")
    return `nothing of this request was written: ${named}`
  }
}

/** More waits to be flushed than may. */
export class Busy extends Schema.TaggedError<Busy>()("Busy", { points: Schema.Int, bytes: Schema.Int }) {
  override get message(): string {
    return `${this.points} points of ${this.bytes} bytes wait to be flushed, which is enough; try again`
  }
}

/** One request is more than may ever wait. */
export class TooLarge extends Schema.TaggedError<TooLarge>()("TooLarge", { points: Schema.Int, bytes: Schema.Int }) {
  override get message(): string {
    return `a request may have ${this.points} points and ${this.bytes} bytes; split it`
  }
}

/** Segments that can't be published, now or later: their points are kept on this disk, and in no file. */
export class SetAside extends Schema.TaggedError<SetAside>()("SetAside", { segments: Schema.Array(Schema.String) }) {
  override get message(): string {
    const files = this.segments.map((segment) => `${segment}.aside`).join(", ")
    return `all else was published, but these points can't be, and are kept aside: ${files}; the log says why`
  }
}

type PublishError = DuckFailed | Wal.WalFailed | Registrar.PublishError | PlatformError.PlatformError
export type FlushError = PublishError | SetAside

/** Whether the same segment may well be published later: it is the disk, the memory or the manifest that failed. */
export const passes = (error: PublishError): boolean => {
  switch (error._tag) {
    case "InvalidEntry":
    case "Conflict":
    case "Gone":
      return false
    case "DuckFailed":
      return /^(IO|Out of Memory) Error/.test(error.detail)
    case "BackendError":
      return error.reason !== "Unsafe"
    default:
      return true
  }
}

export class Ingest extends Context.Service<Ingest, {
  /** Durable on this disk when it succeeds; all of the request or nothing. Gives how many points. */
  readonly write: (
    database: string,
    precision: Precision,
    lines: string
  ) => Effect.Effect<number, Rejected | Busy | TooLarge | Wal.WalFailed>
  /** Publishes all that was taken before. Gives how many files. What can't ever be published is in nothing's way. */
  readonly flush: Effect.Effect<number, FlushError>
}>()("timeseries/Ingest") {}

export interface IngestOptions {
  /** For the log, the columns that are known, and files that are being made. Not the data folder. */
  readonly folder: string
  readonly flushPoints: number
  /** Of lines, as all bytes here. */
  readonly flushBytes: number
  readonly flushMillis: number
  /** What may wait. */
  readonly maxPoints: number
  readonly maxBytes: number
}

/** The columns of each measurement, as they are kept. */
const Schemas = Schema.fromJsonString(
  Schema.Array(Schema.Struct({
    database: Schema.String,
    measurement: Schema.String,
    columns: Schema.Array(Schema.Struct({ name: Schema.String, kind: Schema.String }))
  }))
)
const kinds: ReadonlyArray<Kind> = ["tag", "DOUBLE", "BIGINT", "UBIGINT", "VARCHAR", "BOOLEAN"]
const key = (database: string, measurement: string) => `${database}/${measurement.toLowerCase()}`

interface Segment {
  readonly segment: string
  readonly databases: ReadonlyMap<string, ReadonlyArray<Point>>
  readonly size: Size
}

/** How much it is. */
interface Size {
  readonly points: number
  readonly bytes: number
}
const nothing: Size = { points: 0, bytes: 0 }
const plus = (one: Size, other: Size): Size => ({
  points: one.points + other.points,
  bytes: one.bytes + other.bytes
})
const minus = (one: Size, other: Size): Size => ({
  points: one.points - other.points,
  bytes: one.bytes - other.bytes
})

export const layer = (
  options: IngestOptions
): Layer.Layer<Ingest, Wal.WalFailed | PlatformError.PlatformError, Registrar.Registrar | FileSystem.FileSystem> =>
  Layer.effect(
    Ingest,
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      const fs = yield* FileSystem.FileSystem
      const { left, wal } = yield* Wal.make(options.folder)
      // What a crash left half made.
      yield* Effect.forEach(
        (yield* fs.readDirectory(options.folder)).filter((name) => /\.parquet(\.tmp)?$/.test(name)),
        (name) => fs.remove(join(options.folder, name), { recursive: true })
      )
      const known = yield* readKnown(options.folder)
      const turn = yield* Semaphore.make(1)
      const flushing = yield* Semaphore.make(1)
      const wake = yield* Queue.sliding<void>(1)
      let buffer = new Map<string, Array<Point>>()
      // What is in the buffer; and with it what is in closed segments.
      let waiting = nothing
      let unpublished = nothing
      // Closed segments that are not published yet, oldest first.
      const closed: Array<Segment> = []

      // -----------------------------------------------------------------------
      // In
      // -----------------------------------------------------------------------

      const take = (database: string, points: ReadonlyArray<Point>, size: Size) => {
        const mine = buffer.get(database) ?? []
        for (const point of points) mine.push(point)
        buffer.set(database, mine)
        waiting = plus(waiting, size)
        unpublished = plus(unpublished, size)
      }

      const isOver = ({ bytes, points }: Size) => points > options.maxPoints || bytes > options.maxBytes

      const write = Effect.fn("Ingest.write")(function*(database: string, precision: Precision, lines: string) {
        const now = BigInt(yield* Clock.currentTimeMillis) * 1_000_000n
        const bytes = Buffer.byteLength(lines)
        const room = Effect.fnUntraced(function*(size: Size) {
          if (isOver(size)) return yield* new TooLarge({ points: options.maxPoints, bytes: options.maxBytes })
          if (!isOver(plus(unpublished, size))) return
          yield* Queue.offer(wake, undefined)
          return yield* new Busy(unpublished)
        })
        // Nothing is parsed that there is no room for, and no more points than may ever wait.
        yield* room({ points: 0, bytes })
        const { errors, points } = yield* read(lines, precision, now, options.maxPoints + 1)
        if (errors.length > 0) return yield* new Rejected({ errors })
        if (points.length === 0) return 0
        const size = { points: points.length, bytes }
        yield* room(size)
        const grown = new Map<string, Known>()
        for (const [n, point] of points.entries()) {
          if (n % 1000 === 999) yield* others
          const at = key(database, point.measurement)
          const after = extend(grown.get(at) ?? known.get(at), point)
          if (typeof after === "string") return yield* new Rejected({ errors: [{ line: point.line, reason: after }] })
          if (encodeURIComponent(point.measurement).length > maxName) {
            const reason = `the name of the measurement "${point.measurement}" is too long`
            return yield* new Rejected({ errors: [{ line: point.line, reason }] })
          }
          if (after !== known.get(at)) grown.set(at, after)
        }
        if (grown.size > 0) yield* writeKnown(options.folder, new Map([...known, ...grown]))
        for (const [at, after] of grown) known.set(at, after)
        // One without the other would be points that only the next start publishes.
        yield* wal.append({ database, precision, now, lines }).pipe(
          Effect.andThen(Effect.sync(() => take(database, points, size))),
          Effect.uninterruptible
        )
        if (waiting.points >= options.flushPoints || waiting.bytes >= options.flushBytes) {
          yield* Queue.offer(wake, undefined)
        }
        return points.length
      }, turn.withPermit)

      // -----------------------------------------------------------------------
      // Out
      // -----------------------------------------------------------------------

      /** One file for each hour. A segment that is published again after a crash gives the same paths and bytes. */
      const publish = Effect.fnUntraced(function*({ databases, segment }: Segment) {
        let files = 0
        for (const [database, own] of databases) {
          for (const { folder, measurement, points } of partitionsOf(database, own)) {
            const file = join(options.folder, `${segment}.parquet`)
            const path = `${folder}/${segment}.parquet`
            yield* writeParquet(points, file).pipe(
              Effect.andThen(registrar.publish({ path, measurement }, fs.stream(file))),
              // It was published before the crash, for the name is this segment's alone: it stands, perhaps as another
              // version of DuckDB has written it, or it was merged already.
              Effect.catchTag("Gone", () => Effect.void),
              Effect.catchIf(
                (error) => error._tag === "Conflict" && error.kind === "OtherBytes",
                () => Effect.void
              ),
              Effect.ensuring(Effect.ignore(fs.remove(file)))
            )
            files++
          }
        }
        return files
      })

      const close = turn.withPermit(
        Effect.gen(function*() {
          if (waiting.points === 0) return
          closed.push({ segment: yield* wal.rotate, databases: buffer, size: waiting })
          buffer = new Map()
          waiting = nothing
          // Half of it would leave points in a segment that is closed and in the buffer: published twice.
        }).pipe(Effect.uninterruptible)
      )

      const flush = flushing.withPermit(Effect.gen(function*() {
        yield* close
        let files = 0
        const aside: Array<string> = []
        for (let next = closed[0]; next !== undefined; next = closed[0]) {
          const { segment, size } = next
          const outcome = yield* publish(next).pipe(
            Effect.catchIf((error) => !passes(error), (error) => Effect.succeed(error))
          )
          // Half of it would leave a segment here that is not in the log any more.
          yield* Effect.gen(function*() {
            if (typeof outcome === "number") {
              yield* wal.drop(segment)
              files += outcome
            } else {
              yield* wal.setAside(segment)
              aside.push(segment)
              yield* Effect.logError(
                `${segment} can't be published, and is kept as ${segment}.aside: ${outcome.message}`
              )
            }
            closed.shift()
            unpublished = minus(unpublished, size)
          }).pipe(Effect.uninterruptible)
        }
        if (aside.length > 0) return yield* new SetAside({ segments: aside })
        return files
      })).pipe(Effect.withSpan("Ingest.flush"))

      const flushOrLog = flush.pipe(
        // It is in the log already.
        Effect.catchTag("SetAside", () => Effect.void),
        Effect.catch((error) => Effect.logError(`not flushed, tried again: ${error.message}`))
      )

      // What an earlier process has acknowledged comes first.
      for (const { segment, writes } of left) {
        const databases = new Map<string, Array<Point>>()
        let size = nothing
        for (const { database, lines, now, precision } of writes) {
          const { points } = yield* read(lines, precision, now)
          databases.set(database, (databases.get(database) ?? []).concat(points))
          size = plus(size, { points: points.length, bytes: Buffer.byteLength(lines) })
        }
        closed.push({ segment, databases, size })
        unpublished = plus(unpublished, size)
      }
      if (left.length > 0) yield* flushOrLog

      const rest = Queue.take(wake).pipe(Effect.timeoutOption(Duration.millis(options.flushMillis)))
      yield* rest.pipe(Effect.andThen(flushOrLog), Effect.forever, Effect.forkScoped)
      return { write, flush }
    })
  )

/** They have their turn. */
const others = Effect.promise(() => setImmediate())

const read = Effect.fnUntraced(function*(lines: string, precision: Precision, now: bigint, most?: number) {
  const reading = parseInTurns(lines, precision, now, most)
  for (;;) {
    const { done, value } = reading.next()
    if (done === true) return value
    yield* others
  }
})

const readKnown = Effect.fnUntraced(function*(folder: string) {
  const text = yield* Effect.option(Effect.tryPromise(() => readFile(join(folder, "columns.json"), "utf8")))
  if (Option.isNone(text)) return new Map<string, Known>()
  const kept = yield* Schema.decodeEffect(Schemas)(text.value).pipe(
    Effect.mapError((error) => new Wal.WalFailed({ detail: `columns.json is damaged: ${error.message}` }))
  )
  return new Map(kept.map(({ columns, database, measurement }) => [
    key(database, measurement),
    {
      measurement,
      columns: new Map(columns.flatMap(({ kind, name }) => {
        const found = kinds.find((each) => each === kind)
        return found === undefined ? [] : [[name.toLowerCase(), { name, kind: found }] as const]
      }))
    }
  ]))
})

const writeKnown = Effect.fnUntraced(function*(folder: string, known: ReadonlyMap<string, Known>) {
  const text = yield* Effect.orDie(
    Schema.encodeEffect(Schemas)(Array.from(known, ([at, { columns, measurement }]) => ({
      database: at.slice(0, at.indexOf("/")),
      measurement,
      columns: Array.from(columns.values())
    })))
  )
  yield* Wal.replaceFile(folder, "columns.json", text)
})
