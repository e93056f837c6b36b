/**
 * The workers of the puller: each takes what waits, one file at a time, and ends with a receipt and a row of
 * `Inventory`. A worker's effect never fails.
 *
 * Where there are several workers, one of them is for small files that have not failed, so that neither giants nor
 * files that take long to fail ever hold all of them. A first round of attempts ends early when others wait. Small files
 * of which nothing is here go together with others (`Together.ts`), and to a worker only when they can't.
 */
import { Cause, Clock, Deferred, Effect, Exit, Option, PubSub, type Scope } from "effect"
import type { Backend } from "../ports/Backend.ts"
import { type FetchClient, together as mostTogether } from "../ports/FetchClient.ts"
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
import type { OthersFirst } from "./crowds.ts"
import { isVerified } from "./decide.ts"
import type { Feed, FeedStats, Place } from "./Feed.ts"
import { makeReach } from "./order.ts"
import type { Pauses } from "./Pauses.ts"
import { Placement } from "./Placement.ts"
import { type PullerStats, type Receipt, told } from "./pulls.ts"
import type { Rearmed } from "./Rearm.ts"
import * as Retry from "./retry.ts"
import type { Room } from "./Room.ts"
import * as Together from "./Together.ts"

export interface WorkersOptions extends Retry.RetryOptions {
  /** So many files wait for a worker at most, of each kind. */
  readonly queueSize: number
  readonly workers: number
  /** Workers for small files alone that have not failed, beside these; 0 unless told. */
  readonly smallWorkers?: number | undefined
}

/** What workers count, but for what is counted where files wait. */
export interface WorkersStats extends Omit<PullerStats, keyof FeedStats | "queueDepth" | "inFlight"> {
  /** Files that a worker has taken up, and that a pause, or others that they are to go with, keep from going on. */
  readonly heldBack: number
}

export interface Workers {
  readonly stats: () => WorkersStats
  /** A path that was taken up is withdrawn: what has not begun ends at once. */
  readonly withdraw: (path: FilePath) => void
}

/** Whether another attempt of the same round can do no better. */
const isVain = (error: Attempt.AttemptFailed | Attempt.NoRoom | OthersFirst | InventoryError): boolean =>
  error._tag !== "AttemptFailed" || error.notBefore !== undefined

/** A file that was delivered. */
interface Ended extends Pick<Together.Traveller, "owed" | "began"> {
  readonly delivered: Attempt.Delivered
}

const receiptOf = ({ delivered: { bytes, from, placed }, owed: { file } }: Ended): Receipt =>
  placed === "Withdrawn" ? { _tag: "Withdrawn", file } : { _tag: "Pulled", file, from, bytes }

/** `receipts`: what each file came to. */
export const start = Effect.fnUntraced(function*(
  options: WorkersOptions,
  { feed, pauses, rearmed, receipts }: {
    readonly feed: Feed
    readonly pauses: Pauses
    readonly rearmed: Rearmed
    readonly receipts: PubSub.PubSub<Receipt>
  }
): Effect.fn.Return<
  Workers,
  never,
  Background | Backend | FetchClient | Inventory | Membership | PeerResolver | Placement | Room | Scope.Scope
> {
  const inventory = yield* Inventory
  const { self } = yield* Membership
  const placement = yield* Placement
  const background = yield* Background
  const reach = makeReach(rearmed.reached)
  const attempt = yield* Attempt.make((times) => Retry.pauseMillis(options, times), reach)

  const counts = {
    pulled: 0,
    failed: 0,
    attempts: 0,
    checksumMismatches: 0,
    peerLookupFailures: 0,
    badOffsets: 0,
    bytes: 0
  }
  const wrongBytesOf = new Map<NodeId, number>()

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

  const round = Effect.fnUntraced(function*(place: Place, owed: Owed) {
    const { file } = owed
    const armedBefore = rearmed.times()
    const answers = new Map([...owed.answers, ...place.answers ?? []].map((answer) => [answer.peer, answer]))
    const began = yield* Clock.currentTimeMillis
    const isFirst = place.answers === undefined
    let again = owed.rounds > 0 || !isFirst
    const once = Effect.flatMap(feed.mayWait(place), (canWait) => {
      counts.attempts++
      const counted = Metrics.attempted(again)
      again = true
      return Effect.andThen(counted, attempt({ file, answers, canWait, isFirst, onAnswer, onBytes }))
    }).pipe(
      Effect.tapError((error) =>
        Effect.sync(() => {
          if (error._tag === "AttemptFailed" && error.kind === "NoPeer") counts.peerLookupFailures++
        })
      )
    )
    // What has failed a whole round before costs one attempt an interval.
    const attempts = owed.rounds > 0 ? once : Retry.immediately(options, once, feed.hasNew, isVain)
    const outcome = yield* Effect.result(attempts)
    if (outcome._tag === "Success") {
      const end = { owed, began, delivered: outcome.success }
      yield* count([end])
      return receiptOf(end)
    }
    const { failure } = outcome
    if (failure._tag === "OthersFirst") {
      place.answers = latest(answers.values())
      return failure
    }
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

  const count = Effect.fnUntraced(function*(all: ReadonlyArray<Ended>) {
    const now = yield* Clock.currentTimeMillis
    const placed = all.filter(({ delivered }) => delivered.placed === "Placed")
    counts.pulled += placed.length
    yield* Metrics.committed(placed.map(({ began, owed }) => ({ pull: now - began, owed: now - owed.since })))
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
    feed.postponed(file.entry.path, due)
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
      feed.skip(file)
      return { _tag: "Skipped", file } satisfies Receipt
    }
    if (Option.isNone(row) || row.value._tag !== "Owed" || row.value.file.revision !== file.revision) {
      return { _tag: "Withdrawn", file } satisfies Receipt
    }
    return row.value
  })

  const pull = Effect.fnUntraced(function*(place: Place) {
    const owed = yield* owedNow(place)
    return yield* Traces.sinceRegistration("replicate", place.file.entry, self.id, told)(pullAlone(place, owed))
  })

  const pullAlone = Effect.fnUntraced(function*(
    place: Place,
    owed: Owed | Receipt
  ): Effect.fn.Return<Receipt | OthersFirst, Attempt.NoRoom | InventoryError> {
    if (owed._tag !== "Owed") return owed
    const { file, withdrawn } = place
    if (Deferred.isDoneUnsafe(withdrawn)) return { _tag: "Withdrawn", file }
    if (place.known.absent !== true) {
      const standing = yield* adopt(owed)
      if (standing !== undefined) return standing
    }
    return yield* Effect.raceFirst(
      round(place, owed),
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
      feed.skip(file)
      return { _tag: "Skipped", file } satisfies Receipt
    }
    return undefined
  })

  // A defect must not cost more than one attempt an interval either.
  const afterDefect = Effect.fnUntraced(function*(file: Registered, cause: Cause.Cause<never>) {
    yield* Effect.logError(`${file.entry.path}: the pull ended by a defect`, cause)
    const row = yield* inventory.why(file.entry.path)
    if (Option.isNone(row) || row.value._tag !== "Owed") return { _tag: "Withdrawn", file } satisfies Receipt
    return yield* postpone(row.value, "Defect", "the pull ended by a defect; see the log")
  })

  const tell = (receipt: Receipt) => Effect.andThen(Metrics.finished(receipt._tag), PubSub.publish(receipts, receipt))

  const unwritable = (error: InventoryError) => Effect.andThen(pauses.unwritable(error), Effect.sync(feed.lookAgain))

  /** What went with others has come to its end, or goes alone. */
  const arrived = Effect.fnUntraced(function*(ends: Together.Ends) {
    const given = new Set(ends.map(([{ place }]) => place))
    yield* Effect.gen(function*() {
      const delivered = ends.flatMap(([{ began, owed }, end]) =>
        end._tag === "Delivered" ? [{ began, owed, delivered: end.delivered }] : []
      )
      counts.attempts += delivered.length
      yield* Metrics.attempted(false, delivered.length)
      yield* count(delivered)
      for (const end of delivered) {
        const { entry } = end.owed.file
        const receipt = receiptOf(end)
        // The tracer is the application's: what it throws must not be the others' trouble.
        yield* Traces.sinceRegistration("replicate", entry, self.id, told)(Effect.succeed(receipt)).pipe(
          Effect.catchDefect((defect) => Effect.logError(`${entry.path}: no span of its pull could be made`, defect))
        )
        yield* tell(receipt)
      }
      for (const [{ owed, place }, end] of ends) {
        if (end._tag === "Withdrawn") yield* tell({ _tag: "Withdrawn", file: owed.file })
        if (end._tag !== "Alone") continue
        given.delete(place)
        yield* feed.requeue(place)
      }
    }).pipe(Effect.ensuring(Effect.suspend(() => feed.giveBack(...given))))
    // What is read again must not leave any of them out as one in hand.
    for (const [, end] of ends) if (end._tag === "InventoryError") yield* unwritable(end)
  })
  const together = yield* Together.make({
    open: pauses.open,
    queueSize: options.queueSize,
    arrived,
    reach,
    onBytes,
    onWrong: (peer) => onAnswer(wrongBytes, peer)
  })

  // Taken by a worker, and kept from going on by a pause.
  let heldBack = 0
  /** Gives whether the file keeps its place. */
  const work = Effect.fnUntraced(
    function*(place: Place) {
      heldBack++
      yield* Effect.ensuring(pauses.open, Effect.sync(() => heldBack--))
      const outcome = yield* pull(place).pipe(
        Effect.catchDefect((defect) => afterDefect(place.file, Cause.die(defect))),
        Effect.result
      )
      if (outcome._tag === "Success") {
        const { success } = outcome
        if (success._tag === "OthersFirst") {
          yield* feed.setAside(place, success)
          return true
        }
        yield* tell(success)
        return false
      }
      // The row still says that the file is owed.
      if (outcome.failure._tag === "NoRoom") {
        yield* feed.park(place, outcome.failure)
        return true
      }
      yield* unwritable(outcome.failure)
      return false
    },
    (effect, place) =>
      Effect.onExit(effect, (exit) => Exit.isSuccess(exit) && exit.value ? Effect.void : feed.giveBack(place))
  )

  // So few at a time while none can go together: what is left goes alone, and a peer may soon say that it takes them.
  const few = 8
  let most: number = mostTogether.files
  /** Lets files go together; those that can't are left to the workers. */
  const gather = Effect.gen(function*() {
    yield* pauses.open
    const places = yield* feed.takeTogether(most)
    const left = yield* together.join(places)
    most = left.length < places.length ? mostTogether.files : few
    yield* feed.leaveAlone(left)
  })
  yield* background.run("what lets files go together", Effect.forever(gather))

  const { smallWorkers = 0, workers } = options
  const worker = (quick: boolean) => Effect.forever(Effect.flatMap(feed.take(quick), work))
  yield* background.run(
    "the workers of the puller",
    Effect.forEach(
      Array.from({ length: workers + smallWorkers }),
      (_, n) => worker(n >= workers || (n === 0 && workers > 1)),
      { concurrency: "unbounded", discard: true }
    )
  )
  return {
    stats: () => ({ ...counts, wrongBytes: new Map(wrongBytesOf), heldBack: heldBack + together.waiting() }),
    withdraw: together.withdraw
  }
})
