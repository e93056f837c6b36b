/** Connections that are kept between fetches, against raw peers that count them. */
import { assert, describe, it, vi } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Option, Queue, Result, Scope } from "effect"
import type { Socket } from "node:net"
import * as Frame from "../../src/peer/protocol/Frame.ts"
import { allBytes, entryOf } from "./support/doubles.ts"
import { collector, makeClient, rawPeer, startServer } from "./support/nodes.ts"
import { ackFrame } from "./support/requests.ts"

// Most faults here show as waiting for ever.
vi.setConfig({ testTimeout: 20_000 })

const entry = entryOf("db/m/a.parquet", 100_000)
const bytes = allBytes(100_000)
const right = { status: "ok", size_bytes: 100_000n, sha256: entry.sha256, keep_alive: true }
const whole = Buffer.concat([ackFrame(right), bytes])

/** A peer that calls `answer` for each request, with its number on its connection and the number of the connection. */
const counting = Effect.fnUntraced(function*(answer: (socket: Socket, request: number, connection: number) => void) {
  const counts = { connections: 0, requests: 0 }
  const { closed, peer } = yield* rawPeer((socket) => {
    const connection = counts.connections++
    const decoder = Frame.makeDecoder(Frame.maxLength)
    let request = 0
    socket.on("data", (chunk: Buffer) => {
      if (Option.isNone(Result.getOrThrow(decoder.push(chunk)))) return
      counts.requests++
      answer(socket, request++, connection)
    })
  })
  return { closed, counts, peer }
})

describe("connections to peers", () => {
  it.live("are used again, one after another, where the peer agrees", () =>
    Effect.gen(function*() {
      const { counts, peer } = yield* counting((socket) => socket.write(whole))
      const client = yield* makeClient()
      for (let nth = 0; nth < 10; nth++) {
        const sink = collector()
        yield* client.fetch(peer, entry, 0, sink)
        assert.isTrue(sink.bytes().equals(bytes))
      }
      assert.deepStrictEqual(counts, { connections: 1, requests: 10 })
    }))

  it.live("are used again behind a refusal", () =>
    Effect.gen(function*() {
      const refusal = ackFrame({ status: "error", code: "not_found", keep_alive: true })
      const { counts, peer } = yield* counting((socket) => socket.write(refusal))
      const client = yield* makeClient()
      for (let nth = 0; nth < 3; nth++) {
        assert.strictEqual((yield* Effect.flip(client.fetch(peer, entry, 0, collector())))._tag, "FileNotOnPeer")
      }
      assert.deepStrictEqual(counts, { connections: 1, requests: 3 })
    }))

  it.live("are made anew where the peer knows nothing of it, even if it keeps them open", () =>
    Effect.gen(function*() {
      const { closed, counts, peer } = yield* counting((socket) => {
        socket.write(Buffer.concat([ackFrame({ ...right, keep_alive: false }), bytes]))
      })
      const client = yield* makeClient()
      for (let nth = 0; nth < 3; nth++) {
        yield* client.fetch(peer, entry, 0, collector())
        yield* Queue.take(closed)
      }
      assert.deepStrictEqual(counts, { connections: 3, requests: 3 })
    }))

  it.live("may be closed by the peer at any time: another one is dialled, and nothing fails", () =>
    Effect.gen(function*() {
      // Right behind a body; and only when it is asked again: plainly, by a reset, within the answer.
      const ends: ReadonlyArray<(socket: Socket, request: number) => void> = [
        (socket) => socket.end(whole),
        (socket, request) => request === 0 ? socket.write(whole) : socket.end(),
        (socket, request) => request === 0 ? socket.write(whole) : socket.resetAndDestroy(),
        (socket, request) => request === 0 ? socket.write(whole) : socket.end(whole.subarray(0, 20))
      ]
      const client = yield* makeClient()
      for (const answer of ends) {
        const { counts, peer } = yield* counting(answer)
        for (let nth = 0; nth < 5; nth++) {
          const sink = collector()
          yield* client.fetch(peer, entry, 0, sink)
          assert.isTrue(sink.bytes().equals(bytes))
        }
        assert.strictEqual(counts.connections, 5)
      }
    }))

  it.live("that are new and closed without an answer are a failure, and asked once", () =>
    Effect.gen(function*() {
      const { counts, peer } = yield* counting((socket) => socket.end())
      const client = yield* makeClient()
      assert.strictEqual((yield* Effect.flip(client.fetch(peer, entry, 0, collector())))._tag, "PeerUnreachable")
      assert.deepStrictEqual(counts, { connections: 1, requests: 1 })
    }))

  it.live("are not used again behind a body that was not taken whole, nor when the peer sends more than it", () =>
    Effect.gen(function*() {
      const { closed, counts, peer } = yield* counting((socket) => socket.write(whole))
      const client = yield* makeClient()
      assert.strictEqual(
        yield* Effect.flip(client.fetch(peer, entry, 0, { write: () => Effect.fail("full" as const) })),
        "full"
      )
      yield* Queue.take(closed)
      const begun = yield* Deferred.make<void>()
      const stuck = { write: () => Effect.andThen(Deferred.succeed(begun, undefined), Effect.never) }
      const fetching = yield* Effect.forkChild(client.fetch(peer, entry, 0, stuck))
      yield* Deferred.await(begun)
      yield* Fiber.interrupt(fetching)
      yield* Queue.take(closed)
      assert.strictEqual(counts.connections, 2)

      const chatty = yield* counting((socket) => {
        socket.write(whole)
        setImmediate(() => socket.write("more"))
      })
      yield* client.fetch(chatty.peer, entry, 0, collector())
      // However early the rest comes, it is never taken for an answer.
      for (let nth = 0; nth < 3; nth++) {
        const again = yield* Effect.result(client.fetch(chatty.peer, entry, 0, collector()))
        if (again._tag === "Failure") assert.strictEqual(again.failure._tag, "ProtocolViolation")
      }
    }))

  it.live("are closed once they have been idle for a while, and at once with the client", () =>
    Effect.gen(function*() {
      const { closed, counts, peer } = yield* counting((socket) => socket.write(whole))
      const hasty = yield* makeClient({ idleTimeoutMillis: 50 })
      yield* hasty.fetch(peer, entry, 0, collector())
      yield* Queue.take(closed)

      const scope = yield* Scope.make()
      const client = yield* Scope.provide(makeClient(), scope)
      yield* Effect.forEach([1, 2, 3], () => client.fetch(peer, entry, 0, collector()), { concurrency: 3 })
      assert.isAtLeast(counts.connections, 2)
      yield* Scope.close(scope, Exit.void)
      for (let nth = 1; nth < counts.connections; nth++) yield* Queue.take(closed)
    }))

  it.live("are not shared between peers: one that has moved is asked where it is now", () =>
    Effect.gen(function*() {
      const first = yield* counting((socket) => socket.write(whole))
      const second = yield* counting((socket) => socket.write(whole))
      const client = yield* makeClient()
      yield* client.fetch(first.peer, entry, 0, collector())
      yield* client.fetch(second.peer, entry, 0, collector())
      assert.deepStrictEqual([first.counts.requests, second.counts.requests], [1, 1])
    }))

  it.live("to a server of ours are kept by both sides, and end when it does", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const peer = yield* Scope.provide(startServer({ files: [{ entry }] }, { maxConnections: 1 }), scope)
      const client = yield* makeClient({ requireSignedAcks: true })
      for (let nth = 0; nth < 20; nth++) yield* client.fetch(peer, entry, 0, collector())
      const before = performance.now()
      yield* Scope.close(scope, Exit.void)
      assert.isBelow(performance.now() - before, 1500, "an idle connection needs no grace")
      assert.strictEqual((yield* Effect.flip(client.fetch(peer, entry, 0, collector())))._tag, "PeerUnreachable")
    }))
})
