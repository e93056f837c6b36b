/**
 * Whose turn it is to fetch a file from a peer, giants aside. While one bundle is on its way, what is asked for meanwhile gathers
 * for the next, so the more is asked for the more goes together, and what is asked for alone goes at once.
 *
 * What is no matter of a bundle, too long or of a peer that takes none, is asked for alone, a few at once: more may soon
 * be more than the peer sends, to all who ask it.
 */
import { Clock, Deferred, Effect, type Fiber, FiberSet, type Scope } from "effect"
import type { FileEntry } from "../ports/FileEntry.ts"
import { addressText } from "../ports/Membership.ts"
import type { Peer } from "../ports/PeerResolver.ts"
import type { FetchBundle } from "./fetchBundle.ts"
import * as Bundle from "./protocol/bundle.ts"

/** What is done when a file's turn has come. */
export interface Ways<E1, E2> {
  readonly came: (bytes: Uint8Array) => Effect.Effect<void, E1>
  readonly alone: Effect.Effect<void, E2>
}

export interface Turns {
  /**
   * Waits for the turn of a file, which is no giant, then gives what came in a bundle, or else has it asked for alone.
   * `rest`: bytes that are wanted; of a file that goes on, not all.
   */
  readonly take: <E1, E2>(
    peer: Peer,
    entry: FileEntry,
    rest: number,
    ways: Ways<E1, E2>
  ) => Effect.Effect<void, E1 | E2>
  /** The peer has said whether it takes bundles. */
  readonly heard: (peer: Peer, takesBundles: boolean) => void
}

/** Files that one peer is asked for at once, each alone. */
const maxAlone = 12
/** Bundles on their way from one peer: while one is written here, the other is read there. */
const maxBundles = 2
/** A peer that failed a bundle is asked for none for so long, milliseconds. */
const restMillis = 60_000
/** More peers than any cluster has; what is known of the oldest is dropped beyond. */
const manyPeers = 4096

/** One that asks for a file. */
interface Waiter {
  readonly entry: FileEntry
  /** The file's bytes; nothing: it goes alone. */
  readonly turn: Deferred.Deferred<Uint8Array | undefined>
  state: "waiting" | "bundled" | "alone" | "gone"
  /** It is no matter of a bundle, or was not in one. */
  mustGoAlone: boolean
  bundle: Sent | undefined
}

/** A bundle on its way. */
interface Sent {
  /** How many still wait for it. */
  awaited: number
  fiber: Fiber.Fiber<void> | undefined
}

/** What is asked of one peer. */
interface Desk {
  readonly peer: Peer
  takesBundles: boolean
  /** When it may be asked for a bundle again, milliseconds. */
  restsUntil: number
  waiting: Array<Waiter>
  alone: number
  bundles: number
  scheduled: boolean
}

const keyOf = (peer: Peer): string => `${peer.id} ${addressText(peer.address)}`

/** The first of those that wait that fit into one bundle. */
const fitting = (waiting: ReadonlyArray<Waiter>): ReadonlyArray<Waiter> => {
  let bytes = 0
  let length = 0
  const end = waiting.findIndex(({ entry }, n) => {
    bytes += entry.size_bytes
    length += entry.path.length
    return n === Bundle.maxFiles || bytes > Bundle.maxBytes || length > Bundle.maxPathLength
  })
  return end === -1 ? waiting : waiting.slice(0, end)
}

export const make = Effect.fnUntraced(function*(fetchBundle: FetchBundle): Effect.fn.Return<Turns, never, Scope.Scope> {
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  const clock = yield* Clock.Clock
  const desks = new Map<string, Desk>()

  const deskOf = (peer: Peer): Desk => {
    const key = keyOf(peer)
    const known = desks.get(key)
    if (known !== undefined) return known
    const idle = ({ alone, bundles, waiting }: Desk) => alone + bundles + waiting.length === 0
    for (const [key, desk] of desks.size < manyPeers ? [] : desks) if (idle(desk)) desks.delete(key)
    const desk: Desk = { peer, takesBundles: false, restsUntil: 0, waiting: [], alone: 0, bundles: 0, scheduled: false }
    desks.set(key, desk)
    return desk
  }

  /** Gives turns once everybody who asks in this turn of the event loop has asked. */
  const schedule = (desk: Desk): void => {
    if (desk.scheduled) return
    desk.scheduled = true
    // Fibers that go on together go on in an immediate of their own each.
    setImmediate(() => {
      desk.scheduled = false
      giveTurns(desk)
    })
  }

  const giveTurns = (desk: Desk): void => {
    const bundling = desk.takesBundles && desk.restsUntil <= clock.currentTimeMillisUnsafe()
    while (desk.waiting.length > 0) {
      const together = fitting(bundling ? desk.waiting.filter(({ mustGoAlone }) => !mustGoAlone) : [])
      if (together.length > 1) {
        if (desk.bundles < maxBundles) {
          send(desk, together)
          continue
        }
      }
      const goes = desk.alone < maxAlone
        ? desk.waiting.find(({ mustGoAlone }) =>
          mustGoAlone || !bundling || (together.length === 1 && desk.bundles === 0)
        )
        : undefined
      if (goes === undefined) return
      desk.waiting = desk.waiting.filter((each) => each !== goes)
      desk.alone++
      goes.state = "alone"
      Deferred.doneUnsafe(goes.turn, Effect.undefined)
    }
  }

  const send = (desk: Desk, waiters: ReadonlyArray<Waiter>): void => {
    const [first, ...others] = waiters.map(({ entry }) => entry)
    if (first === undefined) return
    const bundle: Sent = { awaited: waiters.length, fiber: undefined }
    for (const waiter of waiters) {
      waiter.state = "bundled"
      waiter.bundle = bundle
    }
    desk.waiting = desk.waiting.filter(({ state }) => state === "waiting")
    desk.bundles++
    const deliver = (bytes: ReadonlyArray<Uint8Array | undefined>): void => {
      desk.bundles--
      waiters.forEach((waiter, n) => {
        if (waiter.state !== "bundled") return
        const came = bytes[n]
        if (came === undefined) {
          waiter.state = "waiting"
          waiter.mustGoAlone = true
          desk.waiting.push(waiter)
        } else {
          waiter.state = "gone"
          Deferred.doneUnsafe(waiter.turn, Effect.succeed(came))
        }
      })
      schedule(desk)
    }
    let came: ReadonlyArray<Uint8Array | undefined> = []
    bundle.fiber = run(
      fetchBundle(desk.peer, [first, ...others]).pipe(
        Effect.matchEffect({
          onSuccess: (bytes) => Effect.sync(() => void (came = bytes)),
          onFailure: ({ message }) => {
            desk.restsUntil = clock.currentTimeMillisUnsafe() + restMillis
            return Effect.logDebug(`no bundle from ${desk.peer.id}, so files are asked for one by one: ${message}`)
          }
        }),
        Effect.ensuring(Effect.sync(() => deliver(came)))
      )
    )
  }

  const leave = (desk: Desk, waiter: Waiter): void => {
    const { bundle, state } = waiter
    waiter.state = "gone"
    if (state === "waiting") desk.waiting = desk.waiting.filter((each) => each !== waiter)
    if (state === "bundled" && bundle !== undefined && --bundle.awaited === 0) bundle.fiber?.interruptUnsafe()
    if (state === "alone") {
      desk.alone--
      schedule(desk)
    }
  }

  return {
    take: <E1, E2>(peer: Peer, entry: FileEntry, rest: number, { alone, came }: Ways<E1, E2>) =>
      Effect.suspend(() => {
        const desk = deskOf(peer)
        const waiter: Waiter = {
          entry,
          turn: Deferred.makeUnsafe(),
          state: "waiting",
          mustGoAlone: rest < entry.size_bytes || rest > Bundle.maxFileBytes,
          bundle: undefined
        }
        desk.waiting.push(waiter)
        schedule(desk)
        return Deferred.await(waiter.turn).pipe(
          Effect.flatMap((bytes): Effect.Effect<void, E1 | E2> => bytes === undefined ? alone : came(bytes)),
          Effect.ensuring(Effect.sync(() => leave(desk, waiter)))
        )
      }),
    heard: (peer, takesBundles) => {
      const desk = deskOf(peer)
      if (desk.takesBundles === takesBundles) return
      desk.takesBundles = takesBundles
      schedule(desk)
    }
  }
})
