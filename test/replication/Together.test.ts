/** Small files that are pulled together: what goes together. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Option, Queue } from "effect"
import { TestClock } from "effect/testing"
import * as BackendMemory from "../../src/backend/BackendMemory.ts"
import { FetchClient, together } from "../../src/ports/FetchClient.ts"
import { NodeId, type Registered } from "../../src/ports/FileEntry.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { PeerResolver } from "../../src/ports/PeerResolver.ts"
import type { Place } from "../../src/replication/Feed.ts"
import { makeReach } from "../../src/replication/order.ts"
import { Placement } from "../../src/replication/Placement.ts"
import { Puller } from "../../src/replication/Puller.ts"
import * as Room from "../../src/replication/Room.ts"
import * as Together from "../../src/replication/Together.ts"
import { entryOf } from "../support/entries.ts"
import { bytesOf, dialled, Dials, fileOf, onNode } from "./node.ts"
import { areHere, bundling, ends, files, owing, pulled, resumed, right, tags } from "./together.ts"

describe("small files that are owed", () => {
  const all = files(100)
  const { asked, way } = bundling(right)
  it.effect("come together, and nobody is asked for any of them alone", () =>
    Effect.gen(function*() {
      const found = yield* pulled(100)
      assert.deepStrictEqual(new Set(tags(found)), new Set(["Pulled"]))
      yield* areHere(all)
      assert.deepStrictEqual(yield* dialled, [])
      assert.strictEqual(asked.flatMap(({ paths }) => paths).length, 100)
      assert.isBelow(asked.length, 10)
      for (const { paths } of asked) assert.isAtMost(paths.length, together.files)
      const stats = yield* (yield* Puller).stats
      assert.deepInclude(stats, { pulled: 100, attempts: 100, failed: 0, queueDepth: 0, inFlight: 0 })
      assert.strictEqual(stats.bytes, all.reduce((sum, { entry }) => sum + entry.size_bytes, 0))
    }).pipe(onNode(owing(all, { together: way }))))

  const large = Array.from({ length: 12 }, (_, n): Registered => ({
    entry: entryOf(`db/large/${n}`, `${n}`.repeat(200_000).slice(0, 200_000), {
      origin_node_id: NodeId.make("node-1")
    }),
    revision: fileOf("x", n + 1).revision
  }))
  const long = Array.from({ length: 12 }, (_, n) => fileOf(`${"a".repeat(200)}/`.repeat(10) + n, n + 20))
  const cut = bundling((_, entries) =>
    Effect.succeed(entries.map((entry) => {
      const n = /large\/(\d+)/.exec(entry.path)?.[1]
      return n === undefined ? bytesOf(entry) : Buffer.from(n.repeat(200_000).slice(0, 200_000))
    }))
  )
  it.effect("are never more bytes together, nor a longer request, than a peer takes", () =>
    Effect.gen(function*() {
      const found = yield* pulled(24)
      assert.deepStrictEqual(new Set(tags(found)), new Set(["Pulled"]))
      const sizes = new Map([...large, ...long].map(({ entry }) => [String(entry.path), entry.size_bytes]))
      for (const { paths } of cut.asked) {
        assert.isAtMost(paths.reduce((sum, path) => sum + (sizes.get(path) ?? 0), 0), together.bytes)
        assert.isAtMost(paths.join("").length, together.pathLength)
      }
      assert.isAbove(cut.asked.length, 4)
    }).pipe(onNode(owing([...large, ...long], { together: cut.way }))))

  const mixed = [...files(20, "node-1"), ...files(20, "node-2")]
  const both = bundling(right)
  it.effect("are asked of the peer that is best for each", () =>
    Effect.gen(function*() {
      yield* pulled(40)
      yield* areHere(mixed)
      for (const { paths, peer } of both.asked) assert.isTrue(paths.every((path) => path.startsWith(`db/${peer}/`)))
    }).pipe(onNode(owing(mixed, { together: both.way, peers: ["node-1", "node-2"] }))))

  const empty: Registered = {
    ...fileOf("db/empty"),
    entry: entryOf("db/empty", "", { origin_node_id: NodeId.make("node-1") })
  }
  const big: Registered = {
    entry: { ...entryOf("db/big", "x"), size_bytes: together.fileBytes + 1, origin_node_id: NodeId.make("node-1") },
    revision: fileOf("x", 5).revision
  }
  const never = bundling(right)
  it.effect("go alone when they are empty, too large for it, or the only one", () =>
    Effect.gen(function*() {
      const found = yield* pulled(3)
      assert.deepStrictEqual(["db/empty", "db/one", "db/big"].map((path) => found.get(path)?._tag), [
        "Pulled",
        "Pulled",
        "Postponed"
      ])
      assert.deepStrictEqual(never.asked, [])
    }).pipe(onNode(owing([empty, big, fileOf("db/one", 7)], { together: never.way, maxAttempts: 1 }))))

  const offered = bundling(right)
  it.effect("come together as well where whoever offers them does not tell their rows", () =>
    Effect.gen(function*() {
      const next = yield* resumed
      const replaced = fileOf("db/replaced", 200)
      yield* (yield* Inventory).apply([...all, replaced].map((file) => ({ _tag: "Owe", file, reason: "", due: 0 })))
      const old = fileOf("db/replaced", 101)
      yield* (yield* Puller).offer([...all, old].map((file) => ({ file })))
      const found = yield* ends(next, 101)
      assert.deepStrictEqual(found.get("db/replaced"), { _tag: "Withdrawn", file: old })
      yield* areHere(all)
      assert.deepStrictEqual(yield* dialled, [])
      assert.strictEqual(offered.asked.flatMap(({ paths }) => paths).length, 100)
    }).pipe(onNode(owing([], { together: offered.way }))))

  it.effect("do not wait for older ones that go alone, because the peer of those gives nothing together", () =>
    Effect.gen(function*() {
      const [one = fileOf("x"), two = fileOf("y")] = [fileOf("db/1", 101, "node-2"), fileOf("db/2", 102, "node-2")]
      yield* Effect.gen(function*() {
        const next = yield* resumed
        // All workers have one of the first 64, which all were left to them.
        for (let n = 0; n < 30; n++) yield* (yield* Dials).next
        yield* (yield* Inventory).apply([one, two].map((file) => ({ _tag: "Owe", file, reason: "", due: 0 })))
        yield* (yield* Puller).offer([one, two].map((file) => ({ file })))
        yield* ends(next, 2)
        yield* areHere([one, two])
      }).pipe(onNode(owing(all, {
        together: (peer) => peer.id === "node-2" ? bundling(right).way(peer) : Option.none(),
        peers: ["node-1", "node-2"],
        script: () => Effect.never
      })))
    }))
})

describe("whoever brings files that are to go together", () => {
  const peer = { id: NodeId.make("node-1"), address: { host: "127.0.0.1", port: 9 } }
  const never = () => Effect.die(new Error("nobody asks for this"))
  const make = (
    way: ReturnType<typeof bundling>["way"],
    { arrived = () => Effect.void, reach = makeReach() }: Partial<Parameters<typeof Together.make>[0]>
  ) =>
    Together.make({
      open: Effect.void,
      queueSize: 100,
      arrived,
      reach,
      onWrong: () => undefined,
      onBytes: () => undefined
    })
      .pipe(
        Effect.provideService(FetchClient, { fetch: never, together: way }),
        Effect.provideService(PeerResolver, { candidates: () => Effect.succeed([peer]) }),
        Effect.provideService(Placement, {
          place: never,
          adopt: never,
          setAside: never,
          placeTogether: (files) => Effect.succeed(files.map(() => "Placed" as const))
        }),
        Effect.provide(Layer.provide(Room.layer({ minFreeBytes: 0 }), BackendMemory.layer))
      )
  const placesOf = (some: ReadonlyArray<Registered>) =>
    some.map((file): Place => {
      const owed = { _tag: "Owed", file, since: 0, rounds: 0, due: 0, reason: "", answers: [] } as const
      return { file, lane: "small", withdrawn: Deferred.makeUnsafe(), known: { owed, absent: true }, noRoom: "" }
    })

  it.effect("hears that a peer is back once it gives something, and not when it gives nothing", () =>
    Effect.gen(function*() {
      const back: Array<string> = []
      const reach = makeReach((peer) => void back.push(peer))
      const arrivals = yield* Queue.unbounded<string>()
      let gives = false
      const { way } = bundling((peer, entries) => gives ? right(peer, entries) : Effect.succeed([]))
      const made = yield* make(way, {
        arrived: (ends) => Queue.offerAll(arrivals, ends.map(([, { _tag }]) => _tag)),
        reach
      })
      const travel = Effect.gen(function*() {
        reach.failed(peer, 0)
        assert.deepStrictEqual(yield* made.join(placesOf(files(2))), [])
        return [yield* Queue.take(arrivals), yield* Queue.take(arrivals)]
      })
      assert.deepStrictEqual(yield* travel, ["Alone", "Alone"])
      assert.deepStrictEqual(back, [])
      gives = true
      assert.deepStrictEqual(yield* travel, ["Delivered", "Delivered"])
      assert.deepStrictEqual(back, ["node-1"])
      assert.strictEqual(made.waiting(), 0)
    }))

  it.effect("waits a second at most for room for all of them, however often some is made", () =>
    Effect.gen(function*() {
      // Four of them go together, three times at once, and 100 wait.
      const long = Array.from({ length: 164 }, (_, n) => fileOf(`${"a".repeat(200)}/`.repeat(10) + n))
      const slow = bundling((peer, entries) => Effect.andThen(Effect.sleep("900 millis"), right(peer, entries)))
      const made = yield* make(slow.way, {})
      const joining = yield* Effect.forkChild(made.join(placesOf(long)))
      while (slow.asked.length < 3) yield* Effect.yieldNow
      yield* TestClock.adjust("999 millis")
      assert.isUndefined(joining.pollUnsafe())
      assert.strictEqual(made.waiting(), 164 - 3 * 4 - 3 * 4)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual((yield* Fiber.join(joining)).length, 164 - 100 - 3 * 4 - 3 * 4)
      assert.strictEqual(made.waiting(), 100)
      // No more wait for a peer that has made none for so long, until it does.
      assert.strictEqual((yield* made.join(placesOf(long.slice(0, 13)))).length, 13)
      yield* TestClock.adjust("800 millis")
      const patient = yield* Effect.forkChild(made.join(placesOf(long.slice(0, 13))))
      while (slow.asked.length < 9) yield* Effect.yieldNow
      yield* TestClock.adjust("900 millis")
      assert.deepStrictEqual(yield* Fiber.join(patient), [])
    }))
})
