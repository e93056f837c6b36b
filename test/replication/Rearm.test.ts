import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Layer, Option, Queue, Random, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as InventoryMemory from "../../src/inventory/InventoryMemory.ts"
import { NodeId } from "../../src/ports/FileEntry.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { type Member, Membership, type Trouble } from "../../src/ports/Membership.ts"
import * as Background from "../../src/replication/Background.ts"
import { memberInterval, nobody, seen, spreadMillis, start, wakers } from "../../src/replication/Rearm.ts"
import { fileOf, self } from "./node.ts"

const member = (name: string, given: Partial<Member> = {}): Member => ({
  id: NodeId.make(name),
  role: "reader",
  address: Option.some({ host: "127.0.0.1", port: 9 }),
  alive: true,
  version: "",
  watermark: Option.none(),
  draining: false,
  ...given
})
const moved = Option.some({ host: "127.0.0.1", port: 10 })
const look = (watch: typeof nobody, ...members: ReadonlyArray<Member>) => seen(watch, members, self)

describe("the watch over members", () => {
  it("takes for news who could not be asked before: new, back, moved, or with an address at last", () => {
    let watch = look(nobody, member("self"), member("a"), member("b", { alive: false }))
    assert.deepStrictEqual([...watch.waiting], [NodeId.make("a")])
    watch = wakers(watch, 0).watch
    watch = look(watch, member("a"), member("b"), member("c", { address: Option.none() }))
    assert.deepStrictEqual([...watch.waiting], [NodeId.make("b")])
    watch = wakers(watch, 0).watch
    watch = look(watch, member("a", { address: moved }), member("b", { version: "2" }), member("c"))
    assert.deepStrictEqual([...watch.waiting].sort(), [NodeId.make("a"), NodeId.make("c")])
  })

  it("lets a member wake what rests once in its interval, however often it flaps", () => {
    let watch = nobody
    const woken: Array<number> = []
    for (let now = 0; now <= 4 * memberInterval; now += 1000) {
      watch = look(watch, member("a", { alive: now % 2000 === 0 }))
      const { now: due, watch: after } = wakers(watch, now)
      watch = after
      if (due.length > 0) woken.push(now)
    }
    assert.deepStrictEqual(woken, [0, 1, 2, 3, 4].map((n) => n * memberInterval))
  })

  it("says when to look again for one that came too early, and forgets it when it is gone again", () => {
    let watch = wakers(look(nobody, member("a")), 100).watch
    watch = look(look(watch), member("a"))
    const early = wakers(watch, 5000)
    assert.deepStrictEqual([early.now, early.next], [[], Option.some(100 + memberInterval)])
    assert.deepStrictEqual(wakers(look(early.watch), 100 + memberInterval).now, [])
    assert.deepStrictEqual(wakers(look(early.watch, member("a")), 100 + memberInterval).now, [NodeId.make("a")])
  })

  it("spreads few debts over a second and very many over a minute", () => {
    assert.deepStrictEqual([0, 1, 1000, 100_000].map(spreadMillis), [1000, 1000, 5000, 60_000])
  })
})

const withMembers = Effect.gen(function*() {
  const views = yield* Queue.unbounded<ReadonlyArray<Member>>()
  const rearmed = yield* Queue.unbounded<number>()
  const membership = Layer.mock(Membership)({
    self: { id: self, role: "reader" },
    changes: Stream.fromQueue(views),
    trouble: Effect.sync(() => trouble)
  })
  let trouble = Option.none<Trouble>()
  const { reached } = yield* Effect.gen(function*() {
    const background = yield* Background.Background
    const rearm = yield* start(background, () => void Queue.offerUnsafe(rearmed, rearm.times()))
    return rearm
  }).pipe(Effect.provide(membership))
  return {
    show: (...members: ReadonlyArray<Member>) => Queue.offer(views, members),
    rearmed: Queue.take(rearmed),
    reached,
    setTrouble: (next: Option.Option<Trouble>) => {
      trouble = next
    }
  }
})

const here = Layer.merge(InventoryMemory.layer, Background.layer)

describe("a peer that appears", () => {
  it.effect("brings every debt that rests forward, spread over some seconds, in bounded steps", () =>
    Effect.gen(function*() {
      const inventory = yield* Inventory
      const count = 1200
      const files = Array.from({ length: count }, (_, n) => fileOf(`db/${n}`, n + 1))
      const now = yield* Clock.currentTimeMillis
      const far = now + 300_000
      yield* inventory.apply(files.map((file) => ({ _tag: "Owe", file, reason: "", due: far })))
      const { rearmed, show } = yield* withMembers
      yield* show(member("a"))
      assert.strictEqual(yield* rearmed, 1)
      const rows = yield* inventory.due(now + 1000 + spreadMillis(count), count)
      assert.strictEqual(rows.length, count)
      // No second of them holds much more than its share.
      const seconds = Map.groupBy(rows, ({ due }) => Math.floor(due / 1000))
      assert.isAtMost(Math.max(...[...seconds.values()].map((each) => each.length)), 250)
    }).pipe(Random.withSeed(1), Effect.provide(here)))

  it.effect("does so at most every 30 s, and then without being seen again", () =>
    Effect.gen(function*() {
      const inventory = yield* Inventory
      const file = fileOf("db/a")
      const { rearmed, show } = yield* withMembers
      yield* show(member("a"))
      yield* rearmed
      const due = (yield* Clock.currentTimeMillis) + 300_000
      yield* inventory.apply([{ _tag: "Owe", file, reason: "", due }])
      // It flaps; somebody else's change tells that this was looked at.
      yield* show(member("b"))
      yield* rearmed
      yield* inventory.postpone(file, due, "", [])
      yield* show(member("a"), member("b"))
      yield* TestClock.adjust("29 seconds")
      assert.strictEqual((yield* inventory.due(due - 1, 1)).length, 0)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* rearmed, 3)
      assert.strictEqual((yield* inventory.due(due - 1, 1)).length, 1)
    }).pipe(Random.withSeed(1), Effect.provide(here)))
})

describe("a member that was there all the time", () => {
  it.effect("brings debts forward when it can be reached again, but not if it is no member", () =>
    Effect.gen(function*() {
      const { reached, rearmed, show } = yield* withMembers
      yield* show(member("a"))
      yield* rearmed
      reached(NodeId.make("nobody"))
      reached(NodeId.make("a"))
      const again = yield* Effect.forkChild(rearmed)
      yield* TestClock.adjust("29 seconds")
      assert.isUndefined(again.pollUnsafe())
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(again), 2)
    }).pipe(Random.withSeed(1), Effect.provide(here)))

  it.effect("brings them forward when the membership works again", () =>
    Effect.gen(function*() {
      const { rearmed, setTrouble, show } = yield* withMembers
      yield* show(member("a"))
      yield* rearmed
      setTrouble(Option.some({ since: 0, detail: "cut off" }))
      const again = yield* Effect.forkChild(rearmed)
      yield* TestClock.adjust("1 minute")
      assert.isUndefined(again.pollUnsafe())
      setTrouble(Option.none())
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* Fiber.join(again), 2)
    }).pipe(Random.withSeed(1), Effect.provide(here)))
})
