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
import { type DuckFailed, writeParquet } from "./Duck.ts"
import { parse, type Point, type Precision } from "./lineProtocol.ts"
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
export class Busy extends Schema.TaggedError<Busy>()("Busy", {}) {
  override get message(): string {
    return "too many points wait to be flushed; try again"
  }
}

export type FlushError = DuckFailed | Wal.WalFailed | Registrar.PublishError | PlatformError.PlatformError

export class Ingest extends Context.Service<Ingest, {
  /** Durable on this disk when it succeeds; all of the request or nothing. Gives how many points. */
  readonly write: (
    database: string,
    precision: Precision,
    lines: string
  ) => Effect.Effect<number, Rejected | Busy | Wal.WalFailed>
  /** Publishes all that was taken before. Gives how many files. */
  readonly flush: Effect.Effect<number, FlushError>
}>()("timeseries/Ingest") {}

export interface IngestOptions {
  /** For the log, the columns that are known, and files that are being made. Not the data folder. */
  readonly folder: string
  readonly flushPoints: number
  readonly flushMillis: number
  /** Points that may wait. */
  readonly maxPoints: number
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

type Taken = ReadonlyMap<string, ReadonlyArray<Point>>

export const layer = (
  options: IngestOptions
): Layer.Layer<Ingest, FlushError, Registrar.Registrar | FileSystem.FileSystem> =>
  Layer.effect(
    Ingest,
    Effect.gen(function*() {
      const registrar = yield* Registrar.Registrar
      const fs = yield* FileSystem.FileSystem
      const { left, wal } = yield* Wal.make(options.folder)
      const known = yield* readKnown(options.folder)
      const turn = yield* Semaphore.make(1)
      const flushing = yield* Semaphore.make(1)
      const wake = yield* Queue.sliding<void>(1)
      let buffer = new Map<string, Array<Point>>()
      // Points in the buffer; and with them those of closed segments.
      let waiting = 0
      let unpublished = 0
      // Closed segments that are not published yet, oldest first.
      const closed: Array<{ readonly segment: string; readonly points: Taken }> = []

      // -----------------------------------------------------------------------
      // In
      // -----------------------------------------------------------------------

      const take = (database: string, points: ReadonlyArray<Point>) => {
        const mine = buffer.get(database) ?? []
        for (const point of points) mine.push(point)
        buffer.set(database, mine)
        waiting += points.length
        unpublished += points.length
      }

      const write = Effect.fn("Ingest.write")(function*(database: string, precision: Precision, lines: string) {
        const now = BigInt(yield* Clock.currentTimeMillis) * 1_000_000n
        const { errors, points } = parse(lines, precision, now)
        if (errors.length > 0) return yield* new Rejected({ errors })
        if (points.length === 0) return 0
        if (unpublished + points.length > options.maxPoints) return yield* new Busy()
        const grown = new Map<string, Known>()
        for (const point of points) {
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
        yield* wal.append({ database, precision, now, lines })
        take(database, points)
        if (waiting >= options.flushPoints) yield* Queue.offer(wake, undefined)
        return points.length
      }, turn.withPermit)

      // -----------------------------------------------------------------------
      // Out
      // -----------------------------------------------------------------------

      /** One file for each hour. A segment that is published again after a crash gives the same paths and bytes. */
      const publish = Effect.fnUntraced(function*(segment: string, points: Taken) {
        let files = 0
        for (const [database, own] of points) {
          for (const { folder, measurement, points } of partitionsOf(database, own)) {
            const file = join(options.folder, `${segment}.parquet`)
            yield* writeParquet(points, file)
            yield* registrar.publish({ path: `${folder}/${segment}.parquet`, measurement }, fs.stream(file)).pipe(
              // It was published before the crash, for the name is this segment's alone: it stands, perhaps as another
              // version of DuckDB has written it, or it was merged already.
              Effect.catchTag(["Conflict", "Gone"], () => Effect.void)
            )
            yield* Effect.ignore(fs.remove(file))
            files++
          }
        }
        yield* wal.drop(segment)
        return files
      })

      const close = turn.withPermit(
        Effect.gen(function*() {
          if (waiting === 0) return
          const segment = yield* wal.rotate
          closed.push({ segment, points: buffer })
          buffer = new Map()
          waiting = 0
          // Half of it would leave points in a segment that is closed and in the buffer: published twice.
        }).pipe(Effect.uninterruptible)
      )

      const flush = flushing.withPermit(Effect.gen(function*() {
        yield* close
        let files = 0
        for (let next = closed[0]; next !== undefined; next = closed[0]) {
          files += yield* publish(next.segment, next.points)
          closed.shift()
          unpublished -= next.points.values().reduce((sum, { length }) => sum + length, 0)
        }
        return files
      })).pipe(Effect.withSpan("Ingest.flush"))

      // What an earlier process has acknowledged comes first.
      for (const { segment, writes } of left) {
        const points = new Map<string, Array<Point>>()
        for (const { database, lines, now, precision } of writes) {
          points.set(database, [...points.get(database) ?? [], ...parse(lines, precision, now).points])
        }
        closed.push({ segment, points })
        unpublished += points.values().reduce((sum, { length }) => sum + length, 0)
      }
      if (left.length > 0) yield* flush

      const rest = Queue.take(wake).pipe(Effect.timeoutOption(Duration.millis(options.flushMillis)))
      yield* rest.pipe(
        Effect.andThen(flush),
        Effect.catch((error) => Effect.logError(`not flushed, tried again: ${error.message}`)),
        Effect.forever,
        Effect.forkScoped
      )
      return { write, flush }
    })
  )

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
