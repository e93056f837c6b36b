/**
 * Pulls of small files that go together: asked of a peer in one request, shown and recorded in one step. While some are
 * on their way, what is taken up meanwhile gathers for the next, so the more is owed the more goes together. What does
 * not come to its end so, for whatever reason, goes alone, and that tells why.
 */
import { Clock, Deferred, Effect, FiberSet, Latch, Option } from "effect"
import { FetchClient, type FetchTogether, together } from "../ports/FetchClient.ts"
import { isLive, type NodeId } from "../ports/FileEntry.ts"
import type { InventoryError, Owed } from "../ports/Inventory.ts"
import { keyOf, type Peer, PeerResolver } from "../ports/PeerResolver.ts"
import * as Metrics from "../telemetry/Metrics.ts"
import type { Delivered } from "./attempt.ts"
import type { Place } from "./Feed.ts"
import { plan, type Reach } from "./order.ts"
import { Placement } from "./Placement.ts"
import { Room } from "./Room.ts"

/** A file that a worker has taken up, to go with others. */
export interface Traveller {
  readonly place: Place
  readonly owed: Owed
  /** When that was, milliseconds since 1970. */
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
   * Takes over a file of which nothing is here and that was never tried, and waits while very many wait already. Gives
   * whether it does: the file must be small, and the peer that comes first take such requests.
   */
  readonly join: (traveller: Traveller) => Effect.Effect<boolean>
}

/** On their way from one peer at once: while some are asked for, others are shown, and others recorded. */
const atOnce = 3

/** So many may wait, of all peers, before whoever brings more waits as well. */
const manyWaiting = 2 * together.files

const withdrawn: Arrival = { _tag: "Withdrawn" }
const alone: Arrival = { _tag: "Alone" }
const none: ReadonlyMap<Traveller, Arrival> = new Map()

/** At least one. */
type Travellers = readonly [Traveller, ...ReadonlyArray<Traveller>]

/** What gathers for one peer; forgotten when nothing does and nothing is on its way. */
interface Desk {
  readonly peer: Peer
  waiting: Array<Waiter>
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

/**
 * `open` holds back what would begin while pulls are paused. `arrived` is told of each file that was taken over, once.
 * `onBack` is told of each peer that answers after it had failed, `onBytes` of bytes that came.
 */
export const make = Effect.fnUntraced(function*({ arrived, onBack, onBytes, open, reach }: {
  readonly open: Effect.Effect<void>
  readonly arrived: (traveller: Traveller, arrival: Arrival) => Effect.Effect<void>
  readonly reach: Reach
  readonly onBack: (peer: NodeId) => void
  readonly onBytes: (count: number) => void
}) {
  const client = yield* FetchClient
  const peers = yield* PeerResolver
  const placement = yield* Placement
  const room = yield* Room
  const clock = yield* Clock.Clock
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  const desks = new Map<string, Desk>()
  const few = Latch.makeUnsafe(true)
  let waiting = 0

  /** Whom to ask for a file first. */
  const firstOf = ({ owed: { file: { entry } } }: Traveller) =>
    peers.candidates(entry.origin_node_id, entry.path).pipe(
      Effect.map((candidates) => {
        const now = clock.currentTimeMillisUnsafe()
        return plan(candidates, new Map(), (peer) => reach.standingOf(peer, candidates, now), now).ask[0]
      }),
      Effect.orElseSucceed(() => undefined)
    )

  /** Shows and records what came of some. Gives what became of those that came to an end. */
  const placeTogether = Effect.fnUntraced(function*(
    peer: Peer,
    some: ReadonlyArray<Traveller>,
    bodies: ReadonlyArray<Uint8Array | undefined>
  ) {
    if (reach.answered(peer)) onBack(peer.id)
    const came = some.flatMap((traveller, n) => {
      const bytes = bodies[n]
      return bytes === undefined ? [] : [{ traveller, file: traveller.owed.file, bytes }]
    })
    const length = came.reduce((sum, { bytes }) => sum + bytes.length, 0)
    onBytes(length)
    yield* Metrics.received(peer.id, length)
    const placed = yield* Effect.result(placement.placeTogether(came))
    return new Map(came.flatMap(({ bytes, traveller }, n): ReadonlyArray<readonly [Traveller, Arrival]> => {
      if (placed._tag === "Failure") return [[traveller, placed.failure]]
      const outcome = placed.success[n]
      if (outcome === undefined) return []
      const delivered = { from: Option.some(peer.id), bytes: bytes.length, placed: outcome }
      return [[traveller, { _tag: "Delivered", delivered }]]
    }))
  })

  const pullAll = Effect.fnUntraced(
    function*(peer: Peer, ask: FetchTogether, wanted: Travellers) {
      const [first, ...others] = wanted
      yield* room.claim(entryOf(first).path, wanted.reduce((sum, each) => sum + entryOf(each).size_bytes, 0))
      return yield* ask([entryOf(first), ...others.map(entryOf)], (bodies) => placeTogether(peer, wanted, bodies))
    },
    Effect.scoped,
    (effect, peer) =>
      Effect.catchTags(effect, {
        // Alone each finds that out for itself, and says so.
        BackendError: () => Effect.succeed(none),
        PeerUnreachable: ({ message }) =>
          Effect.logDebug(message).pipe(
            Effect.andThen(Effect.sync(() => reach.failed(peer, clock.currentTimeMillisUnsafe()))),
            Effect.as(none)
          )
      })
  )

  const send = (desk: Desk, ask: FetchTogether, some: ReadonlyArray<Traveller>): void => {
    desk.onTheirWay++
    let arrivals = none
    const isGone = ({ place }: Traveller) => Deferred.isDoneUnsafe(place.withdrawn)
    const pull = Effect.suspend(() => {
      const [first, ...others] = some.filter((each) => !isGone(each))
      return first === undefined ? Effect.succeed(none) : pullAll(desk.peer, ask, [first, ...others])
    })
    run(
      Effect.andThen(open, pull).pipe(
        Effect.map((found) => void (arrivals = found)),
        Effect.catchDefect((defect) =>
          Effect.logError(`pulls of ${some.length} files together ended by a defect`, defect)
        ),
        Effect.ensuring(Effect.suspend(() => {
          desk.onTheirWay--
          schedule(desk)
          return Effect.forEach(
            some,
            (each) => arrived(each, arrivals.get(each) ?? (isGone(each) ? withdrawn : alone)),
            { discard: true }
          )
        }))
      )
    )
  }

  /** The first of those that wait. */
  const take = (desk: Desk, count: number): ReadonlyArray<Traveller> => {
    waiting -= count
    if (waiting < manyWaiting) few.openUnsafe()
    return desk.waiting.splice(0, count)
  }

  const leaveAlone = (some: ReadonlyArray<Traveller>): void => {
    run(Effect.forEach(some, (each) => arrived(each, alone), { discard: true }))
  }

  const giveTurns = (desk: Desk): void => {
    const ask = Option.getOrUndefined(client.together?.(desk.peer) ?? Option.none())
    while (desk.waiting.length > 0) {
      const count = fitting(desk.waiting)
      if (ask === undefined) leaveAlone(take(desk, desk.waiting.length))
      else if (count > 1 && desk.onTheirWay < atOnce) send(desk, ask, take(desk, count))
      // A lone one gathers others while some are on their way, unless somebody may wait for it.
      else if (count < 2 && (desk.onTheirWay === 0 || desk.waiting[0]?.live === true)) leaveAlone(take(desk, 1))
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

  const enter = (peer: Peer, traveller: Traveller): void => {
    const key = keyOf(peer)
    const desk = desks.get(key) ?? { peer, waiting: [], onTheirWay: 0, scheduled: false }
    desks.set(key, desk)
    const waiter = { ...traveller, live: isLive(entryOf(traveller), clock.currentTimeMillisUnsafe()) }
    const late = waiter.live ? desk.waiting.findIndex(({ live }) => !live) : -1
    if (late === -1) desk.waiting.push(waiter)
    else desk.waiting.splice(late, 0, waiter)
    if (++waiting >= manyWaiting) few.closeUnsafe()
    schedule(desk)
  }

  const joined: Together = {
    join: Effect.fnUntraced(function*(traveller) {
      const { size_bytes: size } = entryOf(traveller)
      if (client.together === undefined || size === 0 || size > together.fileBytes) return false
      yield* few.await
      const peer = yield* firstOf(traveller)
      if (peer === undefined || Option.isNone(client.together(peer))) return false
      enter(peer, traveller)
      return true
    })
  }
  return joined
})
