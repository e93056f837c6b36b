/** A server that sends a file to several already, and clients that can wait, can't, or know nothing of it. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Latch, Queue } from "effect"
import type * as Messages from "../../src/peer/protocol/Messages.ts"
import * as Throttle from "../../src/peer/Throttle.ts"
import { NodeId } from "../../src/ports/FileEntry.ts"
import { allBytes, entryOf } from "./support/doubles.ts"
import { collector, makeClient, rawClient, startServer } from "./support/nodes.ts"
import { isSigned, requestFor, requestFrame, takeAck } from "./support/requests.ts"

const MiB = 1 << 20
const large = entryOf("large", MiB)
const small = entryOf("small", MiB - 1)
const files = [{ entry: large }, { entry: small }]

/** A server, and two nodes that take a file of it: each has begun, and ends when the gate opens. */
const crowdedServer = Effect.fnUntraced(function*(path: string, at: "disk" | "limit" = "disk") {
  const gate = yield* Latch.make(false)
  const begun = yield* Queue.unbounded<void>()
  const stop = Effect.andThen(Queue.offer(begun, undefined), gate.await)
  const unlimited = yield* Throttle.make(0)
  const peer = at === "disk"
    ? yield* startServer({ files, beforeChunk: stop })
    : yield* startServer({ files }, {}, [], {
      pull: unlimited,
      serve: { ...unlimited, bytesPerSecond: () => 1, take: () => stop }
    })
  const take = Effect.fnUntraced(function*(node: string) {
    const client = yield* makeClient({ nodeId: NodeId.make(node), requireSignedAcks: true })
    const entry = path === "large" ? large : small
    const whole = client.fetch(peer, entry, 0, collector(), { notAt: [] })
    // The second is over the same connection: when it is answered, the server has done with the first.
    const fiber = yield* Effect.forkChild(Effect.andThen(whole, client.fetch(peer, small, MiB - 2, collector())))
    yield* Queue.take(begun)
    return fiber
  })
  const takers = yield* Effect.forEach(["node-c", "node-d"], take)
  return {
    peer,
    take,
    finish: Effect.gen(function*() {
      yield* gate.open
      yield* Effect.forEach(takers, Fiber.join)
    })
  }
})

const asking = Effect.fnUntraced(function*(peer: Parameters<typeof rawClient>[0]) {
  const client = yield* rawClient(peer)
  return {
    client,
    ask: Effect.fnUntraced(function*(fields: Partial<Messages.FetchFile>, path = "large") {
      const request = requestFor(path, { keep_alive: true, ...fields })
      yield* client.send(requestFrame(request))
      return { request, ack: yield* takeAck(client) }
    })
  }
})

describe("a server that sends a file to two others", () => {
  it.live("refuses who can wait, signed and on the same connection, and serves who can't", () =>
    Effect.gen(function*() {
      const { finish, peer } = yield* crowdedServer("large")
      const { ask, client } = yield* asking(peer)
      const { ack, request } = yield* ask({ can_wait: true })
      assert.deepInclude(ack, { status: "error", code: "crowded", keep_alive: true, holders: [] })
      assert.isAbove(Number(ack.retry_after_ms), 0)
      assert.isTrue(isSigned(request, ack))
      // As one asks that knows nothing of it.
      yield* client.send(requestFrame(requestFor("large")))
      yield* finish
      assert.strictEqual((yield* takeAck(client)).status, "ok")
      assert.isTrue((yield* client.all).equals(allBytes(MiB)))
    }))

  it.live("counts what has gone out to them, not what is about to", () =>
    Effect.gen(function*() {
      const { finish, peer } = yield* crowdedServer("large", "limit")
      const { ask } = yield* asking(peer)
      // So soon when nothing has.
      assert.strictEqual((yield* ask({ can_wait: true })).ack.retry_after_ms, 100n)
      yield* finish
    }))

  it.live("names them once they have it", () =>
    Effect.gen(function*() {
      const { finish, peer } = yield* crowdedServer("large")
      yield* finish
      const client = yield* makeClient({ requireSignedAcks: true })
      const error = yield* Effect.flip(client.fetch(peer, large, 0, collector(), { notAt: [] }))
      assert.deepInclude(error, { _tag: "Crowded", peer: peer.id, path: large.path, retryAfterMillis: 100 })
      assert.deepStrictEqual("holders" in error ? error.holders.map(String) : [], ["node-c", "node-d"])
      const sink = collector()
      yield* client.fetch(peer, large, 0, sink, { notAt: [NodeId.make("node-c")] })
      assert.isTrue(sink.bytes().equals(allBytes(MiB)))
    }))

  it.live("serves small files to anybody", () =>
    Effect.gen(function*() {
      const { finish, peer, take } = yield* crowdedServer("small")
      yield* take("node-e")
      const { ask, client } = yield* asking(peer)
      yield* finish
      const { ack } = yield* ask({ can_wait: true }, "small")
      assert.strictEqual(ack.status, "ok")
      assert.strictEqual((yield* client.take(MiB - 1)).length, MiB - 1)
    }))
})
