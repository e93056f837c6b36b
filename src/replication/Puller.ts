/**
 * Pulls what this node owes: a bounded queue, a fixed number of workers, and `Inventory` as the truth
 * behind both. What does not fit into the queue is not lost, it stays owed and is read again once there is room. The
 * newest goes first; what failed before waits behind what did not, and is tried sooner when a peer appears.
 *
 * Where there are several workers, one of them is for small files that have not failed, so that neither giants nor
 * peers that take long to fail ever hold all of them. A first round of attempts ends early when others wait. More of
 * these cost little and bring much: what is asked of the inventory and the disk for many small files goes together.
 *
 * A worker's effect never fails: its outcome is a receipt and a row of `Inventory`. Closing the scope interrupts every
 * pull at once and in parallel; it counts as no failure, and the partial files stay.
 */
import { Cause, Clock, Context, Deferred, Duration, Effect, Layer, Option, PubSub, Queue, Stream } from "effect"
import type { Scope } from "effect"
import { Backend } from "../ports/Backend.ts"
import type { FetchClient } from "../ports/FetchClient.ts"
import type { NodeId, Registered } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { Inventory, type InventoryError, type Owed } from "../ports/Inventory.ts"
import { Membership } from "../ports/Membership.ts"
import type { PeerResolver } from "../ports/PeerResolver.ts"
import * as Metrics from "../telemetry/Metrics.ts"
import * as Traces from "../telemetry/Traces.ts"
import { latest, wrongBytes } from "./answers.ts"
import * as Attempt from "./attempt.ts"
import { Background } from "./Background.ts"
import { isVerified } from "./decide.ts"
import { type Lane, laneOf, lanes, make as makeLanes } from "./lanes.ts"
import * as Parked from "./Parked.ts"
import * as Pauses from "./Pauses.ts"
import { Placement } from "./Placement.ts"
import { type Enqueued, type PullerStats, type Receipt, told } from "./pulls.ts"
import * as Rearm from "./Rearm.ts"
import * as Retry from "./retry.ts"
import { Room } from "./Room.ts"

export type { Enqueued, PullerStats, Receipt } from "./pulls.ts"

export class Puller extends Context.Service<Puller, {
  /** Records a file as owed and queues it, without waiting for room. */
  readonly enqueue: (file: Registered) => Effect.Effect<Enqueued, InventoryError>
  /** Queues files that `Inventory` already owes, without waiting for room. */
  readonly offer: (files: ReadonlyArray<Registered>) => Effect.Effect<void>
  /** Counts a file that was found to be here before it was ever queued. */
  readonly skipped: (file: Registered) => Effect.Effect<void>
  /** Why a file has no room on the disk; `none` unless it waits for that. */
  readonly noRoom: (path: FilePath) => Effect.Effect<Option.Option<string>>
  /** Stops the pull of a path that was deleted. */
  readonly withdraw: (path: FilePath) => Effect.Effect<void>
  /** Lets no new pull begin; those in flight end. An operator's pause outlives this process. */
  readonly pause: Pauses.Pauses["pause"]
  readonly resume: Pauses.Pauses["resume"]
  /** What holds pulls now; empty: nothing does. */
  readonly paused: Pauses.Pauses["reasons"]
  /** `Inventory` refused a write, so that debts can't be recorded: holds pulls, and the node is not ready meanwhile. */
  readonly unwritable: Pauses.Pauses["unwritable"]
  readonly stats: Effect.Effect<PullerStats>
  /** Everything that workers finish from now on. */
  readonly receipts: Effect.Effect<Stream.Stream<Receipt>, never, Scope.Scope>
}>()("file-replication/Puller") {}

export interface PullerOptions extends Retry.RetryOptions {
  readonly workers: number
  /** Workers for small files alone that have not failed, beside these; 0 unless told. */
  readonly smallWorkers?: number | undefined
  readonly queueSize: number
}

/** The feed looks at what is due at least this often, milliseconds. */
const longestWait = 60_000

/** Whether another attempt of the same round can do no better. */
const isVain = (error: Attempt.AttemptFailed | Attempt.NoRoom | InventoryError): boolean =>
  error._tag !== "AttemptFailed" || error.notBefore !== undefined

/** What was known of a path when it was queued. */
interface Known {
  /** Its row, read just before. */
  readonly owed?: Owed | undefined
  /** Nothing lay under its name. */
  readonly absent?: boolean | undefined
}

/** A path that is queued or in flight. */
interface Place {
  readonly file: Registered
  readonly lane: Lane
  readonly withdrawn: Deferred.Deferred<void>
  known: Known
  /** Why it had no room on the disk when that was last tried. */
  noRoom: string
}

export const layer = (
  options: PullerOptions
): Layer.Layer<
  Puller,
  never,
  Background | Backend | FetchClient | Inventory | Membership | PeerResolver | Placement | Room
> =>
  Layer.effect(
    Puller,
    Effect.gen(function*() {
      const backend = yield* Backend
      const inventory = yield* Inventory
      const { self } = yield* Membership
      const placement = yield* Placement
      const room = yield* Room
      const background = yield* Background

      const pauses = yield* Pauses.make(inventory, background)
      const queue = makeLanes<Place>(options.queueSize, ({ file }) => file.revision)
      const places = new Map<FilePath, Place>()
      // They keep their place while they wait, so that the others, which fit, go on.
      const parked = Parked.make<Place>()
      const receipts = yield* PubSub.unbounded<Receipt>()
      const wake = yield* Queue.sliding<void>(1)
      // More may be owed and due than a lane of the queue had room for.
      const more: Record<Lane, boolean> = { small: true, giant: true, again: true }
      const lookAgain = (): void => {
        for (const lane of lanes) more[lane] = true
      }

      const counts = {
        enqueued: 0,
        skippedSelf: 0,
        skippedLocal: 0,
        skippedDuplicate: 0,
        pulled: 0,
        failed: 0,
        dropped: 0,
        attempts: 0,
        checksumMismatches: 0,
        peerLookupFailures: 0,
        badOffsets: 0,
        bytes: 0
      }
      const wrongBytesOf = new Map<NodeId, number>()

      // ---------------------------------------------------------------------
      // Into the queue
      // ---------------------------------------------------------------------

      /** Gives whether it waits for a worker now. An older one may have given way to it, and is read again later. */
      const admit = (place: Place): boolean => {
        const left = queue.offer(place, place.lane)
        if (left === place) return false
        if (left === undefined) return true
        places.delete(left.file.entry.path)
        more[place.lane] = true
        counts.dropped++
        return true
      }

      const queueUp = (file: Registered, lane: Lane = laneOf(file, 0), known: Known = {}): Enqueued => {
        const { path } = file.entry
        const place = places.get(path)
        // What was replaced waits for no room any more.
        const replaced = place !== undefined && place.file.revision !== file.revision && parked.remove(place)
        if (place !== undefined && !replaced) {
          place.known = {}
          // The same path at another revision has to wait until the old one has ended; the feed finds it then.
          if (place.file.revision !== file.revision) lookAgain()
          counts.skippedDuplicate++
          return "SkippedDuplicate"
        }
        const taken: Place = { file, lane, withdrawn: Deferred.makeUnsafe(), known, noRoom: "" }
        places.set(path, taken)
        if (!admit(taken)) {
          places.delete(path)
          more[lane] = true
          counts.dropped++
          return "Dropped"
        }
        counts.enqueued++
        return "Enqueued"
      }

      const skip = (file: Registered): "SkippedSelf" | "SkippedLocal" => {
        const kind = file.entry.origin_node_id === self.id ? "SkippedSelf" : "SkippedLocal"
        if (kind === "SkippedSelf") counts.skippedSelf++
        else counts.skippedLocal++
        return kind
      }

      const enqueue = Effect.fn("Puller.enqueue")(function*(file: Registered) {
        const row = yield* inventory.why(file.entry.path)
        if (isVerified(Option.getOrUndefined(row), file.entry)) {
          return skip(file)
        }
        if (Option.isNone(row) || row.value._tag !== "Owed" || row.value.file.revision !== file.revision) {
          const due = yield* Clock.currentTimeMillis
          yield* inventory.apply([{ _tag: "Owe", file, reason: "not pulled yet", due }])
        }
        return queueUp(file)
      })

      const hasRoom = (lane: Lane): boolean => more[lane] && queue.room(lane) * 2 >= options.queueSize

      // When the earliest of what rests is due.
      let promised = Infinity
      // When the inventory was last asked what is due.
      let lookedAt = 0
      // What is due may have changed since it was asked for the next time.
      let changed = true

      // Paths that ended, or were withdrawn, while the feed reads what is due: what it reads of them may be old.
      let ended: Set<FilePath> | undefined

      /** Of the small ones among some files, those under whose name nothing lies. Large ones may wait for very long. */
      const absentAmong = Effect.fnUntraced(function*(files: ReadonlyArray<Registered>) {
        const small = files.filter((file) => laneOf(file, 0) === "small").map(({ entry }) => entry.path)
        return new Set(small.length === 0 ? [] : yield* Effect.orElseSucceed(backend.absent(small), () => []))
      })

      // Whatever is owed and due, whenever there is room for half a lane of it: at the start, after a full queue, and
      // when the time of something that was postponed has come.
      const feed = Effect.gen(function*() {
        const now = yield* Clock.currentTimeMillis
        // Its time may have come while something else woke this.
        // What became due meanwhile by somebody else's hand told nobody.
        if (now >= promised || now - lookedAt >= longestWait) lookAgain()
        if (lanes.some(hasRoom)) {
          lookedAt = now
          // Before the question: whatever comes behind it sets this again.
          for (const lane of lanes) more[lane] = false
          changed = true
          const endedMeanwhile = new Set<FilePath>()
          ended = endedMeanwhile
          // What is queued or in flight is owed and due as well.
          const due = yield* inventory.due(now, options.queueSize, Array.from(places.values(), ({ file }) => file))
          const absent = yield* absentAmong(due.map(({ file }) => file))
          const found = { small: 0, giant: 0, again: 0 }
          for (const owed of due) {
            const { file, rounds } = owed
            const lane = laneOf(file, rounds)
            if (++found[lane] === options.queueSize) more[lane] = true
            const place = places.get(file.entry.path)
            if (place !== undefined) {
              // An older revision of it is in hand still; its turn comes behind that.
              if (place.file.revision !== file.revision) more[lane] = true
              continue
            }
            if (queue.room(lane) === 0) more[lane] = true
            else {
              const { path } = file.entry
              queueUp(file, lane, endedMeanwhile.has(path) ? {} : { owed, absent: absent.has(path) })
            }
          }
          ended = undefined
        }
        if (changed || promised <= now) {
          changed = false
          promised = Option.getOrElse(yield* inventory.nextDue(now), () => Infinity)
        }
        const wait = Math.min(promised - now, longestWait)
        const woken = yield* Queue.take(wake).pipe(Effect.timeoutOption(Duration.millis(wait)))
        if (Option.isNone(woken)) lookAgain()
      })

      const rearmed = yield* Rearm.start(background, () => {
        lookAgain()
        Queue.offerUnsafe(wake, undefined)
      })

      const pauseFeed = (error: InventoryError) =>
        Effect.andThen(
          pauses.unwritable(error),
          Effect.andThen(
            Effect.sleep("5 seconds"),
            Effect.sync(() => {
              changed = true
              lookAgain()
            })
          )
        )

      yield* background.run(
        "the feed of the puller",
        feed.pipe(
          Effect.catchTag("InventoryError", pauseFeed),
          Effect.forever
        )
      )

      const attempt = yield* Attempt.make((times) => Retry.pauseMillis(options, times), rearmed.reached)

      // ---------------------------------------------------------------------
      // Out of it
      // ---------------------------------------------------------------------

      const onAnswer = (kind: string, peer?: NodeId): void => {
        if (kind === "BadOffset") counts.badOffsets++
        if (kind === "ChecksumMismatch" || kind === wrongBytes || kind === Attempt.wrongMixture) {
          counts.checksumMismatches++
        }
        if (kind === wrongBytes && peer !== undefined) wrongBytesOf.set(peer, (wrongBytesOf.get(peer) ?? 0) + 1)
      }

      const onBytes = (count: number): void => {
        counts.bytes += count
      }

      const round = Effect.fnUntraced(function*(owed: Owed) {
        const { file } = owed
        const armedBefore = rearmed.times()
        const answers = new Map(owed.answers.map((answer) => [answer.peer, answer]))
        const began = yield* Clock.currentTimeMillis
        let again = owed.rounds > 0
        const once = Effect.suspend(() => {
          counts.attempts++
          const counted = Metrics.attempted(again)
          again = true
          return Effect.andThen(counted, attempt({ file, answers, onAnswer, onBytes }))
        }).pipe(
          Effect.tapError((error) =>
            Effect.sync(() => {
              if (error._tag === "AttemptFailed" && error.kind === "NoPeer") counts.peerLookupFailures++
            })
          )
        )
        // What has failed a whole round before costs one attempt an interval.
        const attempts = owed.rounds > 0 ? once : Retry.immediately(options, once, queue.hasNew, isVain)
        const outcome = yield* Effect.result(attempts)
        if (outcome._tag === "Success") {
          const { bytes, from, placed } = outcome.success
          if (placed === "Withdrawn") return { _tag: "Withdrawn", file } satisfies Receipt
          counts.pulled++
          const now = yield* Clock.currentTimeMillis
          yield* Metrics.committed({ pull: now - began, owed: now - owed.since })
          return { _tag: "Pulled", file, from, bytes } satisfies Receipt
        }
        const { failure } = outcome
        // Neither is the file's failure.
        if (failure._tag === "InventoryError" || failure._tag === "NoRoom") return yield* failure
        // A peer that has appeared during the round woke what rested then, but not this.
        const rounds = rearmed.times() === armedBefore ? owed.rounds : 0
        return yield* postpone(
          { ...owed, rounds },
          failure.kind,
          failure.message,
          latest(answers.values()),
          failure.notBefore
        )
      })

      const postpone = Effect.fnUntraced(function*(
        owed: Owed,
        kind: Metrics.PostponedReason,
        reason: string,
        answers = owed.answers,
        notBefore = 0
      ) {
        const { file } = owed
        const now = yield* Clock.currentTimeMillis
        const rested = now + (yield* Retry.rest(options, owed.rounds))
        // Before that nobody would be asked; but who could be is looked up again from time to time all the same.
        const due = Math.max(rested, Math.min(notBefore, now + Retry.durableCap))
        yield* inventory.postpone(file, due, reason, answers)
        changed = true
        counts.failed++
        yield* Metrics.postponed(kind)
        yield* Effect.logWarning(`${file.entry.path} is still owed: ${reason}`)
        return { _tag: "Postponed", file, reason, due } satisfies Receipt
      })

      /** What is owed; or what there is to say instead. */
      const owedNow = Effect.fnUntraced(function*({ file, known: { owed } }: Place) {
        if (owed !== undefined) return owed
        const row = yield* inventory.why(file.entry.path)
        if (isVerified(Option.getOrUndefined(row), file.entry)) {
          skip(file)
          return { _tag: "Skipped", file } satisfies Receipt
        }
        if (Option.isNone(row) || row.value._tag !== "Owed" || row.value.file.revision !== file.revision) {
          return { _tag: "Withdrawn", file } satisfies Receipt
        }
        return row.value
      })

      const pull = Effect.fnUntraced(function*(place: Place) {
        const { file, withdrawn } = place
        const owed = yield* owedNow(place)
        if (owed._tag !== "Owed") return owed
        if (Deferred.isDoneUnsafe(withdrawn)) return { _tag: "Withdrawn", file } satisfies Receipt
        if (place.known.absent !== true) {
          const standing = yield* adopt(owed)
          if (standing !== undefined) return standing
        }
        return yield* Effect.raceFirst(
          round(owed),
          Effect.as(Deferred.await(withdrawn), { _tag: "Withdrawn", file } satisfies Receipt)
        )
      })

      /** Takes what lies under the name already; `undefined`: nothing right does. */
      const adopt = Effect.fnUntraced(function*(owed: Owed) {
        const { file } = owed
        const adopted = yield* placement.adopt(file).pipe(Effect.result)
        if (adopted._tag === "Failure") {
          if (adopted.failure._tag === "InventoryError") return yield* adopted.failure
          return yield* postpone(owed, "Disk", adopted.failure.message)
        }
        if (Option.isSome(adopted.success)) {
          if (adopted.success.value === "Withdrawn") return { _tag: "Withdrawn", file } satisfies Receipt
          skip(file)
          return { _tag: "Skipped", file } satisfies Receipt
        }
        return undefined
      })

      const giveBack = (place: Place) =>
        Effect.sync(() => {
          if (parked.has(place)) return
          const { path } = place.file.entry
          ended?.add(path)
          if (places.get(path) === place) places.delete(path)
          if (changed || lanes.some(hasRoom)) Queue.offerUnsafe(wake, undefined)
        })

      // Only so many are remembered; beyond that whatever comes waits as well.
      const holdForRoom = (): void => (parked.size() < options.queueSize ? pauses.release : pauses.hold)("disk")

      const park = Effect.fnUntraced(function*(place: Place, { bytes, message }: Attempt.NoRoom) {
        if (parked.size() === 0) yield* Effect.logWarning(`pulling pauses for what has no room: ${message}`)
        place.noRoom = message
        place.known = {}
        parked.add(place, bytes)
        holdForRoom()
      })

      const unpark = Effect.gen(function*() {
        yield* parked.some
        yield* Effect.sleep("5 seconds")
        const free = yield* Effect.orElseSucceed(room.free, () => 0)
        // The queue may be full of what waits behind them: then it has to go on first.
        if (parked.release(free, admit)) pauses.release("disk")
        else holdForRoom()
        if (parked.size() === 0) yield* Effect.logInfo("the disk has room again for what is owed")
      })
      yield* background.run("the wait for room on the disk", Effect.forever(unpark))

      // A defect must not cost more than one attempt an interval either.
      const afterDefect = Effect.fnUntraced(function*(file: Registered, cause: Cause.Cause<never>) {
        yield* Effect.logError(`${file.entry.path}: the pull ended by a defect`, cause)
        const row = yield* inventory.why(file.entry.path)
        if (Option.isNone(row) || row.value._tag !== "Owed") return { _tag: "Withdrawn", file } satisfies Receipt
        return yield* postpone(row.value, "Defect", "the pull ended by a defect; see the log")
      })

      // Taken by a worker, and kept from going on by a pause.
      let heldBack = 0
      const work = Effect.fnUntraced(function*(place: Place) {
        heldBack++
        yield* Effect.ensuring(pauses.open, Effect.sync(() => heldBack--))
        const outcome = yield* pull(place).pipe(
          Effect.catchDefect((defect) => afterDefect(place.file, Cause.die(defect))),
          Traces.sinceRegistration("replicate", place.file.entry, self.id, told),
          Effect.result
        )
        if (outcome._tag === "Success") {
          yield* Metrics.finished(outcome.success._tag)
          yield* PubSub.publish(receipts, outcome.success)
          return
        }
        // The row still says that the file is owed.
        if (outcome.failure._tag === "NoRoom") return yield* park(place, outcome.failure)
        yield* pauses.unwritable(outcome.failure)
        lookAgain()
      }, (effect, place) => Effect.ensuring(effect, giveBack(place)))

      const { smallWorkers = 0, workers } = options
      const worker = (quick: boolean) => Effect.forever(Effect.flatMap(queue.take(quick), work))
      yield* background.run(
        "the workers of the puller",
        Effect.forEach(
          Array.from({ length: workers + smallWorkers }),
          (_, n) => worker(n >= workers || (n === 0 && workers > 1)),
          { concurrency: "unbounded", discard: true }
        )
      )

      return {
        enqueue,
        offer: Effect.fnUntraced(function*(files) {
          const absent = yield* absentAmong(files)
          for (const file of files) queueUp(file, laneOf(file, 0), { absent: absent.has(file.entry.path) })
        }),
        skipped: (file) => Effect.sync(() => void skip(file)),
        noRoom: (path) =>
          Effect.sync(() => {
            const place = places.get(path)
            return place !== undefined && parked.has(place) ? Option.some(place.noRoom) : Option.none()
          }),
        withdraw: (path) =>
          Effect.sync(() => {
            ended?.add(path)
            const place = places.get(path)
            if (place === undefined) return
            Deferred.doneUnsafe(place.withdrawn, Effect.void)
            if (!parked.remove(place)) return
            places.delete(path)
            PubSub.publishUnsafe(receipts, { _tag: "Withdrawn", file: place.file })
          }),
        pause: pauses.pause,
        resume: pauses.resume,
        unwritable: pauses.unwritable,
        paused: Effect.map(
          pauses.reasons,
          (reasons) => parked.size() > 0 && !reasons.includes("disk") ? [...reasons, "disk" as const] : reasons
        ),
        stats: Effect.sync(() => {
          const queueDepth = lanes.reduce((sum, lane) => sum + options.queueSize - queue.room(lane), 0)
            + parked.size() + heldBack
          return {
            ...counts,
            wrongBytes: new Map(wrongBytesOf),
            queuedSmall: options.queueSize - queue.room("small"),
            queueDepth,
            inFlight: places.size - queueDepth
          }
        }),
        receipts: Effect.map(PubSub.subscribe(receipts), (subscription) => Stream.fromSubscription(subscription))
      }
    })
  )
