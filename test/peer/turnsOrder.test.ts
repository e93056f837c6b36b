/** Whose turn it is, with bundles that come when the test says. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Queue, Scope } from "effect"
import { TestClock } from "effect/testing"
import { type FetchBundle, NoBundle } from "../../src/peer/fetchBundle.ts"
import * as Turns from "../../src/peer/Turns.ts"
import { PeerUnreachable } from "../../src/ports/FetchClient.ts"
import type { FileEntry } from "../../src/ports/FileEntry.ts"
import type { Peer } from "../../src/ports/PeerResolver.ts"
import { entryOf } from "./support/doubles.ts"
import { nodeA } from "./support/nodes.ts"

const peerAt = (port: number): Peer => ({ id: nodeA, address: { host: "127.0.0.1", port } })
const peer = peerAt(1)
const late = Array.from({ length: 100 }, (_, n) => entryOf(`db/m/${n}`, 1000))

/** What is on its way. */
interface Sent {
  readonly paths: ReadonlyArray<string>
  readonly end: (exit: Exit.Exit<ReadonlyArray<Uint8Array | undefined>, NoBundle | PeerUnreachable>) => void
}

/** Turns whose bundles and lone files are put into queues, and end as the test says. */
const started = Effect.gen(function*() {
  const bundles = yield* Queue.unbounded<Sent>()
  const alone = yield* Queue.unbounded<Sent>()
  const sentTo = (queue: Queue.Queue<Sent>, paths: ReadonlyArray<string>) =>
    Effect.suspend(() => {
      const answer = Deferred.makeUnsafe<ReadonlyArray<Uint8Array | undefined>, NoBundle | PeerUnreachable>()
      Queue.offerUnsafe(queue, { paths, end: (exit) => void Deferred.doneUnsafe(answer, exit) })
      return Deferred.await(answer)
    })
  const fetchBundle: FetchBundle = (_, entries) =>
    Effect.catchTag(sentTo(bundles, entries.map(({ path }) => path)), "PeerUnreachable", Effect.die)
  const turns = yield* Turns.make({ fetchBundle, bundling: () => true, atOnce: 12 })
  const take = (entry: FileEntry, from: Peer = peer) =>
    turns.take(from, entry, entry.size_bytes, {
      came: () => Effect.void,
      alone: Effect.asVoid(sentTo(alone, [entry.path]))
    })
  const fork = (some: ReadonlyArray<FileEntry>, from?: Peer) =>
    Effect.forEach(some, (entry) => Effect.forkChild(take(entry, from)))
  return { turns, bundles, alone, take, fork }
})

const allOf = ({ paths }: Sent) => Exit.succeed(paths.map(() => new Uint8Array(1000)))
const done = Exit.succeed([])

describe("Turns", () => {
  it.effect("sends two bundles at once, and the next when one has come", () =>
    Effect.gen(function*() {
      const { bundles, fork, turns } = yield* started
      turns.heard(peer, true)
      yield* fork([...late, ...late])
      const [one, two] = [yield* Queue.take(bundles), yield* Queue.take(bundles)]
      assert.deepStrictEqual([one.paths.length, two.paths.length], [64, 64])
      yield* Effect.yieldNow
      assert.strictEqual(yield* Queue.size(bundles), 0)
      one.end(allOf(one))
      assert.strictEqual((yield* Queue.take(bundles)).paths.length, 64)
    }))

  it.effect("lets what was registered just now go first, and alone while bundles are on their way", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(Date.parse("2026-04-12T00:00:00Z"))
      const fresh = (n: number): FileEntry => ({ ...entryOf(`new/${n}`, 1000), created_at: "2026-04-12T00:00:00Z" })
      const { alone, bundles, fork, turns } = yield* started
      turns.heard(peer, true)
      yield* fork(late.slice(0, 80))
      const first = yield* Queue.take(bundles)
      const second = yield* Queue.take(bundles)
      yield* fork([fresh(1)])
      assert.deepStrictEqual((yield* Queue.take(alone)).paths, ["new/1"])
      yield* fork([...late.slice(0, 70), fresh(2), fresh(3)])
      first.end(allOf(first))
      second.end(allOf(second))
      assert.deepStrictEqual((yield* Queue.take(bundles)).paths.slice(0, 3), ["new/2", "new/3", "db/m/0"])
    }))

  it.effect("asks for no bundle for a minute behind one that did not come, then again", () =>
    Effect.gen(function*() {
      const { alone, bundles, fork, turns } = yield* started
      turns.heard(peer, true)
      yield* fork(late.slice(0, 2))
      ;(yield* Queue.take(bundles)).end(Exit.fail(new NoBundle({ silent: false, detail: "the test's" })))
      for (let n = 0; n < 2; n++) (yield* Queue.take(alone)).end(done)
      yield* TestClock.adjust(59_999)
      yield* fork(late.slice(0, 2))
      for (let n = 0; n < 2; n++) (yield* Queue.take(alone)).end(done)
      yield* TestClock.adjust(1)
      yield* fork(late.slice(0, 2))
      assert.strictEqual((yield* Queue.take(bundles)).paths.length, 2)
    }))

  it.effect("asks a peer that has said that it takes none any more for each alone", () =>
    Effect.gen(function*() {
      const { alone, fork, turns } = yield* started
      turns.heard(peer, true)
      turns.heard(peer, false)
      yield* fork(late.slice(0, 2))
      assert.strictEqual((yield* Queue.take(alone)).paths.length, 1)
      assert.strictEqual((yield* Queue.take(alone)).paths.length, 1)
    }))

  it.effect("asks all peers together for 32 at once, and goes on with any of them", () =>
    Effect.gen(function*() {
      const { alone, fork } = yield* started
      for (const port of [1, 2, 3]) yield* fork(late.slice(0, 12), peerAt(port))
      const sent: Array<Sent> = []
      for (let n = 0; n < 32; n++) sent.push(yield* Queue.take(alone))
      yield* Effect.yieldNow
      assert.strictEqual(yield* Queue.size(alone), 0)
      // Of the first peer; those that wait are of the third.
      for (const { end } of sent.slice(0, 4)) end(done)
      for (let n = 0; n < 4; n++) yield* Queue.take(alone)
    }))

  it.effect("gives the turn of one that is not wanted any more to the next", () =>
    Effect.gen(function*() {
      const { alone, fork } = yield* started
      const fibers = yield* fork(late.slice(0, 40))
      for (let n = 0; n < 12; n++) yield* Queue.take(alone)
      yield* Effect.forEach(fibers.slice(0, 12), Fiber.interrupt)
      for (let n = 0; n < 12; n++) yield* Queue.take(alone)
      // Of those that wait, too.
      yield* Effect.forEach(fibers.slice(24, 30), Fiber.interrupt)
      yield* Effect.forEach(fibers.slice(12, 24), Fiber.interrupt)
      const rest = yield* Effect.forEach(Array.from({ length: 10 }), () => Queue.take(alone))
      assert.deepStrictEqual(rest.flatMap(({ paths }) => paths), late.slice(30, 40).map(({ path }) => path))
    }))

  it.effect("fails those that wait with the one that found the peer silent, and no other", () =>
    Effect.gen(function*() {
      const { alone, fork } = yield* started
      const fibers = yield* fork(late.slice(0, 20))
      const first = yield* Queue.take(alone)
      const path = late[0]?.path
      if (path === undefined) return assert.fail("there is a first one")
      first.end(Exit.fail(new PeerUnreachable({ peer: nodeA, path, detail: "the test's" })))
      for (const [n, fiber] of [...fibers.entries()].filter(([n]) => n === 0 || n >= 12)) {
        const error = yield* Effect.flip(Fiber.join(fiber))
        assert.strictEqual(error.message, `node-a can't be reached: the test's`)
        assert.strictEqual("path" in error ? error.path : "", late[n]?.path)
      }
      for (let n = 1; n < 12; n++) (yield* Queue.take(alone)).end(done)
      yield* Effect.forEach(fibers.slice(1, 12), Fiber.join)
    }))

  it.effect("lets nobody wait for ever once it is closed", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const { alone, bundles, fork, turns } = yield* Scope.provide(started, scope)
      turns.heard(peer, true)
      yield* fork(late.slice(0, 2))
      yield* Queue.take(bundles)
      yield* Scope.close(scope, Exit.void)
      yield* fork(late.slice(2, 4))
      for (let n = 0; n < 4; n++) yield* Queue.take(alone)
    }))
})
