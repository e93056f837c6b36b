/**
 * Whose turn it is to fetch a file from a peer, giants aside. While one bundle is on its way, what is asked for meanwhile gathers
 * for the next, so the more is asked for the more goes together, and what is asked for alone goes at once.
 *
 * What is no matter of a bundle, too long or of a peer that takes none, is asked for alone, a few at once: more may soon
 * be more than the peer sends, to all who ask it.
 */
import { Clock, Deferred, Effect, type Fiber, FiberSet, type Scope } from "effect"
import { PeerUnreachable, Stalled } from "../ports/FetchClient.ts"
import type { FileEntry } from "../ports/FileEntry.ts"
import type { Peer } from "../ports/PeerResolver.ts"
import { keyOf } from "./Connections.ts"
import type { FetchBundle, NoBundle } from "./fetchBundle.ts"
import * as Bundle from "./protocol/bundle.ts"
import { isLive } from "./RateLimits.ts"

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
  ) => Effect.Effect<void, E1 | E2 | PeerUnreachable>
  /** The peer has said whether it takes bundles. */
  readonly heard: (peer: Peer, takesBundles: boolean) => void
}

/** Files that all peers together are asked for at once, each alone; more when `atOnce` is: each holds a connection. */
const maxAloneInAll = 32
/** Bundles on their way from one peer: while one is written here, the other is read there. */
const maxBundles = 2
/** A peer that failed a bundle is asked for none for so long, milliseconds. */
const restMillis = 60_000
/** More peers than any cluster has; what is known of the oldest is dropped beyond. */
const manyPeers = 4096

/** One that asks for a file. */
interface Waiter {
  readonly entry: FileEntry
  /** Registered just now: it goes before what is caught up on. */
  readonly live: boolean
  /** The file's bytes; nothing: it goes alone. */
  readonly turn: Deferred.Deferred<Uint8Array | undefined, PeerUnreachable>
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

export interface TurnsOptions {
  readonly fetchBundle: FetchBundle
  /** Whether bundles may be asked for now. */
  readonly bundling: () => boolean
  /** Files that one peer is asked for at once, each alone. */
  readonly atOnce: number
}

export const make = Effect.fnUntraced(function*(
  { atOnce, bundling, fetchBundle }: TurnsOptions
): Effect.fn.Return<Turns, never, Scope.Scope> {
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  const clock = yield* Clock.Clock
  const desks = new Map<string, Desk>()
  let aloneInAll = 0
  let closed = false
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      closed = true
    })
  )

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

  const wait = (desk: Desk, waiter: Waiter): void => {
    waiter.state = "waiting"
    const late = waiter.live ? desk.waiting.findIndex(({ live }) => !live) : -1
    if (late === -1) desk.waiting.push(waiter)
    else desk.waiting.splice(late, 0, waiter)
    schedule(desk)
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
    const takes = desk.takesBundles && !closed && bundling() && desk.restsUntil <= clock.currentTimeMillisUnsafe()
    while (desk.waiting.length > 0) {
      const together = takes ? fitting(desk.waiting.filter(({ mustGoAlone }) => !mustGoAlone)) : []
      if (together.length > 1 && desk.bundles < maxBundles) {
        send(desk, together)
        continue
      }
      // One alone gathers others while a bundle is on its way, unless somebody waits for it.
      const mayGo = ({ live, mustGoAlone }: Waiter) =>
        mustGoAlone || !takes || (together.length === 1 && (live || desk.bundles === 0))
      const free = desk.alone < atOnce && aloneInAll < Math.max(maxAloneInAll, atOnce)
      const goes = free ? desk.waiting.find(mayGo) : undefined
      if (goes === undefined) return
      desk.waiting = desk.waiting.filter((each) => each !== goes)
      desk.alone++
      aloneInAll++
      goes.state = "alone"
      Deferred.doneUnsafe(goes.turn, Effect.undefined)
    }
  }

  /** Lets nobody wait for a peer that says nothing: whom they ask next is better. */
  const giveUp = (desk: Desk, some: ReadonlyArray<Waiter>, detail: string): void => {
    desk.waiting = desk.waiting.filter((waiter) => !some.includes(waiter))
    for (const waiter of some) {
      if (waiter.state === "gone") continue
      waiter.state = "gone"
      const { path } = waiter.entry
      Deferred.doneUnsafe(waiter.turn, Effect.fail(new PeerUnreachable({ peer: desk.peer.id, path, detail })))
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
    let came: ReadonlyArray<Uint8Array | undefined> = []
    const deliver = (): void => {
      desk.bundles--
      waiters.forEach((waiter, n) => {
        if (waiter.state !== "bundled") return
        const bytes = came[n]
        if (bytes === undefined) {
          waiter.mustGoAlone = true
          wait(desk, waiter)
        } else {
          waiter.state = "gone"
          Deferred.doneUnsafe(waiter.turn, Effect.succeed(bytes))
        }
      })
      schedule(desk)
    }
    const failed = ({ message, silent }: NoBundle) => {
      desk.restsUntil = clock.currentTimeMillisUnsafe() + restMillis
      if (silent) giveUp(desk, [...waiters, ...desk.waiting], message)
      return Effect.logDebug(`no bundle from ${desk.peer.id}, so files are asked for one by one: ${message}`)
    }
    bundle.fiber = run(
      fetchBundle(desk.peer, [first, ...others]).pipe(
        Effect.matchEffect({ onSuccess: (bytes) => Effect.sync(() => void (came = bytes)), onFailure: failed }),
        Effect.ensuring(Effect.sync(deliver))
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
      aloneInAll--
      for (const each of desks.values()) if (each.waiting.length > 0) schedule(each)
    }
  }

  return {
    take: <E1, E2>(peer: Peer, entry: FileEntry, rest: number, { alone, came }: Ways<E1, E2>) => {
      const desk = deskOf(peer)
      // An early end of the peer tells those who wait that they wait in vain.
      const first = Effect.tapError(alone, (error) =>
        Effect.sync(() => {
          if (error instanceof PeerUnreachable) giveUp(desk, desk.waiting, error.detail)
          else if (error instanceof Stalled && error.phase === "ack") giveUp(desk, desk.waiting, error.message)
        }))
      return Effect.acquireUseRelease(
        Effect.sync(() => {
          const waiter: Waiter = {
            entry,
            live: isLive(entry, clock.currentTimeMillisUnsafe()),
            turn: Deferred.makeUnsafe(),
            state: "waiting",
            mustGoAlone: rest < entry.size_bytes || rest > Bundle.maxFileBytes,
            bundle: undefined
          }
          wait(desk, waiter)
          return waiter
        }),
        (waiter) =>
          Effect.flatMap(
            Deferred.await(waiter.turn),
            (bytes): Effect.Effect<void, E1 | E2> => bytes === undefined ? first : came(bytes)
          ),
        (waiter) => Effect.sync(() => leave(desk, waiter))
      )
    },
    heard: (peer, takesBundles) => {
      const desk = deskOf(peer)
      if (desk.takesBundles === takesBundles) return
      desk.takesBundles = takesBundles
      schedule(desk)
    }
  }
})
