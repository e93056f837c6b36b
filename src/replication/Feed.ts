/**
 * What waits for a worker: a bounded queue, and the feed that fills it with what is owed and due. What does not fit is
 * not lost, it stays owed and is read again once there is room. What finds no room on the disk, or is left to others
 * first, waits beside the queue.
 */
import { Clock, Deferred, Duration, Effect, Option, Queue, type Scope } from "effect"
import { Backend } from "../ports/Backend.ts"
import { FetchClient, together } from "../ports/FetchClient.ts"
import type { Registered } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { Inventory, type InventoryError, type Owed, type PeerAnswer } from "../ports/Inventory.ts"
import { Membership } from "../ports/Membership.ts"
import * as Aside from "./Aside.ts"
import type { NoRoom } from "./attempt.ts"
import { Background } from "./Background.ts"
import type { OthersFirst } from "./crowds.ts"
import { isVerified } from "./decide.ts"
import { type Lane, laneOf, type Lanes, lanes, type List, make as makeLanes } from "./lanes.ts"
import * as Parked from "./Parked.ts"
import type { Pauses } from "./Pauses.ts"
import type { Enqueued, PullerStats } from "./pulls.ts"
import { Room } from "./Room.ts"

/** The feed looks at what is due at least this often, milliseconds. */
const longestWait = 60_000

/** What was known of a path when it was queued. */
interface Known {
  /** Its row, read just before. */
  readonly owed?: Owed | undefined
  /** Nothing lay under its name. */
  readonly absent?: boolean | undefined
}

/** A file that `Inventory` owes. */
export interface Debt {
  readonly file: Registered
  /** Its row, where that was written just now; else it is read. */
  readonly owed?: Owed | undefined
}

/** A path that is queued, in flight, or waits beside the queue. */
export interface Place {
  readonly file: Registered
  readonly lane: Lane
  readonly withdrawn: Deferred.Deferred<void>
  known: Known
  /** What peers had answered when it was last left to others; `undefined`: never. */
  answers?: ReadonlyArray<PeerAnswer>
  /** Why it had no room on the disk when that was last tried. */
  noRoom: string
  /** When it is to be tried again, milliseconds since 1970, where its round has ended without it. */
  due?: number
}

export interface FeedStats
  extends
    Pick<PullerStats, "enqueued" | "skippedSelf" | "skippedLocal" | "skippedDuplicate" | "dropped" | "queuedSmall">
{
  /** Files that wait for a worker, or beside the queue. */
  readonly waiting: number
  /** Files that have a place. */
  readonly places: number
}

export interface Feed extends Pick<Lanes<Place>, "take" | "takeTogether" | "hasNew"> {
  /** Records a file as owed and queues it, without waiting for room. */
  readonly enqueue: (file: Registered) => Effect.Effect<Enqueued, InventoryError>
  /** Queues what is owed, without waiting for room. */
  readonly offer: (debts: ReadonlyArray<Debt>) => Effect.Effect<void>
  /** Counts a file that was found to be here. */
  readonly skip: (file: Registered) => void
  /** Whoever took them has ended with them, and has not put them beside the queue. */
  readonly giveBack: (...places: ReadonlyArray<Place>) => Effect.Effect<void>
  /** Whoever took it could not pull it together with others: it keeps its place, and waits for a worker. */
  readonly requeue: (place: Place) => Effect.Effect<void>
  /** The same of what was not tried: what was known of it is known still. */
  readonly leaveAlone: (places: ReadonlyArray<Place>) => Effect.Effect<void>
  /** Whoever took it found no room for it: it keeps its place, and is queued again once there is room. */
  readonly park: (place: Place, noRoom: NoRoom) => Effect.Effect<void>
  /** Whether a file may be left to others, who take it first. */
  readonly mayWait: (place: Place) => Effect.Effect<boolean>
  /** Others take it first: it keeps its place, and is queued again in a moment. */
  readonly setAside: (place: Place, others: OthersFirst) => Effect.Effect<void>
  /** Whether a path has a place. */
  readonly has: (path: FilePath) => boolean
  /**
   * Tells whoever has taken a path to stop. Gives its file if it waited beside the queue: nobody else tells of its end
   * then.
   */
  readonly withdraw: (path: FilePath) => Registered | undefined
  /** Why a file waits beside the queue; `none` unless it does. */
  readonly waitsFor: (path: FilePath) => Option.Option<string>
  /** How many wait for room on the disk. */
  readonly parked: () => number
  /** The round of a path has ended without its file, which rests until `due`, milliseconds since 1970. */
  readonly postponed: (path: FilePath, due: number) => void
  /** More may be due than is known. */
  readonly lookAgain: () => void
  /** The same, and nothing else may tell of it soon. */
  readonly lookNow: () => void
  readonly stats: () => FeedStats
}

/** `queueSize`: places of each lane, and for how many that wait for room. */
export const start = Effect.fnUntraced(function*(
  queueSize: number,
  pauses: Pauses
): Effect.fn.Return<Feed, never, Background | Backend | FetchClient | Inventory | Membership | Room | Scope.Scope> {
  const backend = yield* Backend
  const client = yield* FetchClient
  const inventory = yield* Inventory
  const { self } = yield* Membership
  const room = yield* Room
  const background = yield* Background

  const queue = makeLanes<Place>(queueSize, ({ file }) => file.revision)
  const places = new Map<FilePath, Place>()
  // They keep their place while they wait, so that the others, which fit, go on.
  const parked = Parked.make<Place>()
  const wake = yield* Queue.sliding<void>(1)
  // More may be owed and due than a lane of the queue had room for.
  const more: Record<Lane, boolean> = { small: true, giant: true, again: true }
  const lookAgain = (): void => {
    for (const lane of lanes) more[lane] = true
  }

  const counts = { enqueued: 0, skippedSelf: 0, skippedLocal: 0, skippedDuplicate: 0, dropped: 0 }

  /** It found no room, or gave way; it stays owed and is read again. */
  const drop = (place: Place): void => {
    places.delete(place.file.entry.path)
    more[place.lane] = true
    counts.dropped++
  }

  /** Whether it may go together with others: small, never tried, and nothing lies under its name. */
  const travels = ({ file: { entry: { size_bytes: size } }, known: { absent, owed } }: Place): boolean =>
    client.together !== undefined && absent === true && owed?.rounds === 0 && size > 0 && size <= together.fileBytes

  /** Gives whether it waits in the queue now. An older one may have given way to it, and is read again later. */
  const admit = (place: Place, list: List = travels(place) ? "together" : place.lane): boolean => {
    const left = queue.offer(place, place.lane, list)
    if (left === place) return false
    if (left !== undefined) drop(left)
    return true
  }

  /** The same of one that has its place still. */
  const readmit = (place: Place, list?: List): void => {
    if (!admit(place, list)) drop(place)
  }

  const aside = yield* Aside.make<Place>((place) => readmit(place))

  /** Gives whether it waited beside the queue. */
  const removed = (place: Place): boolean => parked.remove(place) || aside.remove(place)

  const queueUp = (file: Registered, lane: Lane = laneOf(file, 0), known: Known = {}): Enqueued => {
    const { path } = file.entry
    const place = places.get(path)
    // What was replaced waits for nothing any more.
    const replaced = place !== undefined && place.file.revision !== file.revision && removed(place)
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
      drop(taken)
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

  const hasRoom = (lane: Lane): boolean => more[lane] && queue.room(lane) * 2 >= queueSize

  // When the earliest of what rests is due.
  let promised = Infinity
  // The same of what was given back since the inventory was last asked: its time may have come before it was, and what
  // is in hand is not among what is due.
  let givenBackDue = Infinity
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

  /** The rows of those debts that come without, and may go together with others; of any other, it is read in its turn. */
  const rowsOf = Effect.fnUntraced(function*(debts: ReadonlyArray<Debt>, absent: ReadonlySet<FilePath>) {
    const paths = debts.filter(({ owed }) => owed === undefined).map(({ file }) => file.entry.path)
    const unread = paths.filter((path) => absent.has(path))
    const rows = unread.length === 0 ? [] : yield* Effect.orElseSucceed(inventory.look(unread), () => [])
    return new Map(rows.flatMap(({ row }) => row?._tag === "Owed" ? [[row.file.entry.path, row] as const] : []))
  })

  // Whatever is owed and due, whenever there is room for half a lane of it: at the start, after a full queue, and
  // when the time of something that was postponed has come.
  const feed = Effect.gen(function*() {
    const now = yield* Clock.currentTimeMillis
    // Its time may have come while something else woke this.
    // What became due meanwhile by somebody else's hand told nobody.
    if (now >= promised || now >= givenBackDue || now - lookedAt >= longestWait) lookAgain()
    if (lanes.some(hasRoom)) {
      lookedAt = now
      // Before the question: whatever comes behind it sets this again.
      for (const lane of lanes) more[lane] = false
      changed = true
      givenBackDue = Infinity
      const endedMeanwhile = new Set<FilePath>()
      ended = endedMeanwhile
      // What is queued or in flight is owed and due as well.
      const due = yield* inventory.due(now, queueSize, Array.from(places.values(), ({ file }) => file))
      const absent = yield* absentAmong(due.map(({ file }) => file))
      const found = { small: 0, giant: 0, again: 0 }
      for (const owed of due) {
        const { file, rounds } = owed
        const lane = laneOf(file, rounds)
        if (++found[lane] === queueSize) more[lane] = true
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
    // Where there is no room for what is due now, whoever makes room wakes this.
    const next = Math.min(promised, givenBackDue > now ? givenBackDue : Infinity)
    const wait = Math.min(next - now, longestWait)
    const woken = yield* Queue.take(wake).pipe(Effect.timeoutOption(Duration.millis(wait)))
    if (Option.isNone(woken)) lookAgain()
  })

  const pauseFeed = (error: InventoryError) =>
    Effect.andThen(
      pauses.unwritable(error),
      Effect.andThen(
        pauses.writable,
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

  const wakeIfRoom = Effect.sync(() => {
    if (changed || lanes.some(hasRoom)) Queue.offerUnsafe(wake, undefined)
  })

  const giveBack = (...given: ReadonlyArray<Place>) =>
    Effect.andThen(
      Effect.sync(() => {
        for (const place of given) {
          const { path } = place.file.entry
          ended?.add(path)
          if (places.get(path) === place) places.delete(path)
          if (place.due === undefined) continue
          givenBackDue = Math.min(givenBackDue, place.due)
          changed = true
        }
      }),
      wakeIfRoom
    )

  // Only so many are remembered; beyond that whatever comes waits as well.
  const holdForRoom = (): void => (parked.size() < queueSize ? pauses.release : pauses.hold)("disk")

  const park = Effect.fnUntraced(function*(place: Place, { bytes, message }: NoRoom) {
    if (parked.size() === 0) yield* Effect.logWarning(`pulling pauses for what has no room: ${message}`)
    place.noRoom = message
    place.known = {}
    parked.add(place, bytes)
    holdForRoom()
    yield* wakeIfRoom
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

  return {
    take: queue.take,
    takeTogether: queue.takeTogether,
    hasNew: queue.hasNew,
    enqueue,
    offer: Effect.fnUntraced(function*(debts) {
      const absent = yield* absentAmong(debts.map(({ file }) => file))
      const rows = yield* rowsOf(debts, absent)
      for (const { file, owed = rows.get(file.entry.path) } of debts) {
        const own = owed?.file.revision === file.revision ? owed : undefined
        queueUp(file, laneOf(file, 0), { owed: own, absent: absent.has(file.entry.path) })
      }
    }),
    skip,
    giveBack,
    requeue: (place) =>
      Effect.andThen(
        Effect.sync(() => {
          // So it goes alone: only what is known to be absent goes together.
          place.known = {}
          readmit(place)
        }),
        wakeIfRoom
      ),
    leaveAlone: (some) =>
      Effect.andThen(
        Effect.sync(() => {
          for (const place of some) readmit(place, "left")
        }),
        // Of the others, which were not left, more is read for the room that they leave.
        wakeIfRoom
      ),
    park,
    mayWait: aside.mayWait,
    setAside: (place, others) => {
      place.known = {}
      return Effect.andThen(aside.add(place, others), wakeIfRoom)
    },
    has: (path) => places.has(path),
    withdraw: (path) => {
      ended?.add(path)
      const place = places.get(path)
      if (place === undefined) return undefined
      Deferred.doneUnsafe(place.withdrawn, Effect.void)
      if (!removed(place)) return undefined
      places.delete(path)
      return place.file
    },
    waitsFor: (path) => {
      const place = places.get(path)
      if (place === undefined) return Option.none()
      return parked.has(place) ? Option.some(place.noRoom) : aside.why(place)
    },
    parked: parked.size,
    postponed: (path, due) => {
      const place = places.get(path)
      if (place !== undefined) place.due = due
    },
    lookAgain,
    lookNow: () => {
      lookAgain()
      Queue.offerUnsafe(wake, undefined)
    },
    stats: () => ({
      ...counts,
      queuedSmall: queueSize - queue.room("small"),
      waiting: lanes.reduce((sum, lane) => sum + queueSize - queue.room(lane), 0) + parked.size()
        + aside.size(),
      places: places.size
    })
  }
})
