/**
 * Pulls of small files that go together: asked of a peer in one request, shown and recorded in one step. While some are
 * on their way, what is taken up meanwhile gathers for the next, so the more is owed the more goes together. What does
 * not come to its end so, for whatever reason, goes alone, and that tells why.
 */
import { Clock, Deferred, Effect, FiberSet, Latch, Option } from "effect"
import { enterLiveFirst } from "../internal/liveFirst.ts"
import { FetchClient, type FetchTogether, together } from "../ports/FetchClient.ts"
import { isLive, type NodeId } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import type { InventoryError, Owed } from "../ports/Inventory.ts"
import { keyOf, type Peer, PeerResolver } from "../ports/PeerResolver.ts"
import * as Metrics from "../telemetry/Metrics.ts"
import type { Delivered } from "./attempt.ts"
import type { Place } from "./Feed.ts"
import { best, memory, type Reach } from "./order.ts"
import { Placement } from "./Placement.ts"
import { Room } from "./Room.ts"

/** A file that goes with others. */
export interface Traveller {
  readonly place: Place
  readonly owed: Owed
  /** When it was taken up, milliseconds since 1970. */
  readonly began: number
}

/** What became of one; `Alone`: nothing yet, it goes alone. */
export type Arrival =
  | { readonly _tag: "Delivered"; readonly delivered: Delivered }
  | { readonly _tag: "Withdrawn" }
  | { readonly _tag: "Alone" }
  | InventoryError

export interface Together {
  /**
   * Takes over small files of which nothing is here and that were never tried. Gives those that it does not: the peer
   * that comes first must take such requests, and not too many wait for that one already.
   */
  readonly join: (places: ReadonlyArray<Place>) => Effect.Effect<ReadonlyArray<Place>>
  /** Lets go of a file that was withdrawn, unless it is on its way already. */
  readonly withdraw: (path: FilePath) => void
  /** How many were taken over, and are not on their way. */
  readonly waiting: () => number
}

/** On their way from one peer at once: while some are asked for, others are shown, and others recorded. */
const atOnce = 3
/** One more for what was registered just now: it does not wait for what is caught up on. */
const atOnceLive = atOnce + 1

/**
 * On their way from all peers at once, each with up to 1 MiB in memory. Some more may be asked of peers of which nothing
 * is on its way: those that send nothing keep no other from its turn. Beyond that files go alone.
 */
const mostInAll = 32
const moreInAll = 16

/** So many wait for one peer at most, and so many times as many for all. */
const mostWaiting = 16 * together.files
const manyPeersWaiting = 4
/** How long all that are brought at once wait for peers that have so many, milliseconds: one that sends makes room sooner. */
const patienceMillis = 1000

/** A peer that has sent wrong bytes is asked for nothing together for so long, milliseconds: alone it shows who it is. */
const distrustMillis = 600_000

const withdrawn: Arrival = { _tag: "Withdrawn" }
const alone: Arrival = { _tag: "Alone" }

/** At least one. */
type Travellers = readonly [Traveller, ...ReadonlyArray<Traveller>]

/** What gathers for one peer; forgotten when nothing does and nothing is on its way. */
interface Desk {
  readonly peer: Peer
  waiting: Array<Waiter>
  /** Open while few wait. */
  readonly few: Latch.Latch
  /** Many wait, and none of them has left for a while: no more wait for it until one does. */
  stuck: boolean
  onTheirWay: number
  scheduled: boolean
}

interface Waiter extends Traveller {
  /** Registered just now: it goes before what is caught up on. */
  readonly live: boolean
}

const entryOf = ({ owed }: Traveller) => owed.file.entry

/** Pure. How many of those that wait go together, the first first. */
const fitting = (waiting: ReadonlyArray<Waiter>): number => {
  let bytes = 0
  let pathLength = 0
  const end = waiting.findIndex((waiter, n) => {
    const { path, size_bytes: size } = entryOf(waiter)
    bytes += size
    pathLength += path.length
    return n === together.files || bytes > together.bytes || pathLength > together.pathLength
  })
  return end === -1 ? waiting.length : end
}

/** Pure. How many of those that wait were registered just now, no more than go together; they are the first. */
const livingAmong = (waiting: ReadonlyArray<Waiter>): number => {
  const end = waiting.findIndex(({ live }, n) => !live || n === together.files)
  return end === -1 ? waiting.length : end
}

/** Files that came to an end together, and what became of each. */
export type Ends = ReadonlyArray<readonly [Traveller, Arrival]>

/**
 * `open` holds back what would begin while pulls are paused. `arrived` is told of each file that was taken over, once.
 * `onWrong` is told of each peer whose bytes were wrong, `onBytes` of bytes that came.
 */
export const make = Effect.fnUntraced(function*({ arrived, onBytes, onWrong, open, queueSize, reach }: {
  readonly open: Effect.Effect<void>
  /** No more wait for one peer than that. */
  readonly queueSize: number
  readonly arrived: (ends: Ends) => Effect.Effect<void>
  readonly reach: Reach
  readonly onWrong: (peer: NodeId) => void
  readonly onBytes: (count: number) => void
}) {
  const client = yield* FetchClient
  const peers = yield* PeerResolver
  const placement = yield* Placement
  const room = yield* Room
  const clock = yield* Clock.Clock
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  const desks = new Map<string, Desk>()
  const distrusted = memory<number>()
  const manyWaiting = Math.min(mostWaiting, queueSize)
  const gathered = () => Array.from(desks.values()).reduce((sum, { waiting }) => sum + waiting.length, 0)
  // Sent, and held back by a pause.
  let held = 0
  // Brought, and not taken over yet.
  let brought = 0
  let inAll = 0

  /** How to ask a peer for several files now. */
  const wayTo = (peer: Peer): FetchTogether | undefined =>
    (distrusted.get(peer) ?? 0) > clock.currentTimeMillisUnsafe()
      ? undefined
      : Option.getOrUndefined(client.together?.(peer) ?? Option.none())

  const wrong = Effect.fnUntraced(function*(peer: Peer, paths: ReadonlyArray<FilePath>) {
    distrusted.set(peer, clock.currentTimeMillisUnsafe() + distrustMillis)
    for (const path of paths) {
      onWrong(peer.id)
      yield* Metrics.mismatched(peer.id)
      yield* Effect.logWarning(`${path}: ${peer.id} sent bytes with another sha256 than the manifest says`)
    }
  })

  /** Whom to ask for a file first. */
  const firstOf = ({ file: { entry } }: Place) =>
    peers.candidates(entry.origin_node_id, entry.path).pipe(
      Effect.map((candidates) => {
        const now = clock.currentTimeMillisUnsafe()
        return best(candidates, (peer) => reach.standingOf(peer, candidates, now))
      }),
      // Alone it finds that out for itself, and says so.
      Effect.catchCause(() => Effect.succeed(undefined))
    )

  /** Shows and records what came of some. Gives what became of those that came to an end. */
  const placeTogether = Effect.fnUntraced(function*(
    peer: Peer,
    some: ReadonlyArray<Traveller>,
    bodies: ReadonlyArray<Uint8Array | undefined>
  ) {
    const came = some.flatMap((traveller, n) => {
      const bytes = bodies[n]
      return bytes === undefined ? [] : [{ traveller, file: traveller.owed.file, bytes }]
    })
    // One that gives nothing may not even be who it should be.
    if (came.length > 0) reach.answered(peer)
    const length = came.reduce((sum, { bytes }) => sum + bytes.length, 0)
    onBytes(length)
    yield* Metrics.received(peer.id, length)
    const placed = yield* placement.placeTogether(came)
    const lies = came.filter((_, n) => placed[n] === "Wrong")
    if (lies.length > 0) yield* wrong(peer, lies.map(({ file }) => file.entry.path))
    return new Map(came.flatMap(({ bytes, traveller }, n): ReadonlyArray<readonly [Traveller, Arrival]> => {
      const outcome = placed[n]
      if (outcome === undefined || outcome === "Wrong") return []
      if (outcome !== "Placed" && outcome !== "Withdrawn") return [[traveller, outcome]]
      const delivered = { from: Option.some(peer.id), bytes: bytes.length, placed: outcome }
      return [[traveller, { _tag: "Delivered", delivered }]]
    }))
  })

  const pullAll = Effect.fnUntraced(
    function*(peer: Peer, ask: FetchTogether, wanted: Travellers, arrivals: Map<Traveller, Arrival>) {
      const [first, ...others] = wanted
      yield* room.claim(entryOf(first).path, wanted.reduce((sum, each) => sum + entryOf(each).size_bytes, 0))
      yield* ask(
        [entryOf(first), ...others.map(entryOf)],
        (bodies, from) =>
          placeTogether(peer, wanted.slice(from, from + bodies.length), bodies).pipe(
            Effect.map((placed) => placed.forEach((arrival, each) => arrivals.set(each, arrival))),
            Effect.uninterruptible
          )
      )
    },
    Effect.scoped,
    (effect, peer) =>
      Effect.catchTags(effect, {
        // Alone each finds that out for itself, and says so.
        BackendError: () => Effect.void,
        PeerUnreachable: ({ message }) =>
          Effect.logDebug(message).pipe(
            Effect.andThen(Effect.sync(() => reach.failed(peer, clock.currentTimeMillisUnsafe())))
          )
      })
  )

  const isGone = ({ withdrawn }: Place) => Deferred.isDoneUnsafe(withdrawn)

  const tell = (some: ReadonlyArray<Traveller>, arrival: (each: Traveller) => Arrival) =>
    Effect.catchCause(
      arrived(some.map((each) => [each, arrival(each)])),
      (cause) => Effect.logError(`what became of ${some.length} files together could not be told`, cause)
    )

  const send = (desk: Desk, some: ReadonlyArray<Traveller>): void => {
    desk.onTheirWay++
    inAll++
    held += some.length
    const arrivals = new Map<Traveller, Arrival>()
    const pull = Effect.suspend(() => {
      const [first, ...others] = some.filter(({ place }) => !isGone(place))
      // Much may have changed during a pause.
      const ask = wayTo(desk.peer)
      return first === undefined || ask === undefined
        ? Effect.void
        : pullAll(desk.peer, ask, [first, ...others], arrivals)
    })
    run(
      Effect.ensuring(open, Effect.sync(() => void (held -= some.length))).pipe(
        Effect.andThen(pull),
        Effect.catchDefect((defect) =>
          Effect.logError(`pulls of ${some.length} files together ended by a defect`, defect)
        ),
        Effect.ensuring(Effect.suspend(() => {
          desk.onTheirWay--
          inAll--
          schedule(desk)
          return tell(some, (each) => arrivals.get(each) ?? (isGone(each.place) ? withdrawn : alone))
        }))
      )
    )
  }

  /** The first of those that wait. */
  const take = (desk: Desk, count: number, from = 0): ReadonlyArray<Waiter> => {
    const taken = desk.waiting.splice(from, count)
    if (desk.waiting.length < manyWaiting) {
      desk.few.openUnsafe()
      desk.stuck = false
    }
    return taken
  }

  const leaveAlone = (desk: Desk, count: number): void => void run(tell(take(desk, count), () => alone))

  const giveTurns = (desk: Desk): void => {
    const takes = wayTo(desk.peer) !== undefined
    while (desk.waiting.length > 0) {
      const live = livingAmong(desk.waiting)
      const left = (live > 0 ? atOnceLive : atOnce) - desk.onTheirWay
      // What is caught up on does not ride on the last place.
      const count = Math.min(fitting(desk.waiting), left === 1 && live > 0 ? live : Infinity)
      const idle = desk.onTheirWay === 0
      const full = inAll >= (idle ? mostInAll + moreInAll : mostInAll)
      if (!takes || (full && idle)) leaveAlone(desk, desk.waiting.length)
      else if (count > 1 && left > 0 && !full) send(desk, take(desk, count))
      // A lone one gathers others while some are on their way, unless somebody may wait for it.
      else if (count < 2 && (idle || live > 0)) leaveAlone(desk, 1)
      else return
    }
    const key = keyOf(desk.peer)
    if (desk.onTheirWay === 0 && desks.get(key) === desk) desks.delete(key)
  }

  /** Gives turns once everybody who comes in this turn of the event loop has come. */
  const schedule = (desk: Desk): void => {
    if (desk.scheduled) return
    desk.scheduled = true
    // Fibers that go on together go on in an immediate of their own each.
    setImmediate(() => {
      desk.scheduled = false
      giveTurns(desk)
    })
  }

  const deskOf = (peer: Peer): Desk => {
    const key = keyOf(peer)
    const standing = desks.get(key)
    if (standing !== undefined) return standing
    const desk = { peer, waiting: [], few: Latch.makeUnsafe(true), stuck: false, onTheirWay: 0, scheduled: false }
    desks.set(key, desk)
    return desk
  }

  /** Waits for room for one more, until then at most, milliseconds since 1970. Gives whether there is. */
  const hasRoom = Effect.fnUntraced(function*(peer: Peer, until: number) {
    if (gathered() >= manyPeersWaiting * manyWaiting) return false
    const desk = desks.get(keyOf(peer))
    if (desk === undefined || desk.few.isOpen()) return true
    // The clock may be set back.
    const patience = Math.min(patienceMillis, until - clock.currentTimeMillisUnsafe())
    if (desk.stuck || patience <= 0) return false
    desk.stuck = Option.isNone(yield* Effect.timeoutOption(desk.few.await, patience))
    return !desk.stuck
  })

  const enter = (peer: Peer, place: Place, owed: Owed): void => {
    const desk = deskOf(peer)
    const began = clock.currentTimeMillisUnsafe()
    enterLiveFirst(desk.waiting, { place, owed, began, live: isLive(place.file.entry, began) })
    if (desk.waiting.length >= manyWaiting) desk.few.closeUnsafe()
    schedule(desk)
  }

  /** Files by the peer that is to be asked first for them; those that have none that takes such requests. */
  const byPeer = Effect.fnUntraced(function*(places: ReadonlyArray<Place>) {
    const groups = new Map<string, { readonly peer: Peer; readonly some: Array<Place> }>()
    const left: Array<Place> = []
    for (const place of places) {
      const peer = yield* firstOf(place)
      if (peer === undefined || wayTo(peer) === undefined) {
        left.push(place)
        continue
      }
      const group = groups.get(keyOf(peer)) ?? { peer, some: [] }
      groups.set(keyOf(peer), group)
      group.some.push(place)
    }
    return { groups: groups.values(), left }
  })

  const joined: Together = {
    join: Effect.fnUntraced(function*(places) {
      brought = places.length
      const { groups, left } = yield* byPeer(places)
      // Newer ones wait behind all of these.
      const until = clock.currentTimeMillisUnsafe() + patienceMillis
      for (const { peer, some } of groups) {
        // A lone one need not wait to hear that no others come.
        const goesAlone = some.length === 1 && !desks.has(keyOf(peer))
        for (const place of some) {
          const may = !goesAlone && (yield* hasRoom(peer, until))
          // What was known of it may not be any more.
          const { owed } = place.known
          if (!may || owed === undefined || isGone(place)) left.push(place)
          else {
            enter(peer, place, owed)
            brought--
          }
        }
      }
      brought = 0
      return left
    }),
    withdraw: (path) => {
      for (const desk of desks.values()) {
        const at = desk.waiting.findIndex((each) => entryOf(each).path === path)
        if (at === -1) continue
        run(tell(take(desk, 1, at), () => withdrawn))
        schedule(desk)
      }
    },
    waiting: () => gathered() + held + brought
  }
  return joined
})
