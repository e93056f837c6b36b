/** A dialled connection by itself: what a fiber's turns, and an interruption, may not spoil. */
import { assert, describe, it, vi } from "@effect/vitest"
import { Deferred, Effect, Fiber, Option, Result, Scheduler } from "effect"
import { subscribe, unsubscribe } from "node:diagnostics_channel"
import { Socket } from "node:net"
import { fromSocket } from "../../src/peer/transport/Connection.ts"
import { dial } from "../../src/peer/transport/dial.ts"
import * as ReceiveBuffers from "../../src/peer/transport/ReceiveBuffers.ts"
import { rawPeer } from "./support/nodes.ts"

// Most faults here show as waiting for ever.
vi.setConfig({ testTimeout: 10_000 })

/** Each number of steps after which a fiber may have to give way to what else happens in the process. */
const turns = Array.from({ length: 60 }, (_, index) => index + 4)

describe("dial", () => {
  it.live("notices that it is connected wherever its fiber is held up meanwhile", () =>
    Effect.gen(function*() {
      const { peer } = yield* rawPeer((socket) => socket.resume())
      const pool = ReceiveBuffers.makePool(8)
      for (const turn of turns) {
        const dialled = yield* Effect.scoped(
          dial({ address: peer.address, node: "peer", tls: undefined, pool, timeoutMillis: 1000 })
        )
          .pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, turn), Effect.result)
        assert.isTrue(Result.isSuccess(dialled), `a turn of ${turn}`)
      }
    }))

  it.live("gives its buffers back only when the socket that fills them is closed", () =>
    Effect.gen(function*() {
      let sockets = 0
      let closed = 0
      const onSocket = (message: unknown) => {
        const socket: unknown = typeof message === "object" && message !== null ? Reflect.get(message, "socket") : null
        if (!(socket instanceof Socket)) return
        sockets++
        socket.once("close", () => closed++)
      }
      yield* Effect.acquireRelease(
        Effect.sync(() => subscribe("net.client.socket", onSocket)),
        () => Effect.sync(() => unsubscribe("net.client.socket", onSocket))
      )
      const given = yield* Deferred.make<{ readonly sockets: number; readonly closed: number }>()
      const pool: ReceiveBuffers.BufferPool = {
        take: () => Buffer.alloc(1024 * 1024),
        give: () => Deferred.doneUnsafe(given, Effect.succeed({ sockets, closed }))
      }
      const { peer } = yield* rawPeer((socket) => socket.write("abc"))
      const reading = yield* Deferred.make<void>()
      const fiber = yield* dial({ address: peer.address, node: "peer", tls: undefined, pool, timeoutMillis: 1000 })
        .pipe(
          Effect.flatMap((connection) =>
            connection.read().pipe(
              Effect.andThen(Deferred.succeed(reading, undefined)),
              Effect.andThen(connection.read())
            )
          ),
          Effect.scoped,
          Effect.forkChild
        )
      yield* Deferred.await(reading)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* Deferred.await(given), { sockets: 1, closed: 1 })
    }))
})

describe("Connection", () => {
  it.live("reads what arrives just when it has found nothing, wherever its fiber is held up", () =>
    Effect.gen(function*() {
      for (const turn of turns) {
        let chunk: Uint8Array | undefined
        let looked = false
        const { arrived, connection } = fromSocket(new Socket(), {
          take: () => {
            if (!looked) {
              queueMicrotask(() => {
                chunk = Buffer.from("abc")
                arrived()
              })
            }
            looked = true
            return chunk
          },
          demand: () => undefined
        })
        const read = yield* Effect.gen(function*() {
          // So that the turn ends now behind this step of the read, now behind that one.
          for (let step = 0; step < 10; step++) yield* Effect.void
          return yield* connection.read()
        }).pipe(
          Effect.timeoutOption(1000),
          Effect.provideService(Scheduler.MaxOpsBeforeYield, turn)
        )
        assert.isTrue(Option.isSome(Option.flatten(read)), `a turn of ${turn}`)
      }
    }))
})
