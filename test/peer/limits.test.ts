/** What one peer can take of this node, and how the server ends. */
import { assert, describe, it, vi } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Latch, Option, Queue, Scope } from "effect"
import * as Admission from "../../src/peer/Admission.ts"
import { Sha256 } from "../../src/ports/FileEntry.ts"
import { allBytes, entryOf } from "./support/doubles.ts"
import { heartbeatOf, signedJoin } from "./support/joins.ts"
import { collector, makeClient, rawClient, startServer } from "./support/nodes.ts"
import { requestFor, requestFrame, takeAck } from "./support/requests.ts"

// Most faults here show as waiting for ever.
vi.setConfig({ testTimeout: 20_000 })

const MiB = 1 << 20
const small = entryOf("small", 1000)
const huge = entryOf("huge", 2 ** 40, Sha256.make("a".repeat(64)))
const empty = entryOf("empty", 0)
const files = [{ entry: small }, { entry: huge }, { entry: empty }]

describe("Admission", () => {
  it("gives no more places than there are, and gives them again", () => {
    const admission = Admission.make({ maxConnections: 2, maxServes: 1 })
    const first = admission.connect("127.0.0.1")
    assert.isDefined(admission.connect("127.0.0.1"))
    assert.isUndefined(admission.connect("127.0.0.1"))
    first?.()
    assert.isDefined(admission.connect("::1"))
    const serve = admission.serve()
    assert.isUndefined(admission.serve())
    serve?.()
    assert.isDefined(admission.serve())
  })

  it("leaves half of the connections to others when one address takes all it can get", () => {
    const admission = Admission.make({ maxConnections: 4, maxServes: 1 })
    const places = [1, 2, 3].map(() => admission.connect("10.0.0.1"))
    assert.deepStrictEqual(places.map((place) => place !== undefined), [true, true, false])
    assert.isDefined(admission.connect("10.0.0.2"))
    places[0]?.()
    assert.isDefined(admission.connect("10.0.0.1"))
  })

  it("takes the IPv6 addresses of one /64 for one address, however they are written, and no others", () => {
    const same: ReadonlyArray<ReadonlyArray<string>> = [
      ["2001:db8:1:2::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:ffff::"],
      ["2001:db8::1", "2001:db8:0:0:9::", "2001:db8::5:6:7"],
      ["fe80::1%eth0", "fe80::2%eth0", "fe80::3%eth0"],
      ["::2", "::3", "::4:5"],
      ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1"]
    ]
    for (const [first = "", second = "", third = ""] of same) {
      const admission = Admission.make({ maxConnections: 4, maxServes: 1 })
      const free = admission.connect(first)
      assert.isDefined(admission.connect(second), second)
      assert.isUndefined(admission.connect(third), third)
      free?.()
      assert.isDefined(admission.connect(third), third)
    }
    const admission = Admission.make({ maxConnections: 12, maxServes: 1 })
    const apart = ["2001:db8:1:2::1", "2001:db8:1:3::1", "2001:db8::1:2:0:0:1", "::ffff:10.0.0.1", "::ffff:10.0.0.2"]
    for (const address of apart) {
      const fresh = Admission.make({ maxConnections: 2, maxServes: 1 })
      assert.isDefined(fresh.connect("2001:db8:1:4::1"))
      assert.isDefined(fresh.connect(address), address)
      assert.isDefined(admission.connect(address), address)
    }
  })
})

describe("FetchServer's limits", () => {
  it.live("closes connections over the limit at once while an honest one goes on", () =>
    Effect.gen(function*() {
      const peer = yield* startServer({ files }, { maxConnections: 3 })
      const honest = yield* rawClient(peer)
      const kept = requestFrame(requestFor("small", { keep_alive: true }))
      yield* honest.send(kept)
      yield* takeAck(honest)
      assert.strictEqual((yield* honest.take(1000)).length, 1000)
      const idle = [yield* rawClient(peer), yield* rawClient(peer)]
      for (let index = 0; index < 50; index++) {
        const over = yield* rawClient(peer)
        assert.strictEqual((yield* over.all).length, 0)
      }
      yield* honest.send(requestFrame(requestFor("small")))
      yield* takeAck(honest)
      assert.isTrue((yield* honest.all).equals(allBytes(1000)))
      for (const client of idle) client.socket.end()
      for (const client of idle) yield* client.all
      yield* (yield* makeClient()).fetch(peer, small, 0, collector())
    }))

  it.live("answers busy, with a time to wait, while all bodies are being sent", () =>
    Effect.gen(function*() {
      const gate = yield* Latch.make(false)
      const sending = yield* Deferred.make<void>()
      const peer = yield* startServer({
        files,
        beforeChunk: Effect.andThen(Deferred.succeed(sending, undefined), gate.await)
      }, { maxServes: 1 })
      const client = yield* makeClient({ requireSignedAcks: true })
      const first = yield* Effect.forkChild(client.fetch(peer, small, 0, collector()))
      yield* Deferred.await(sending)
      const error = yield* Effect.flip(client.fetch(peer, small, 0, collector()))
      assert.deepInclude(error, { _tag: "PeerRejected", code: "busy", retryAfterMillis: 1000 })
      yield* gate.open
      yield* Fiber.join(first)
      yield* client.fetch(peer, small, 0, collector())
    }))

  it.live("gives up on a peer that stops reading, and frees its place", () =>
    Effect.gen(function*() {
      const ended = yield* Deferred.make<void>()
      const logs: Array<string> = []
      const peer = yield* startServer(
        { files, afterBody: Effect.asVoid(Deferred.succeed(ended, undefined)) },
        { maxServes: 1, serveTimeoutMillis: 100 },
        logs
      )
      const client = yield* rawClient(peer)
      yield* client.send(requestFrame(requestFor("huge")))
      assert.strictEqual((yield* takeAck(client)).status, "ok")
      client.socket.pause()
      yield* Deferred.await(ended)
      yield* (yield* makeClient()).fetch(peer, small, 0, collector())
      assert.include(logs.join("\n"), "no progress for 100 ms")
    }))

  // What a peer may send in any number, each answered, and none of it with a body.
  const answered: ReadonlyArray<readonly [string, (nth: number) => Uint8Array]> = [
    ["heartbeats", (nth) => heartbeatOf(signedJoin("heartbeat", "node-b", `${nth}`))],
    ["requests that are refused", () => requestFrame(requestFor("nowhere", { keep_alive: true }))],
    ["requests for an empty file", () => requestFrame(requestFor("empty", { keep_alive: true }))]
  ]
  for (const [what, next] of answered) {
    it.live(`gives up on a peer that sends ${what} and never reads an answer, and frees its place`, () =>
      Effect.gen(function*() {
        const closed = yield* Deferred.make<void>()
        const peer = yield* startServer({ files }, { maxConnections: 1, answerTimeoutMillis: 50 })
        const { socket } = yield* rawClient(peer)
        socket.pause()
        socket.on("close", () => Deferred.doneUnsafe(closed, Effect.void))
        let sent = 0
        const pump = () => {
          while (socket.write(Buffer.concat(Array.from({ length: 200 }, () => next(sent++)))));
          socket.once("drain", pump)
        }
        pump()
        yield* Deferred.await(closed)
        yield* (yield* makeClient()).fetch(peer, small, 0, collector())
      }))
  }

  it.live("closes a connection on which nothing is asked, before the first request and behind one", () =>
    Effect.gen(function*() {
      const peer = yield* startServer({ files }, { requestTimeoutMillis: 50 })
      assert.strictEqual((yield* (yield* rawClient(peer)).all).length, 0)
      const patient = yield* startServer({ files }, { idleTimeoutMillis: 50 })
      const client = yield* rawClient(patient)
      yield* client.send(requestFrame(requestFor("small", { keep_alive: true })))
      assert.strictEqual((yield* takeAck(client)).status, "ok")
      assert.strictEqual((yield* client.all).length, 1000)
    }))

  it.live("ends within its grace although a client has stopped reading, and takes no new ones", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const peer = yield* startServer({ files }).pipe(Scope.provide(scope))
      const client = yield* rawClient(peer)
      yield* client.send(requestFrame(requestFor("huge")))
      yield* takeAck(client)
      client.socket.pause()
      const idle = yield* rawClient(peer)
      const before = performance.now()
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      assert.strictEqual((yield* idle.all).length, 0)
      assert.isBelow(performance.now() - before, 1000, "an idle connection ends at once")
      const error = yield* Effect.flip((yield* makeClient()).fetch(peer, small, 0, collector()))
      assert.strictEqual(error._tag, "PeerUnreachable")
      yield* Fiber.join(closing)
      const took = performance.now() - before
      assert.isAbove(took, 1900)
      assert.isBelow(took, 4000)
    }))

  it.live("lets a body in flight end when it is closed", () =>
    Effect.gen(function*() {
      const gate = yield* Latch.make(false)
      const sending = yield* Deferred.make<void>()
      const scope = yield* Scope.make()
      const peer = yield* startServer({
        files,
        beforeChunk: Effect.andThen(Deferred.succeed(sending, undefined), gate.await)
      }).pipe(Scope.provide(scope))
      const sink = collector()
      const fetching = yield* Effect.forkChild((yield* makeClient()).fetch(peer, small, 0, sink))
      yield* Deferred.await(sending)
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* gate.open
      yield* Fiber.join(fetching)
      yield* Fiber.join(closing)
      assert.isTrue(sink.bytes().equals(allBytes(1000)))
    }))

  it.live("moves a large body through memory that does not grow with it", () =>
    Effect.gen(function*() {
      const large = entryOf("large", 256 * MiB, Sha256.make("b".repeat(64)))
      const peer = yield* startServer({ files: [{ entry: large }] })
      const client = yield* makeClient()
      let received = 0
      let most = 0
      const before = process.memoryUsage().arrayBuffers
      yield* client.fetch(peer, large, 0, {
        write: (chunk) =>
          Effect.sync(() => {
            received += chunk.length
            most = Math.max(most, process.memoryUsage().arrayBuffers)
          })
      })
      assert.strictEqual(received, large.size_bytes)
      assert.isBelow(most - before, 16 * MiB)
    }))

  it.live("holds a fast server back for as long as the client's sink is stuck", () =>
    Effect.gen(function*() {
      const chunks = yield* Queue.unbounded<void>()
      const peer = yield* startServer({ files, beforeChunk: Effect.asVoid(Queue.offer(chunks, undefined)) })
      const client = yield* makeClient()
      const fetching = yield* Effect.forkChild(client.fetch(peer, huge, 0, { write: () => Effect.never }))
      yield* Queue.take(chunks)
      let sent = 1
      // Until the server begins no further chunk: all that lies between it and the sink is full. Most of it, about 8 MiB,
      // is the system's, which may be set to take up to 36 MiB; memory of our own would grow without end.
      while (sent < 100 && Option.isSome(yield* Effect.timeoutOption(Queue.take(chunks), 500))) sent++
      assert.isBelow(sent, 40)
      yield* Fiber.interrupt(fetching)
    }))
})
