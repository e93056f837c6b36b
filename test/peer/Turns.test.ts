/** Whose turn it is, with fetches that end when the test says, and with a real client and peers. */
import { assert, describe, it, vi } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Queue } from "effect"
import { TestClock } from "effect/testing"
import * as Turns from "../../src/peer/Turns.ts"
import { PeerUnreachable } from "../../src/ports/FetchClient.ts"
import type { FileEntry } from "../../src/ports/FileEntry.ts"
import type { Peer } from "../../src/ports/PeerResolver.ts"
import { allBytes, entryOf } from "./support/doubles.ts"
import { collector, makeClient, nodeA, rawPeer, startServer } from "./support/nodes.ts"

vi.setConfig({ testTimeout: 10_000 })

const peerAt = (port: number): Peer => ({ id: nodeA, address: { host: "127.0.0.1", port } })
const peer = peerAt(1)
const late = Array.from({ length: 100 }, (_, n) => entryOf(`db/m/${n}`, 1000))

/** What is on its way. */
interface Going {
  readonly path: string
  readonly end: (exit: Exit.Exit<void, PeerUnreachable>) => void
}

/** Turns of fetches that are put into a queue, and end as the test says. */
const started = Effect.gen(function*() {
  const going = yield* Queue.unbounded<Going>()
  const turns = yield* Turns.make(12)
  const fetch = ({ path }: FileEntry) =>
    Effect.suspend(() => {
      const done = Deferred.makeUnsafe<void, PeerUnreachable>()
      Queue.offerUnsafe(going, { path, end: (exit) => void Deferred.doneUnsafe(done, exit) })
      return Deferred.await(done)
    })
  const fork = (some: ReadonlyArray<FileEntry>, from = peer) =>
    Effect.forEach(some, (entry) => Effect.forkChild(turns.take(from, entry, fetch(entry))))
  return { going, fork }
})

const done = Exit.void

describe("Turns", () => {
  it.effect("asks all peers together for 32 at once, and goes on with any of them", () =>
    Effect.gen(function*() {
      const { fork, going } = yield* started
      for (const port of [1, 2, 3]) yield* fork(late.slice(0, 12), peerAt(port))
      const sent: Array<Going> = []
      for (let n = 0; n < 32; n++) sent.push(yield* Queue.take(going))
      yield* Effect.yieldNow
      assert.strictEqual(yield* Queue.size(going), 0)
      // Of the first peer; those that wait are of the third.
      for (const { end } of sent.slice(0, 4)) end(done)
      for (let n = 0; n < 4; n++) yield* Queue.take(going)
    }))

  it.effect("gives the turn of one that is not wanted any more to the next", () =>
    Effect.gen(function*() {
      const { fork, going } = yield* started
      const fibers = yield* fork(late.slice(0, 40))
      for (let n = 0; n < 12; n++) yield* Queue.take(going)
      yield* Effect.forEach(fibers.slice(0, 12), Fiber.interrupt)
      for (let n = 0; n < 12; n++) yield* Queue.take(going)
      // Of those that wait, too.
      yield* Effect.forEach(fibers.slice(24, 30), Fiber.interrupt)
      yield* Effect.forEach(fibers.slice(12, 24), Fiber.interrupt)
      const rest = yield* Effect.forEach(Array.from({ length: 10 }), () => Queue.take(going))
      assert.deepStrictEqual(rest.map(({ path }) => path), late.slice(30, 40).map(({ path }) => path))
    }))

  it.effect("fails those that wait with the one that found the peer silent, and no other", () =>
    Effect.gen(function*() {
      const { fork, going } = yield* started
      const fibers = yield* fork(late.slice(0, 20))
      const first = yield* Queue.take(going)
      const path = late[0]?.path
      if (path === undefined) return assert.fail("there is a first one")
      first.end(Exit.fail(new PeerUnreachable({ peer: nodeA, path, detail: "the test's" })))
      for (const [n, fiber] of [...fibers.entries()].filter(([n]) => n === 0 || n >= 12)) {
        const error = yield* Effect.flip(Fiber.join(fiber))
        assert.strictEqual(error.message, `node-a can't be reached: the test's`)
        assert.strictEqual("path" in error ? error.path : "", late[n]?.path)
      }
      for (let n = 1; n < 12; n++) (yield* Queue.take(going)).end(done)
      yield* Effect.forEach(fibers.slice(1, 12), Fiber.join)
    }))

  it.effect("lets what was registered just now go first", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(Date.parse("2026-04-12T00:00:00Z"))
      const fresh = (n: number): FileEntry => ({ ...entryOf(`new/${n}`, 1000), created_at: "2026-04-12T00:00:00Z" })
      const { fork, going } = yield* started
      yield* fork(late.slice(0, 20))
      const first = yield* Queue.take(going)
      for (let n = 1; n < 12; n++) yield* Queue.take(going)
      yield* fork([fresh(1), fresh(2)])
      yield* Effect.yieldNow
      first.end(done)
      const next = yield* Queue.take(going)
      assert.strictEqual(next.path, "new/1")
      next.end(done)
      const behind = yield* Queue.take(going)
      assert.strictEqual(behind.path, "new/2")
      behind.end(done)
      assert.strictEqual((yield* Queue.take(going)).path, "db/m/12")
    }))
})

const files = Array.from({ length: 100 }, (_, n) => entryOf(`db/m/${n}`, 1000 + n))

/** Fetches files all at once; gives what came of each. */
const fetchAll = (client: Effect.Success<ReturnType<typeof makeClient>>, from: Peer, some: ReadonlyArray<FileEntry>) =>
  Effect.forEach(some, (file) => {
    const sink = collector()
    return Effect.as(client.fetch(from, file, 0, sink), sink.bytes).pipe(Effect.map((bytes) => bytes()))
  }, { concurrency: "unbounded" })

const areRight = (some: ReadonlyArray<FileEntry>, bytes: ReadonlyArray<Buffer>): void => {
  assert.strictEqual(bytes.length, some.length)
  some.forEach((file, n) => assert.isTrue(bytes[n]?.equals(allBytes(file.size_bytes)), file.path))
}

/** A server that holds its bodies back until the gate opens, and says when twelve have begun. */
const gated = Effect.gen(function*() {
  const gate = yield* Deferred.make<void>()
  const twelve = yield* Deferred.make<void>()
  const begun = { now: 0, most: 0 }
  const beforeChunk = Effect.suspend(() => {
    begun.most = Math.max(begun.most, ++begun.now)
    if (begun.now === 12) Deferred.doneUnsafe(twelve, Effect.void)
    return Effect.andThen(begun.now > 12 ? Effect.void : Deferred.await(gate), Effect.sync(() => begun.now--))
  })
  const peer = yield* startServer({ files: files.map((entry) => ({ entry })), beforeChunk }, { maxServes: 64 })
  return { peer, twelve: Deferred.await(twelve), begun, open: Deferred.succeed(gate, undefined) }
})

describe("FetchClientTcp, asked for many files at once", () => {
  it.live("asks a peer for twelve at once", () =>
    Effect.gen(function*() {
      const { begun, open, peer, twelve } = yield* gated
      const client = yield* makeClient()
      const fetched = yield* Effect.forkChild(fetchAll(client, peer, files))
      yield* twelve
      yield* open
      areRight(files, yield* Fiber.join(fetched))
      assert.strictEqual(begun.most, 12)
    }))

  it.live("asks at once for the last byte of a file, whoever waits", () =>
    Effect.gen(function*() {
      const { open, peer, twelve } = yield* gated
      const client = yield* makeClient()
      const waiting = yield* Effect.forkChild(fetchAll(client, peer, files))
      yield* twelve
      const [first = entryOf("db/m/0", 1000)] = files
      const sink = collector()
      yield* client.fetch(peer, first, first.size_bytes - 1, sink)
      assert.strictEqual(sink.bytes().length, 1)
      yield* open
      areRight(files, yield* Fiber.join(waiting))
    }))

  it.live("lets nobody wait for a peer that can't be reached", () =>
    Effect.gen(function*() {
      const { peer } = yield* Effect.scoped(rawPeer(() => undefined))
      const client = yield* makeClient()
      const errors = yield* Effect.forEach(files, (file) => Effect.flip(client.fetch(peer, file, 0, collector())), {
        concurrency: "unbounded"
      })
      for (const [n, error] of errors.entries()) {
        assert.strictEqual(error._tag, "PeerUnreachable")
        assert.strictEqual(error.path, files[n]?.path)
      }
    }))
})
