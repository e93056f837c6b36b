/**
 * Keeps `Inventory` in step with the manifest: every event from where this node stands, and a walk over the whole
 * manifest where it stands nowhere, and again from time to time. Nothing else moves the cursor, and it moves in one
 * transaction with the debts it brings.
 *
 * ```
 *              no cursor, or one that the manifest          walked to the end:
 *              can't go on from                             the cursor is kept
 *   start ───────────────────────────────────▶ Walking ─────────────────────────▶ Following
 *     │                                          │ │                                │
 *     └── the manifest goes on from the cursor ──┼─┼───────────────────────────────▶│
 *                                                ▼ ▼                                ▼
 *                                      the cursor is lost: from the start again, with a walk
 * ```
 *
 * Events are followed while the walk goes on, from the head that was read before it; until it has reached the end their
 * cursor is kept in memory only, so that a crash begins the walk again.
 */
import { Cause, Clock, Context, Duration, Effect, Exit, Layer, Option, Random, Result, Schedule } from "effect"
import { Semaphore, Stream } from "effect"
import type { Backend } from "../ports/Backend.ts"
import type { Registered } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { Inventory, type InventoryError } from "../ports/Inventory.ts"
import { Cursor, type CursorLost, Manifest, type ManifestEvent, Unavailable } from "../ports/Manifest.ts"
import { Membership } from "../ports/Membership.ts"
import * as Metrics from "../telemetry/Metrics.ts"
import { Background } from "./Background.ts"
import { decide, newlyOwed } from "./decide.ts"
import type { Debt } from "./Feed.ts"
import { LocalCheck } from "./LocalCheck.ts"
import * as Orphans from "./orphans.ts"
import { Puller } from "./Puller.ts"
import { Unlinker } from "./Unlinker.ts"
import * as Walk from "./walk.ts"
import * as WalkNote from "./walkNote.ts"

export interface CatchUpOptions {
  /** Between a delete event and the unlink, milliseconds. */
  readonly deleteGraceMillis: number
  /** Without, no walk is made: an emergency switch. Events are still followed. */
  readonly enabled: boolean
  /** How long a start waits for the manifest's newest position before a warning, milliseconds. */
  readonly barrierTimeoutMillis: number
  /**
   * A walk pauses while more small files wait for a worker than this. What has failed and what is a giant does not stop
   * it: behind those, small files could wait for very long.
   */
  readonly highWater: number
  /** Between two walks over the whole manifest, milliseconds, jittered by a tenth; 0: none but when it must be. */
  readonly walkIntervalMillis: number
}

/** How the last walk went, or goes on. Times in milliseconds since 1970. */
export interface CatchUpStatus {
  readonly running: boolean
  readonly started: Option.Option<number>
  readonly completed: Option.Option<number>
  /** `reached`: the manifest has told its newest position. `timedOut`: not in time, and this node went on without. */
  readonly barrier: "waiting" | "reached" | "timedOut"
  /** Entries of the manifest that were compared. */
  readonly walked: number
  /** Of these, those that became a new debt. */
  readonly enqueued: number
  /** Of these, those that were here. */
  readonly skipped: number
  /**
   * Files here that the manifest never knew, or knows no more since it has another history. They stay. The former are
   * counted when the folder is compared: behind a walk, and every few minutes while there are some.
   */
  readonly orphans: number
  readonly lastError: Option.Option<string>
  /** Whether the manifest has said, since this start, that it has the history that is followed, walked to its end. */
  readonly confirmed: boolean
}

export class CatchUp extends Context.Service<CatchUp, {
  readonly status: Effect.Effect<CatchUpStatus, InventoryError>
  /** As in the status. */
  readonly confirmed: Effect.Effect<boolean>
}>()("file-replication/CatchUp") {}

/** Before a manifest or an inventory that refused is asked again. */
const pause = Duration.seconds(1)

/** Between two looks at a queue that is too full for the walk. */
const breath = Duration.millis(50)

const notYet: Omit<CatchUpStatus, "confirmed" | "orphans"> = {
  running: false,
  started: Option.none(),
  completed: Option.none(),
  barrier: "waiting",
  walked: 0,
  enqueued: 0,
  skipped: 0,
  lastError: Option.none()
}

export const layer = (
  options: CatchUpOptions
): Layer.Layer<
  CatchUp,
  never,
  Background | Backend | Inventory | LocalCheck | Manifest | Membership | Puller | Unlinker
> =>
  Layer.effect(
    CatchUp,
    Effect.gen(function*() {
      const inventory = yield* Inventory
      const manifest = yield* Manifest
      const puller = yield* Puller
      const unlinker = yield* Unlinker
      const localCheck = yield* LocalCheck
      const background = yield* Background
      const { self } = yield* Membership

      // A page of a walk and a batch of events never at once; nor two walks.
      const turn = yield* Semaphore.make(1)
      const walking = yield* Semaphore.make(1)
      let status = notYet
      // Up to where events were taken, and whether everything before was walked.
      let position: Cursor = { epoch: "", revision: Cursor.fields.revision.make(0), mark: "" }
      let walked = false

      const note = (change: Partial<typeof notYet>): void => {
        status = { ...status, ...change }
      }

      const failed = (error: InventoryError | Unavailable) =>
        Effect.gen(function*() {
          note({ lastError: Option.some(error.message) })
          if (error._tag === "InventoryError") yield* puller.unwritable(error)
          yield* Effect.logWarning(`catching up pauses: ${error.message}`)
          yield* Effect.sleep(pause)
        })

      // ---------------------------------------------------------------------
      // Events
      // ---------------------------------------------------------------------

      const skip = (files: ReadonlyArray<Registered>) => Effect.forEach(files, puller.skipped, { discard: true })

      /** Records what events ask for; the cursor only with those that were followed. */
      const take = Effect.fnUntraced(function*(events: ReadonlyArray<ManifestEvent>, cursor?: Cursor) {
        if (events.length === 0 && cursor === undefined) return { enqueued: 0, skipped: 0 } satisfies Walk.Taken
        const now = yield* Clock.currentTimeMillis
        const paths = events.map(pathOf)
        const locals = yield* inventory.look(paths)
        const decisions = events.map((event, index) =>
          decide(event, locals[index] ?? { row: undefined, pending: undefined }, {
            self: self.id,
            now,
            deleteGraceMillis: options.deleteGraceMillis
          })
        )
        yield* inventory.apply(decisions.map(({ change }) => change), cursor)
        // Of a path that comes twice, its row tells what is owed now.
        const once = new Set(paths).size === paths.length
        const owed: Array<Debt> = []
        const held: Array<Registered> = []
        for (const [index, { _tag, change }] of decisions.entries()) {
          if (change._tag === "Owe" && (_tag === "SkipSelf" || _tag === "SkipLocal")) held.push(change.file)
          else if (change._tag === "Owe") {
            // Deleted behind the revision that is walked: the row stays as it is, and nothing is to be pulled.
            const row = locals[index]?.row
            const { file } = change
            if (row === undefined && once) owed.push({ file, owed: newlyOwed(change, now) })
            else if (row?._tag !== "Unlinking" || row.revision < file.revision) owed.push({ file })
          } else if (change._tag === "Forget") yield* puller.withdraw(change.path)
        }
        yield* skip(held)
        yield* puller.offer(owed)
        if (decisions.some(({ _tag }) => _tag === "Forget")) yield* unlinker.wake
        return { enqueued: owed.length, skipped: held.length } satisfies Walk.Taken
      })

      /** Takes events from the position on, for ever; what fails on the way is asked again. */
      const follow: Effect.Effect<never, CursorLost> = Effect.suspend(() =>
        Stream.runForEach(manifest.events(position), (batch) =>
          turn.withPermit(Effect.gen(function*() {
            yield* take(batch.events, walked ? batch.cursor : undefined)
            yield* Metrics.eventsTaken(batch.events)
            position = batch.cursor
          })))
      ).pipe(
        Effect.andThen(new Unavailable({ operation: "events", detail: "its stream of events has ended" })),
        Effect.catchTag(["InventoryError", "Unavailable"], failed),
        Effect.forever
      )

      // ---------------------------------------------------------------------
      // Walks
      // ---------------------------------------------------------------------

      // The queue tells nobody that it has become shorter, and a walk is in no hurry. While pulling pauses the queue does
      // not become shorter; the walk goes on, because it also finds what was deleted, which may be what a full disk needs.
      const room = Effect.repeat(Effect.all([puller.stats, puller.paused]), {
        until: ([{ queuedSmall }, paused]) => queuedSmall <= options.highWater || paused.length > 0,
        schedule: Schedule.spaced(breath)
      }).pipe(Effect.asVoid)

      const { page, strangers } = yield* Walk.make({
        deleteGraceMillis: options.deleteGraceMillis,
        turn,
        take,
        skip,
        room,
        position: Effect.sync(() => position)
      })
      const orphans = yield* Orphans.make(strangers)

      /** From the first path to the last; goes on at its page after a failure. */
      const walk = Effect.fn("CatchUp.walk")(function*() {
        note({
          running: true,
          started: Option.some(yield* Clock.currentTimeMillis),
          walked: 0,
          enqueued: 0,
          skipped: 0
        })
        let after = Option.none<FilePath>()
        const upTo = position.revision
        while (true) {
          const read = yield* Effect.result(page(after, upTo))
          if (Result.isFailure(read)) {
            if (read.failure._tag === "CursorLost") return yield* read.failure
            yield* failed(read.failure)
            continue
          }
          const { next, paged } = read.success
          note({
            walked: status.walked + paged.walked,
            enqueued: status.enqueued + paged.enqueued,
            skipped: status.skipped + paged.skipped
          })
          if (Option.isNone(next)) break
          after = next
        }
      }, (effect) =>
        Effect.onExit(effect, (exit) =>
          Effect.gen(function*() {
            const now = yield* Clock.currentTimeMillis
            note({ running: false })
            if (Exit.isSuccess(exit)) note({ completed: Option.some(now), lastError: Option.none() })
            else if (!Cause.hasInterruptsOnly(exit.cause)) {
              note({ lastError: Option.some("the manifest has another history now, or has forgotten part of it") })
            }
          })))

      const report = Effect.gen(function*() {
        const example = yield* orphans.compare
        const files = yield* orphans.count
        if (files === 0) return
        const such = Option.match(example, { onNone: () => "", onSome: (path) => `, ${path} for example` })
        yield* Effect.logWarning(
          `files here that are not in the manifest, and were never deleted: ${files}${such}; they stay`
        )
      }).pipe(
        Effect.catchTag(["BackendError", "InventoryError", "Unavailable"], (error) =>
          Effect.logWarning(`the folder was not compared with the manifest: ${error.message}`))
      )

      /** The walk that leads to a cursor. */
      const firstWalk = walking.withPermit(Effect.gen(function*() {
        yield* walk()
        const keep = turn.withPermit(Effect.gen(function*() {
          yield* inventory.apply([], position)
          walked = true
        }))
        yield* Effect.eventually(Effect.tapError(keep, failed))
        yield* report
      }))

      /** A walk while events are followed. When the history changes meanwhile, whoever follows it begins again. */
      const walkAgain = walking.withPermitsIfAvailable(1)(Effect.gen(function*() {
        if (!walked) {
          return
        }
        yield* walk()
        yield* localCheck.check
        yield* report
      })).pipe(
        Effect.catchTag(["BackendError", "CursorLost", "InventoryError"], (error) =>
          Effect.logWarning(`the walk over the manifest ended early: ${error.message}`))
      )

      // ---------------------------------------------------------------------
      // Where to begin
      // ---------------------------------------------------------------------

      const barrier = Effect.suspend(() => {
        if (status.barrier !== "waiting") {
          return Effect.void
        }
        return manifest.head.pipe(
          Effect.retry(Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("2 seconds")])),
          Effect.timeoutOption(Duration.millis(options.barrierTimeoutMillis)),
          Effect.tap((head) => {
            note({ barrier: Option.isSome(head) ? "reached" : "timedOut" })
            if (Option.isSome(head)) {
              return Effect.void
            }
            return Effect.logWarning(
              `the manifest has not told its newest position within ${options.barrierTimeoutMillis} ms; this node goes on `
                + "with what it knows, and is not ready before the manifest answers"
            )
          })
        )
      })

      /** Whoever does not answer at all is asked again like one that refuses: an answer may have been lost for good. */
      const answered = <A, E>(operation: string, question: Effect.Effect<A, E>) =>
        Effect.timeoutOrElse(question, {
          duration: Duration.millis(Math.max(1000, options.barrierTimeoutMillis)),
          orElse: () =>
            Effect.fail(new Unavailable({ operation, detail: "it does not answer" }))
        })

      /** Finds out where this node stands. Gives whether a walk is needed. */
      const begin = Effect.gen(function*() {
        yield* barrier
        const { cursor } = yield* inventory.progress
        const stood = yield* WalkNote.positions(inventory, cursor)
        const losses = yield* Effect.forEach(stood, (at) =>
          answered("lost", manifest.lost(at)))
        if (
          losses.some((lost) =>
            Option.contains(lost, "EpochChanged")
          )
        ) {
          yield* Effect.logWarning("the manifest has another history; it is compared with everything here")
          yield* turn.withPermit(inventory.apply([{ _tag: "NewHistory" }]))
        }
        if (Option.isSome(cursor) && losses.every(Option.isNone)) {
          position = cursor.value
          walked = true
          note({ barrier: "reached" })
          return false
        }
        const at = yield* answered("head", manifest.head)
        note({ barrier: "reached" })
        if (!options.enabled) {
          // Where it was followed to in vain; going back to the head would leave out what came meanwhile.
          const going = position.epoch !== "" && Option.isNone(yield* manifest.lost(position))
          if (!going) {
            position = at
          }
          return false
        }
        yield* WalkNote.remember(inventory, at)
        position = at
        return true
      })

      const session = Effect.gen(function*() {
        walked = false
        const needed = yield* begin
        if (!walked && !needed) {
          yield* Effect.logWarning(
            "cluster.replication_catchup_enabled is false: only new files are pulled, and this node does not become "
              + "ready before the manifest is walked"
          )
        }
        return yield* Effect.raceFirst(follow, needed ? Effect.andThen(firstWalk, Effect.never) : Effect.never)
      })

      yield* background.run(
        "the follower of the manifest",
        session.pipe(
          Effect.catchTag("CursorLost", (lost) => Effect.logWarning(lost.message)),
          Effect.catchTag(["InventoryError", "Unavailable"], failed),
          Effect.forever
        )
      )
      if (options.enabled && options.walkIntervalMillis > 0) {
        const rest = Effect.flatMap(
          Random.nextBetween(0.9, 1.1),
          (factor) => Effect.sleep(Duration.millis(options.walkIntervalMillis * factor))
        )
        yield* background.run("the walk over the manifest", Effect.forever(Effect.andThen(rest, walkAgain)))
      }
      const confirmed = Effect.sync(() => walked)
      return {
        status: Effect.map(orphans.count, (orphans) => ({ ...status, orphans, confirmed: walked })),
        confirmed
      }
    })
  )

const pathOf = (event: ManifestEvent): FilePath => (event._tag === "Put" ? event.file.entry.path : event.path)
