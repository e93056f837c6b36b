/**
 * Hashes what is verified again, because a disk may lose bytes without a word: `stat` says nothing of a bit that has
 * turned. A damaged file is set aside and owed again, a missing one is owed again; whoever pulls heals them.
 *
 * A run keeps its position in the inventory and goes on there after an interruption. It may also run in a process
 * beside the node: what it finds lost is a debt in the inventory, and the node looks for debts at least once a minute.
 */
import { Clock, Context, Duration, Effect, Layer, Option, Result, Schema, Semaphore } from "effect"
import { createHash } from "node:crypto"
import { Backend, type BackendError } from "../ports/Backend.ts"
import type { Registered } from "../ports/FileEntry.ts"
import { FilePath } from "../ports/FilePath.ts"
import { Inventory, type InventoryError } from "../ports/Inventory.ts"
import * as Metrics from "../telemetry/Metrics.ts"
import { Background } from "./Background.ts"
import * as Examine from "./examine.ts"
import { sameFolder } from "./Identity.ts"
import type { PathLock } from "./PathLock.ts"
import { Puller } from "./Puller.ts"

/** What one run has found, from its beginning, before an interruption too. */
export interface ScrubReport {
  /** When the run began, milliseconds since 1970. */
  readonly started: number
  /** Files that were looked at. */
  readonly checked: number
  /** Bytes that were read. */
  readonly bytes: number
  /** Files with wrong bytes, set aside and owed again. */
  readonly damaged: number
  /** Files that were gone, owed again. */
  readonly missing: number
}

export interface VerifyOptions {
  /** How fast files are read at most; as fast as it goes when left out. */
  readonly bytesPerSecond?: number
  /** Told how the run goes, often. */
  readonly onProgress?: (report: ScrubReport) => void
}

export class Scrub extends Context.Service<Scrub, {
  /**
   * Hashes every verified file, once; goes on where an earlier run was interrupted. Fails with `NotFound` when the
   * folder is not this node's any more.
   */
  readonly verify: (options?: VerifyOptions) => Effect.Effect<ScrubReport, InventoryError | BackendError>
}>()("file-replication/Scrub") {}

export interface ScheduleOptions {
  /** How fast files are read at most; 0: as fast as it goes. */
  readonly bytesPerSecond: number
  /** Within how long every byte is hashed again, milliseconds; 0: only on demand. */
  readonly intervalMillis: number
}

type Requirements = Backend | Inventory | PathLock

/** For the node itself: on demand, and on its schedule. */
export const layer = (options: ScheduleOptions): Layer.Layer<Scrub, never, Requirements | Background | Puller> =>
  Layer.effect(
    Scrub,
    Effect.gen(function*() {
      const puller = yield* Puller
      const background = yield* Background
      const { scheduled, verify } = yield* make(options, "scrub.verify", (file) => puller.offer([{ file }]))
      if (options.intervalMillis > 0) {
        yield* background.run(
          "the scrub",
          scheduled(options.intervalMillis).pipe(
            Effect.catchTag(
              ["BackendError", "InventoryError"],
              (error) => Effect.andThen(Effect.logError(`the scrub pauses: ${error.message}`), Effect.sleep("1 minute"))
            ),
            Effect.forever
          )
        )
      }
      return { verify }
    })
  )

/** The name under which the inventory keeps when a run has last ended, milliseconds since 1970. */
const completedNote = "scrub.completed"

/** When every verified file had last been hashed again, milliseconds since 1970. */
export const lastCompleted = Effect.gen(function*() {
  const inventory = yield* Inventory
  return Option.map(yield* inventory.recall(completedNote), Number)
})

/** Files that are read from the inventory together; behind them the position is kept, or behind so many bytes. */
const pageSize = 200
const keptEvery = 256 * 1024 * 1024

/** Of a schedule's interval, what the reading may take; and the slowest that it is ever spread. */
const share = 0.9
const slowest = 1024 * 1024

/** Where a run stands, and what it has found so far. */
const Position = Schema.fromJsonString(Schema.Struct({
  after: Schema.OptionFromNullOr(FilePath),
  started: Schema.Int,
  checked: Schema.Natural,
  bytes: Schema.Natural,
  damaged: Schema.Natural,
  missing: Schema.Natural
}))
type Position = typeof Position.Type

/** A run on demand that was interrupted longer ago than this begins anew, milliseconds: its word would be too old. */
const oldest = 24 * 3_600_000

const make = Effect.fnUntraced(function*(
  options: Pick<ScheduleOptions, "bytesPerSecond">,
  // Where a run on demand keeps its position: the node and a process beside it never share one.
  demand: "scrub.verify" | "scrub.beside",
  onLost: (file: Registered) => Effect.Effect<void>
) {
  const backend = yield* Backend
  const inventory = yield* Inventory
  const examine = yield* Examine.make
  const permit = yield* Semaphore.make(1)

  /** Reads a file no faster than allowed. Gives whether its bytes are right, or why that is not known. */
  const hash = Effect.fnUntraced(function*(
    { entry }: Registered,
    bytesPerSecond: number,
    onBytes: (bytes: number) => void
  ) {
    const digest = createHash("sha256")
    const began = yield* Clock.currentTimeMillis
    let bytes = 0
    const found = yield* backend.stat(entry.path).pipe(Effect.orElseSucceed(() => Option.none()))
    if (Option.isSome(found) && found.value.size !== entry.size_bytes) return { bytes, sound: false }
    const sound = yield* backend.read(entry.path, 0, entry.size_bytes, {
      write: (chunk) =>
        Effect.suspend(() => {
          digest.update(chunk)
          bytes += chunk.length
          onBytes(bytes)
          if (bytesPerSecond === 0) return Effect.void
          return Effect.flatMap(Clock.currentTimeMillis, (now) => {
            const ahead = began + (bytes / bytesPerSecond) * 1000 - now
            return ahead > 0 ? Effect.sleep(Duration.millis(ahead)) : Effect.void
          })
        })
    }).pipe(
      Effect.map(() => digest.digest("hex") === entry.sha256),
      Effect.catchTag("BackendError", () => Effect.succeed(false))
    )
    return { bytes, sound }
  })

  const begin = Effect.fnUntraced(function*(name: string, maxAge: number) {
    const text = yield* inventory.recall(name)
    const now = yield* Clock.currentTimeMillis
    const kept = Option.flatMap(text, (text) => Result.getSuccess(Schema.decodeResult(Position)(text)))
    if (Option.isSome(kept) && now - kept.value.started <= maxAge) return kept.value
    return { after: Option.none(), started: now, checked: 0, bytes: 0, damaged: 0, missing: 0 } satisfies Position
  })

  /** From where the run of this name stands to the last file. */
  const run = Effect.fnUntraced(function*(
    name: string,
    from: Position,
    rate: Effect.Effect<number, InventoryError>,
    onProgress: (report: ScrubReport) => void = () => undefined
  ) {
    const { after: begun, ...report } = { ...from }
    onProgress({ ...report })
    let after = begun
    let unkept = 0
    const keep = Effect.suspend(() => {
      unkept = 0
      return Effect.flatMap(
        Effect.orDie(Schema.encodeEffect(Position)({ after, ...report })),
        (text) => inventory.remember(name, Option.some(text))
      )
    })

    const look = Effect.fnUntraced(function*(path: FilePath, bytesPerSecond: number) {
      const row = yield* inventory.verified(path)
      if (Option.isNone(row)) return
      const { bytes, sound } = yield* hash(
        row.value.file,
        bytesPerSecond,
        (bytes) => onProgress({ ...report, bytes: report.bytes + bytes })
      )
      report.checked++
      report.bytes += bytes
      yield* Metrics.hashedAgain(bytes)
      unkept += bytes
      if (sound) return
      yield* sameFolder(backend, inventory)
      const finding = yield* examine(path)
      if (finding._tag !== "Lost") return
      if (finding.why === "Missing") report.missing++
      else report.damaged++
      yield* onLost(finding.file)
    })

    yield* Effect.gen(function*() {
      while (true) {
        const bytesPerSecond = yield* rate
        const page = yield* inventory.briefs(after, pageSize)
        if (page.length === 0) return
        for (const { path, state } of page) {
          if (state === "Verified") yield* look(path, bytesPerSecond)
          after = Option.some(path)
          if (unkept >= keptEvery) yield* keep
        }
        yield* keep
      }
    }).pipe(Effect.onInterrupt(() => Effect.ignore(keep)))
    yield* inventory.remember(name, Option.none())
    const completed = yield* Clock.currentTimeMillis
    yield* inventory.remember(completedNote, Option.some(String(completed)))
    yield* Metrics.scrubCompleted(completed)
    return report satisfies ScrubReport
  })

  const verify = Effect.fn("Scrub.verify")(function*({ bytesPerSecond = 0, onProgress }: VerifyOptions = {}) {
    const from = yield* begin(demand, oldest)
    return yield* run(demand, from, Effect.succeed(bytesPerSecond), onProgress)
  }, permit.withPermit)

  /** One run over everything, spread over the interval, and the rest until the interval is over. */
  const scheduled = Effect.fnUntraced(function*(intervalMillis: number) {
    const from = yield* begin("scrub.schedule", 2 * intervalMillis)
    const rate = Effect.map(inventory.progress, ({ verified }) => {
      const spread = Math.max(slowest, verified.bytes / ((intervalMillis * share) / 1000))
      return options.bytesPerSecond === 0 ? spread : Math.min(spread, options.bytesPerSecond)
    })
    const { bytes, checked, damaged, missing } = yield* run("scrub.schedule", from, rate)
    yield* Effect.logInfo(`scrubbed ${checked} files, ${bytes} bytes: ${damaged} damaged, ${missing} missing`)
    const left = from.started + intervalMillis - (yield* Clock.currentTimeMillis)
    yield* Effect.sleep(Duration.millis(Math.max(0, left)))
  })

  return { verify, scheduled }
})

/** For a process beside the node: on demand only. */
export const layerGuest: Layer.Layer<Scrub, never, Requirements> = Layer.effect(
  Scrub,
  Effect.map(make({ bytesPerSecond: 0 }, "scrub.beside", () => Effect.void), ({ verify }) => ({ verify }))
)
