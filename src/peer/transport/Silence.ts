/**
 * Connections on which nothing has been said yet. Such a one costs a place and a socket, and nothing else: no fiber, no
 * timer, no buffer, until its first bytes are there.
 */
import { Clock, Effect, type Scope } from "effect"
import type { Socket } from "node:net"

export interface Silence {
  /** Waits for a socket's first bytes, which it is then paused behind. `at`: when it was opened, milliseconds. */
  readonly watch: (socket: Socket, spoken: (first: Uint8Array, at: number) => void) => void
  /** Ends them all. */
  readonly close: () => void
}

/** Whoever says nothing for so long, or ends without a word, is destroyed. */
export const make = (patienceMillis: number): Effect.Effect<Silence, never, Scope.Scope> =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    // By when they were opened, oldest first.
    const silent = new Map<Socket, number>()

    const sweep: Effect.Effect<never> = Effect.suspend(() => {
      const oldest = clock.currentTimeMillisUnsafe() - patienceMillis
      for (const [socket, at] of silent) {
        if (at > oldest) return Effect.andThen(Effect.sleep(at - oldest), sweep)
        silent.delete(socket)
        socket.destroy()
      }
      // Whoever comes meanwhile has as long.
      return Effect.andThen(Effect.sleep(patienceMillis), sweep)
    })
    yield* Effect.forkScoped(sweep)

    return {
      watch: (socket, spoken) => {
        silent.set(socket, clock.currentTimeMillisUnsafe())
        const leave = () => silent.delete(socket)
        const end = () => socket.destroy()
        socket.once("close", leave)
        socket.once("end", end)
        socket.once("data", (first: Uint8Array) => {
          const at = silent.get(socket)
          socket.off("close", leave)
          socket.off("end", end)
          if (at === undefined) return
          leave()
          socket.pause()
          spoken(first, at)
        })
      },
      close: () => {
        for (const socket of silent.keys()) socket.destroy()
      }
    }
  })
