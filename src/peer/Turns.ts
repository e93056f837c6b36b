/**
 * Whose turn it is to fetch a file from a peer, giants aside: a few at once, for more may soon be more than the peer sends,
 * to all who ask it.
 */
import { Clock, Deferred, Effect } from "effect"
import { enterLiveFirst } from "../internal/liveFirst.ts"
import { PeerUnreachable, Stalled } from "../ports/FetchClient.ts"
import { type FileEntry, isLive } from "../ports/FileEntry.ts"
import { keyOf, type Peer } from "../ports/PeerResolver.ts"

export interface Turns {
  /** Waits for the turn of a file, then fetches it. A peer that turns out to be silent fails all who wait for it. */
  readonly take: <E>(
    peer: Peer,
    entry: FileEntry,
    fetch: Effect.Effect<void, E>
  ) => Effect.Effect<void, E | PeerUnreachable>
}

/** Files that all peers together are asked for at once; more when `atOnce` is: each holds a connection. */
const maxInAll = 32

/** One that asks for a file. */
interface Waiter {
  readonly entry: FileEntry
  /** Registered just now: it goes before what is caught up on. */
  readonly live: boolean
  readonly turn: Deferred.Deferred<void, PeerUnreachable>
  state: "waiting" | "going" | "gone"
}

/** What is asked of one peer; forgotten when nothing is. */
interface Desk {
  readonly peer: Peer
  waiting: Array<Waiter>
  going: number
}

/** `atOnce`: files that one peer is asked for at once. */
export const make = Effect.fnUntraced(function*(atOnce: number) {
  const clock = yield* Clock.Clock
  const desks = new Map<string, Desk>()
  let inAll = 0

  const enter = (peer: Peer, entry: FileEntry) => {
    const key = keyOf(peer)
    const desk = desks.get(key) ?? { peer, waiting: [], going: 0 }
    desks.set(key, desk)
    const live = isLive(entry, clock.currentTimeMillisUnsafe())
    const waiter: Waiter = { entry, live, turn: Deferred.makeUnsafe(), state: "waiting" }
    enterLiveFirst(desk.waiting, waiter)
    giveTurns(desk)
    return { desk, waiter }
  }

  const giveTurns = (desk: Desk): void => {
    while (desk.going < atOnce && inAll < Math.max(maxInAll, atOnce)) {
      const next = desk.waiting.shift()
      if (next === undefined) return
      desk.going++
      inAll++
      next.state = "going"
      Deferred.doneUnsafe(next.turn, Effect.void)
    }
  }

  /** Lets nobody wait for a peer that says nothing: whom they ask next is better. */
  const giveUp = (desk: Desk, detail: string): void => {
    const { waiting } = desk
    desk.waiting = []
    for (const waiter of waiting) {
      waiter.state = "gone"
      const { path } = waiter.entry
      Deferred.doneUnsafe(waiter.turn, Effect.fail(new PeerUnreachable({ peer: desk.peer.id, path, detail })))
    }
  }

  const leave = (desk: Desk, waiter: Waiter): void => {
    const { state } = waiter
    waiter.state = "gone"
    if (state === "waiting") desk.waiting = desk.waiting.filter((each) => each !== waiter)
    if (state === "going") {
      desk.going--
      inAll--
      for (const each of desks.values()) giveTurns(each)
    }
    const key = keyOf(desk.peer)
    if (desk.going === 0 && desk.waiting.length === 0 && desks.get(key) === desk) desks.delete(key)
  }

  const turns: Turns = {
    take: (peer, entry, fetch) =>
      Effect.acquireUseRelease(
        Effect.sync(() => enter(peer, entry)),
        ({ desk, waiter }) =>
          Effect.andThen(
            Deferred.await(waiter.turn),
            // An early end of the peer tells those who wait that they wait in vain.
            Effect.tapError(fetch, (error) =>
              Effect.sync(() => {
                if (error instanceof PeerUnreachable) giveUp(desk, error.detail)
                else if (error instanceof Stalled && error.phase === "ack") giveUp(desk, error.message)
              }))
          ),
        ({ desk, waiter }) => Effect.sync(() => leave(desk, waiter))
      )
  }
  return turns
})
