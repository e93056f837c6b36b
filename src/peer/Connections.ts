/**
 * Connections to peers, kept between fetches for as long as both sides agree to it.
 *
 * Closing the scope closes the idle ones at once; those in use are closed by whoever uses them.
 */
import { Clock, Effect, Exit, Scope } from "effect"
import { keyOf, type Peer } from "../ports/PeerResolver.ts"
import type { Connection } from "./transport/Connection.ts"
import { dial, type DialFailed, type DialOptions } from "./transport/dial.ts"

export interface Lease {
  readonly connection: Connection
  /** It has served before. The peer may have closed it, which shows only when it is used. */
  readonly reused: boolean
  /** Says that the exchange is over, and the connection good for another. Otherwise it is closed with the scope. */
  readonly keep: () => void
}

export interface Connections {
  /** A connection to a peer: one that is idle, unless a `fresh` one is wanted, else one that is dialled now. */
  readonly lease: (peer: Peer, fresh: boolean) => Effect.Effect<Lease, DialFailed, Scope.Scope>
  /** Closes the idle connections to a peer: one of them turned out to be closed. */
  readonly drop: (peer: Peer) => Effect.Effect<void>
}

export interface ConnectionsOptions extends Omit<DialOptions, "address" | "node"> {
  /** How long a connection is kept idle. Shorter than peers do, so that they seldom close first. */
  readonly idleMillis: number
}

/** A connection and the scope whose end closes it. */
interface Kept {
  readonly connection: Connection
  readonly scope: Scope.Closeable
  /** Since when it is idle, milliseconds. */
  since: number
}

/** Idle connections to one peer and in all: each holds up to 1 MiB of receive buffers. */
const maxIdlePerPeer = 32
const maxIdle = 64

export const make = Effect.fnUntraced(function*(options: ConnectionsOptions) {
  const idle = new Map<string, Array<Kept>>()
  let count = 0
  let closing = false

  const close = ({ scope }: Kept) => Scope.close(scope, Exit.void)

  /** Takes the one that was used last. What is not quiet was closed, or sends without being asked. */
  const take = Effect.fnUntraced(function*(key: string) {
    const kept = idle.get(key)
    for (let last = kept?.pop(); last !== undefined; last = kept?.pop()) {
      count--
      if (kept?.length === 0) idle.delete(key)
      if (last.connection.isQuiet()) return last
      yield* close(last)
    }
    return undefined
  })

  const put = Effect.fnUntraced(function*(key: string, kept: Kept) {
    const others = idle.get(key) ?? []
    if (closing || count >= maxIdle || others.length >= maxIdlePerPeer || !kept.connection.isQuiet()) {
      return yield* close(kept)
    }
    kept.since = yield* Clock.currentTimeMillis
    count++
    others.push(kept)
    idle.set(key, others)
  })

  /** Takes out those that `leaves` names. The oldest stand first. */
  const remove = (leaves: (kept: Kept, key: string) => boolean) =>
    Effect.suspend(() => {
      const gone: Array<Kept> = []
      for (const [key, kept] of idle) {
        const left = kept.filter((each) => !leaves(each, key))
        if (left.length === kept.length) continue
        gone.push(...kept.filter((each) => leaves(each, key)))
        if (left.length === 0) idle.delete(key)
        else idle.set(key, left)
      }
      count -= gone.length
      return Effect.forEach(gone, close, { discard: true })
    })

  const open = (peer: Peer, restore: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>) =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const connection = yield* restore(dial({ ...options, address: peer.address, node: peer.id })).pipe(
        Scope.provide(scope),
        Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
      )
      const kept: Kept = { connection, scope, since: 0 }
      return kept
    })

  const lease: Connections["lease"] = (peer, fresh) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        const key = keyOf(peer)
        const found = fresh ? undefined : yield* take(key)
        const kept = found ?? (yield* open(peer, restore))
        let good = false
        yield* Effect.addFinalizer(() => good ? put(key, kept) : close(kept))
        return {
          connection: kept.connection,
          reused: found !== undefined,
          keep: () => {
            good = true
          }
        }
      })
    )

  yield* Effect.addFinalizer(() => {
    closing = true
    return remove(() => true)
  })
  yield* Effect.sleep(options.idleMillis / 2).pipe(
    Effect.andThen(Clock.currentTimeMillis),
    Effect.flatMap((now) => remove(({ since }) => now - since >= options.idleMillis)),
    Effect.forever,
    Effect.forkScoped
  )

  const connections: Connections = {
    lease,
    drop: (peer) => remove((_, key) => key === keyOf(peer))
  }
  return connections
})
