/** What one peer can take of this node, and how the server ends. */
import { assert, describe, it, vi } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Latch, Logger, Option, Queue, Schema, Scope } from "effect"
import { TestClock } from "effect/testing"
import { placeOf } from "../../src/peer/addresses.ts"
import * as Admission from "../../src/peer/Admission.ts"
import * as Strikes from "../../src/peer/Strikes.ts"
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

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const Step = Schema.Struct({ address: upTo(3), serving: Schema.Boolean, trusted: Schema.Boolean, which: upTo(30) })

/** Connections under names, and the names of those that had to make room. */
const guests = (maxConnections: number) => {
  const admission = Admission.make({ maxConnections, maxServes: 1 })
  const closed: Array<string> = []
  const places = new Map<string, Admission.Place>()
  return {
    closed,
    /** Gives whether it was let in. */
    come: (name: string, address: string): boolean => {
      const place = admission.connect(address, () => closed.push(name))
      if (place !== undefined) places.set(name, place)
      return place !== undefined
    },
    trust: (name: string) => places.get(name)?.trust(),
    serves: (name: string, serving: boolean) => {
      places.get(name)?.trust()
      places.get(name)?.serves(serving)
    },
    leave: (name: string) => places.get(name)?.leave()
  }
}

describe("Admission", () => {
  it("gives no more places for bodies than there are, and gives them again", () => {
    const admission = Admission.make({ maxConnections: 2, maxServes: 1 })
    const serve = admission.serve()
    assert.isDefined(serve)
    assert.isUndefined(admission.serve())
    serve?.()
    assert.isDefined(admission.serve())
  })

  it("lets the oldest stranger make room, and nobody as long as there are places", () => {
    const { closed, come, leave } = guests(2)
    assert.isTrue(come("a", "10.0.0.1"))
    assert.isTrue(come("b", "10.0.0.1"))
    assert.deepStrictEqual(closed, [])
    assert.isTrue(come("c", "10.0.0.1"))
    assert.deepStrictEqual(closed, ["a"])
    // One that has made room has no place to give back.
    leave("a")
    assert.isTrue(come("d", "10.0.0.1"))
    assert.deepStrictEqual(closed, ["a", "b"])
    leave("c")
    assert.isTrue(come("e", "10.0.0.1"))
    assert.deepStrictEqual(closed, ["a", "b"])
  })

  it("takes the place of a stranger before that of a peer that is idle, and of none in the middle of a request", () => {
    const { closed, come, serves, trust } = guests(4)
    for (const name of ["busy", "idle", "stranger", "late"]) come(name, "10.0.0.1")
    serves("busy", true)
    serves("idle", false)
    serves("late", true)
    assert.isTrue(come("1", "10.0.0.2"))
    trust("1")
    assert.isTrue(come("2", "10.0.0.3"))
    trust("2")
    assert.deepStrictEqual(closed, ["stranger", "idle"])
    assert.isFalse(come("3", "10.0.0.4"))
    serves("late", false)
    assert.isTrue(come("4", "10.0.0.4"))
    assert.deepStrictEqual(closed, ["stranger", "idle", "late"])
  })

  it("lets peers that come at the same moment not put each other out, but no more of them than an eighth", () => {
    const { closed, come, serves } = guests(32)
    for (let nth = 0; nth < 32; nth++) {
      come(`idle ${nth}`, `10.0.${nth % 4}.1`)
      serves(`idle ${nth}`, false)
    }
    for (let nth = 0; nth < 8; nth++) assert.isTrue(come(`new ${nth}`, "10.0.9.9"))
    assert.deepStrictEqual(closed, ["idle 0", "idle 1", "idle 2", "idle 3", "new 0", "new 1", "new 2", "new 3"])
  })

  it("does so within an address that has half of all places", () => {
    const { closed, come, serves } = guests(32)
    for (let nth = 0; nth < 32; nth++) {
      come(`idle ${nth}`, "10.0.0.1")
      serves(`idle ${nth}`, false)
    }
    for (let nth = 0; nth < 6; nth++) assert.isTrue(come(`new ${nth}`, "10.0.0.1"))
    assert.deepStrictEqual(closed, ["idle 0", "idle 1", "idle 2", "idle 3", "new 0", "new 1"])
  })

  it("takes the place of the connection that has been idle for longest, since it last served", () => {
    const { closed, come, serves } = guests(2)
    come("a", "10.0.0.1")
    come("b", "10.0.0.1")
    serves("a", false)
    serves("b", false)
    serves("a", true)
    serves("a", false)
    come("c", "10.0.0.1")
    assert.deepStrictEqual(closed, ["b"])
  })

  it("lets an address that has half of all places make the room itself, and else the one with most strangers", () => {
    const { closed, come, serves } = guests(4)
    come("lone", "10.0.0.2")
    for (const name of ["1", "2", "3"]) come(name, "10.0.0.1")
    assert.isTrue(come("4", "10.0.0.1"))
    assert.isTrue(come("friend", "10.0.0.3"))
    assert.deepStrictEqual(closed, ["1", "2"])
    for (const name of ["3", "4"]) serves(name, true)
    // Nothing of it can make room.
    assert.isFalse(come("5", "10.0.0.1"))
    assert.deepStrictEqual(closed, ["1", "2"])
  })

  it("takes the IPv6 addresses of one /64 for one address, however they are written, and no others", () => {
    const same: ReadonlyArray<ReadonlyArray<string>> = [
      ["2001:db8:1:2::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:ffff::"],
      ["2001:db8::1", "2001:db8:0:0:9::", "2001:db8::5:6:7"],
      ["fe80::1%eth0", "fe80::2%eth0", "fe80::3%eth0"],
      ["::2", "::3", "::4:5"],
      ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1"]
    ]
    for (const addresses of same) assert.strictEqual(new Set(addresses.map(placeOf)).size, 1, addresses[0])
    const apart = ["2001:db8:1:2::1", "2001:db8:1:3::1", "2001:db8::1:2:0:0:1", "::ffff:10.0.0.1", "::ffff:10.0.0.2"]
    assert.strictEqual(new Set(apart.map(placeOf)).size, apart.length)
  })

  it.prop("never lets in more than it may, and loses none of its places", [Schema.Array(Step)], ([steps]) => {
    const admission = Admission.make({ maxConnections: 5, maxServes: 1 })
    const here = new Map<number, Admission.Place>()
    steps.forEach(({ address, serving, trusted, which }, name) => {
      const place = admission.connect(`10.0.0.${address}`, () => here.delete(name))
      if (place !== undefined) here.set(name, place)
      if (trusted) place?.trust()
      place?.serves(serving)
      assert.isAtMost(here.size, 5)
      // Refused only when nobody could have made room.
      if (place === undefined) assert.strictEqual(here.size, 5)
      here.get(which)?.leave()
      here.delete(which)
    })
    for (const place of here.values()) place.leave()
    const all = Array.from({ length: 5 }, () => admission.connect("10.0.0.1", () => assert.fail("made room")))
    assert.isTrue(all.every((place) => place !== undefined))
  })
})

describe("Strikes", () => {
  const logged = Effect.fnUntraced(function*(body: (strikes: Strikes.Strikes) => Effect.Effect<void>) {
    const logs: Array<string> = []
    yield* Effect.flatMap(Strikes.make, body).pipe(
      Effect.provide(Logger.layer([Logger.make(({ message }) => logs.push(String(message)))])),
      Effect.scoped
    )
    return logs
  })

  it.effect("tells of the first offence of an address at once, and of the others once a minute with a count", () =>
    Effect.gen(function*() {
      const logs = yield* logged(Effect.fnUntraced(function*({ note }) {
        for (let nth = 0; nth < 1000; nth++) yield* note("10.0.0.1", `guess ${nth}`)
        yield* note("10.0.0.2", "another")
        yield* TestClock.adjust("1 minute")
        yield* note("10.0.0.1", "guess 1000")
        yield* TestClock.adjust("1 minute")
        yield* TestClock.adjust("1 minute")
        yield* note("10.0.0.1", "much later")
      }))
      assert.deepStrictEqual(logs, [
        "guess 0",
        "another",
        "999 more from 10.0.0.1 within a minute, the last: guess 999",
        "1 more from 10.0.0.1 within a minute, the last: guess 1000",
        "much later"
      ])
    }))

  it.effect("lets an address wait ever longer, and begin anew behind a quiet minute", () =>
    logged(Effect.fnUntraced(function*({ note, pause }) {
      const pauses: Array<number> = []
      for (let nth = 0; nth < 7; nth++) {
        yield* note("10.0.0.1", "a guess")
        pauses.push(pause("10.0.0.1"))
      }
      assert.deepStrictEqual(pauses, [100, 200, 400, 800, 1600, 2000, 2000])
      yield* note("10.0.0.2", "a guess")
      assert.strictEqual(pause("10.0.0.2"), 100)
      yield* TestClock.adjust("1 minute")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(pause("10.0.0.1"), 100)
    })))

  it.effect("keeps a bounded number of addresses apart", () =>
    Effect.gen(function*() {
      const logs = yield* logged(Effect.fnUntraced(function*({ note }) {
        for (let nth = 0; nth < 5000; nth++) yield* note(`10.0.${nth >> 8}.${nth & 255}`, "a guess")
        yield* TestClock.adjust("1 minute")
      }))
      assert.strictEqual(logs.length, 1024 + 1 + 1)
      assert.include(logs.at(-1), `${5000 - 1024 - 1} more from other addresses`)
    }))
})

describe("FetchServer's limits", () => {
  it.live("lets in whoever asks for something while others only hold connections open", () =>
    Effect.gen(function*() {
      const peer = yield* startServer({ files }, { maxConnections: 3 })
      const honest = yield* rawClient(peer)
      const kept = requestFrame(requestFor("small", { keep_alive: true }))
      yield* honest.send(kept)
      yield* takeAck(honest)
      assert.strictEqual((yield* honest.take(1000)).length, 1000)
      const silent = yield* Effect.forEach(Array.from({ length: 50 }), () => rawClient(peer))
      // All but the last two had to make room.
      for (const client of silent.slice(0, 48)) assert.strictEqual((yield* client.all).length, 0)
      const client = yield* makeClient()
      for (let index = 0; index < 5; index++) yield* client.fetch(peer, small, 0, collector())
      yield* honest.send(requestFrame(requestFor("small")))
      yield* takeAck(honest)
      assert.isTrue((yield* honest.all).equals(allBytes(1000)))
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
    it.live(
      `gives up on a peer that sends ${what} and never reads an answer, and frees its place`,
      () =>
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
          // Tens of thousands of them fit into what the system keeps.
        }),
      60_000
    )
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
