import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Schema } from "effect"
import { NodeId } from "../../src/ports/FileEntry.ts"
import { giantBytes } from "../../src/ports/giant.ts"
import type { PeerAnswer } from "../../src/ports/Inventory.ts"
import type { Peer } from "../../src/ports/PeerResolver.ts"
import { answered, blamed, explainAnswers, explainPauses, latest } from "../../src/replication/answers.ts"
import { laneOf, make as makeLanes } from "../../src/replication/lanes.ts"
import { makeReach, plan, type Reach, type Standing } from "../../src/replication/order.ts"
import { fileOf, peer } from "./node.ts"

const id = (name: string) => NodeId.make(name)
const answer = (name: string, given: Partial<PeerAnswer> = {}): PeerAnswer => ({
  peer: id(name),
  at: 0,
  kind: "PeerUnreachable",
  detail: `${name} said no`,
  ...given
})
const known = (...answers: ReadonlyArray<PeerAnswer>) => new Map(answers.map((each) => [each.peer, each]))
const peers = ["a", "b", "c", "d"].map(peer)
const noneFails = () => "well" as const
const fails = (name: string) => ({ id }: { readonly id: NodeId }) => id === name ? "failing" as const : "well" as const
const names = (some: ReadonlyArray<{ readonly id: NodeId }>) => some.map(({ id }) => String(id)).join("")

describe("the order of peers", () => {
  it("is that of the candidates when nothing is known of them", () => {
    assert.deepStrictEqual(plan(peers, known(), noneFails, 0), {
      ask: peers,
      sound: peers,
      reachable: peers,
      paused: [],
      notBefore: undefined
    })
  })

  it("puts those last that failed lately, and those behind them whose bytes were wrong before", () => {
    const answers = known(answer("a", { wrongTimes: 1, notBefore: 5 }), answer("c", { kind: "ChecksumMismatch" }))
    const { ask, sound } = plan(peers, answers, fails("b"), 5)
    assert.deepStrictEqual([names(ask), names(sound)], ["dbac", "d"])
  })

  it("puts slow ones behind the others, then busy ones, then those that failed", () => {
    const standings = new Map<string, Standing>([["a", "failing"], ["b", "busy"], ["d", "slow"]])
    const standingOf = ({ id }: Peer) => standings.get(id) ?? "well"
    const { ask, reachable, sound } = plan(peers, known(), standingOf, 0)
    assert.deepStrictEqual([names(ask), names(reachable), names(sound)], ["cdba", "cdb", "cd"])
  })

  it("leaves those out that rest, and says when the first may be asked again", () => {
    const answers = known(
      answer("a", { notBefore: 90 }),
      answer("c", { notBefore: 70 }),
      answer("d", { notBefore: 20 })
    )
    const { ask, notBefore, paused } = plan(peers, answers, noneFails, 50)
    assert.strictEqual(names(ask), "bd")
    assert.deepStrictEqual([paused, notBefore], [[id("a"), id("c")], 70])
  })

  it("begins with whom it is told to, unless that one rests", () => {
    assert.strictEqual(names(plan(peers, known(), fails("c"), 0, id("c")).ask), "cabd")
    assert.strictEqual(names(plan(peers, known(answer("c", { notBefore: 9 })), noneFails, 0, id("c")).ask), "abd")
  })

  it.prop(
    "asks every candidate that does not rest, once",
    [Schema.Array(Schema.Struct({ rests: Schema.Boolean, fails: Schema.Boolean }))],
    ([states]) => {
      const all = states.map((_, n) => peer(`node-${n}`))
      const answers = known(...states.flatMap(({ rests }, n) => rests ? [answer(`node-${n}`, { notBefore: 2 })] : []))
      const standingOf = ({ id }: { readonly id: NodeId }) =>
        states[Number(id.slice(5))]?.fails === true ? "failing" as const : "well" as const
      const { ask, paused } = plan(all, answers, standingOf, 1)
      assert.deepStrictEqual([...ask.map(({ id }) => id), ...paused].sort(), all.map(({ id }) => id).sort())
    }
  )
})

describe("the memory of who failed", () => {
  const a = peer("a")
  const isFailing = (reach: Reach, peer: Peer, now: number) => reach.standingOf(peer, [peer], now) === "failing"

  it("holds for a minute, and ends at once with an answer or another address", () => {
    const reach = makeReach()
    assert.isFalse(isFailing(reach, a, 0))
    reach.failed(a, 0)
    assert.isTrue(isFailing(reach, a, 59_999))
    assert.isFalse(isFailing(reach, a, 60_000))
    assert.isFalse(isFailing(reach, { ...a, address: { ...a.address, port: 10 } }, 59_999))
    reach.answered(a)
    assert.isFalse(isFailing(reach, a, 59_999))
  })

  it("holds twice as long, up to an hour, for each failure behind the last, and once for failures together", () => {
    const reach = makeReach()
    const rests: Array<number> = []
    for (let now = 0, n = 0; n < 8; n++) {
      for (const worker of [0, 1, 2]) reach.failed(a, now + worker)
      let rest = 0
      while (isFailing(reach, a, now + rest)) rest += 60_000
      rests.push(rest / 60_000)
      now += rest
    }
    assert.deepStrictEqual(rests, [1, 2, 4, 8, 16, 32, 60, 60])
    reach.answered(a)
    reach.failed(a, 0)
    assert.isFalse(isFailing(reach, a, 60_000))
  })

  it("is told of by the answer that ends it, unless the peer was only busy", () => {
    const reach = makeReach()
    reach.busy(a, 100)
    assert.isFalse(reach.answered(a))
    reach.failed(a, 0)
    assert.deepStrictEqual([reach.answered(a), reach.answered(a)], [true, false])
  })

  it("holds as long as a busy peer has asked for", () => {
    const reach = makeReach()
    reach.busy(a, 100)
    assert.deepStrictEqual([99, 100].map((now) => reach.standingOf(a, [a], now)), ["busy", "well"])
  })

  it("is bounded", () => {
    const reach = makeReach()
    for (let n = 0; n < 5000; n++) reach.failed(peer(`node-${n}`), 0)
    assert.isFalse(isFailing(reach, peer("node-0"), 0))
    assert.isTrue(isFailing(reach, peer("node-4999"), 0))
  })
})

describe("answers", () => {
  it("count each whole body of wrong bytes, with a pause of its own", () => {
    const first = blamed(undefined, { peer: id("a"), at: 10, detail: "wrong" }, (times) => times * 100)
    assert.deepStrictEqual([first.kind, first.wrongTimes, first.notBefore], ["WrongBytes", 1, 110])
    const second = blamed(first, { peer: id("a"), at: 200, detail: "wrong" }, (times) => times * 100)
    assert.deepStrictEqual([second.wrongTimes, second.notBefore], [2, 400])
  })

  it("keep a pause when another answer comes", () => {
    const before = answer("a", { wrongTimes: 2, notBefore: 400 })
    const after = answered(before, answer("a", { kind: "Stalled", at: 300 }))
    assert.deepStrictEqual([after.kind, after.wrongTimes, after.notBefore], ["Stalled", 2, 400])
    assert.deepStrictEqual(Object.keys(answered(undefined, answer("a"))).sort(), ["at", "detail", "kind", "peer"])
  })

  it("are kept in a bounded number, the latest", () => {
    const many = Array.from({ length: 500 }, (_, n) => answer(`node-${n}`, { at: n }))
    const kept = latest(many)
    assert.isAtMost(kept.length, 64)
    assert.strictEqual(kept[0]?.at, 499)
  })

  it("explain a refusal by everybody as what it is", () => {
    const auth = answer("a", { kind: "PeerRejected:auth" })
    assert.include(explainAnswers([auth]), "check the shared secret, the cluster name and the clocks")
    assert.notInclude(explainAnswers([auth, answer("b", { kind: "Stalled" })]), "rejected by all peers")
    assert.include(explainPauses(known(answer("a", { wrongTimes: 3 })), [id("a")]), "a (3 times)")
  })
})

describe("the lanes of the queue", () => {
  const queueOf = (capacity: number) =>
    makeLanes<{ readonly name: string; readonly at: number }>(capacity, ({ at }) => at)
  const item = (name: string, at = 0) => ({ name, at })
  const take = (lanes: ReturnType<typeof queueOf>, quick = false) => Effect.map(lanes.take(quick), ({ name }) => name)

  it.effect("let what waits for the first time go before what failed before, which goes as it came", () =>
    Effect.gen(function*() {
      const lanes = queueOf(2)
      const waiting = yield* Effect.forkChild(take(lanes), { startImmediately: true })
      assert.isUndefined(lanes.offer(item("poison 1"), "again"))
      assert.strictEqual(yield* Fiber.join(waiting), "poison 1")
      for (const name of ["poison 2", "poison 3"]) assert.isUndefined(lanes.offer(item(name), "again"))
      const fourth = item("poison 4", 9)
      assert.strictEqual(lanes.offer(fourth, "again"), fourth)
      assert.isFalse(lanes.hasNew())
      for (const name of ["new 1", "new 2"]) assert.isUndefined(lanes.offer(item(name), "small"))
      assert.isTrue(lanes.hasNew())
      assert.deepStrictEqual([lanes.room("small"), lanes.room("giant"), lanes.room("again")], [0, 2, 0])
      const taken = yield* Effect.all([take(lanes), take(lanes), take(lanes), take(lanes)])
      assert.deepStrictEqual(taken, ["new 1", "new 2", "poison 2", "poison 3"])
    }))

  it.effect("let the newest go first, small or giant; a full one gives its oldest away for a newer one", () =>
    Effect.gen(function*() {
      const lanes = queueOf(3)
      for (const at of [5, 1, 3]) assert.isUndefined(lanes.offer(item(`small ${at}`, at), "small"))
      assert.strictEqual(lanes.offer(item("small 4", 4), "small")?.name, "small 1")
      assert.strictEqual(lanes.offer(item("small 2", 2), "small")?.name, "small 2")
      lanes.offer(item("giant 4", 4), "giant")
      lanes.offer(item("giant 9", 9), "giant")
      const taken = yield* Effect.all([take(lanes), take(lanes), take(lanes), take(lanes), take(lanes)])
      assert.deepStrictEqual(taken, ["giant 9", "small 5", "small 4", "giant 4", "small 3"])
    }))

  it.effect("give a quick worker small files that have not failed, and nothing else", () =>
    Effect.gen(function*() {
      const lanes = queueOf(3)
      const waiting = yield* Effect.forkChild(take(lanes, true), { startImmediately: true })
      lanes.offer(item("giant", 9), "giant")
      lanes.offer(item("poison"), "again")
      yield* Effect.yieldNow
      assert.isUndefined(waiting.pollUnsafe())
      lanes.offer(item("small"), "small")
      assert.strictEqual(yield* Fiber.join(waiting), "small")
      assert.deepStrictEqual(yield* Effect.all([take(lanes), take(lanes)]), ["giant", "poison"])
    }))

  it.effect("keep those that may go together from workers, and give the newest of them first", () =>
    Effect.gen(function*() {
      const lanes = queueOf(5)
      const gathering = yield* Effect.forkChild(lanes.takeTogether(2), { startImmediately: true })
      const working = yield* Effect.forkChild(take(lanes), { startImmediately: true })
      for (const at of [1, 3, 2]) lanes.offer(item(`together ${at}`, at), "small", "together")
      assert.isFalse(lanes.hasNew())
      assert.strictEqual(lanes.room("small"), 2)
      assert.deepStrictEqual((yield* Fiber.join(gathering)).map(({ name }) => name), ["together 3", "together 2"])
      assert.isUndefined(working.pollUnsafe())
      lanes.offer(item("small"), "small")
      assert.strictEqual(yield* Fiber.join(working), "small")
      assert.deepStrictEqual((yield* lanes.takeTogether(2)).map(({ name }) => name), ["together 1"])
    }))

  it.effect("give none that may go together while a worker has to take a newer one that was left of such", () =>
    Effect.gen(function*() {
      const lanes = queueOf(9)
      for (const at of [2, 5]) lanes.offer(item(`left ${at}`, at), "small", "left")
      lanes.offer(item("together 4", 4), "small", "together")
      const gather = Effect.map(lanes.takeTogether(2), (some) => some.map(({ name }) => name))
      const gathering = yield* Effect.forkChild(gather, { startImmediately: true })
      lanes.offer(item("together 3", 3), "small", "together")
      lanes.offer(item("together 1", 1), "small", "together")
      yield* Effect.yieldNow
      assert.isUndefined(gathering.pollUnsafe())
      assert.isTrue(lanes.hasNew())
      lanes.offer(item("together 9", 9), "small", "together")
      assert.deepStrictEqual(yield* Fiber.join(gathering), ["together 9"])
      const waiting = yield* Effect.forkChild(gather, { startImmediately: true })
      assert.strictEqual(yield* take(lanes, true), "left 5")
      assert.deepStrictEqual(yield* Fiber.join(waiting), ["together 4", "together 3"])
      const last = yield* Effect.forkChild(gather, { startImmediately: true })
      assert.strictEqual(yield* take(lanes, true), "left 2")
      assert.deepStrictEqual(yield* Fiber.join(last), ["together 1"])
    }))

  it.effect("give away the oldest of all small ones, wherever it waits", () =>
    Effect.gen(function*() {
      const lanes = queueOf(3)
      lanes.offer(item("left 2", 2), "small", "left")
      lanes.offer(item("together 1", 1), "small", "together")
      lanes.offer(item("small 3", 3), "small")
      assert.strictEqual(lanes.offer(item("together 4", 4), "small", "together")?.name, "together 1")
      assert.strictEqual(lanes.offer(item("small 5", 5), "small")?.name, "left 2")
      const late = item("together 2", 2)
      assert.strictEqual(lanes.offer(late, "small", "together"), late)
      assert.deepStrictEqual(yield* Effect.all([take(lanes), take(lanes)]), ["small 5", "small 3"])
      assert.deepStrictEqual((yield* lanes.takeTogether(9)).map(({ name }) => name), ["together 4"])
    }))

  it("are chosen by how often a file has failed, then by its size", () => {
    const { entry, revision } = fileOf("db/a")
    const sized = (size_bytes: number) => ({ entry: { ...entry, size_bytes }, revision })
    assert.strictEqual(laneOf(sized(giantBytes - 1), 0), "small")
    assert.strictEqual(laneOf(sized(giantBytes), 0), "giant")
    assert.strictEqual(laneOf(sized(giantBytes), 1), "again")
  })
})

describe("the memory of who is slow", () => {
  const [a, b, c] = [peer("a"), peer("b"), peer("c")]
  const MiB = 1024 * 1024

  it("is of bodies that tell something, and compares the candidates with each other", () => {
    const reach = makeReach()
    const standings = (...among: ReadonlyArray<Peer>) => among.map((peer) => reach.standingOf(peer, among, 1))
    reach.sent(a, 80 * MiB, 1000, 0)
    reach.sent(b, 10 * MiB, 1000, 0)
    // So little that its time says nothing.
    reach.sent(c, MiB - 1, 60_000, 0)
    assert.deepStrictEqual(standings(a, b, c), ["well", "slow", "well"])
    assert.deepStrictEqual(standings(b, c), ["well", "well"])
    reach.sent(b, 30 * MiB, 1000, 0)
    assert.deepStrictEqual(standings(a, b, c), ["well", "well", "well"])
  })

  it("gives a slow peer another try after a while, and whoever has moved", () => {
    const reach = makeReach()
    reach.sent(a, 80 * MiB, 1000, 0)
    reach.sent(b, MiB, 1000, 0)
    assert.strictEqual(reach.standingOf(b, [a, b], 299_999), "slow")
    assert.strictEqual(reach.standingOf(b, [a, b], 300_000), "well")
    const moved = { ...b, address: { ...b.address, port: 10 } }
    assert.strictEqual(reach.standingOf(moved, [a, moved], 1), "well")
  })

  it("does not hide a failure", () => {
    const reach = makeReach()
    reach.sent(a, 80 * MiB, 1000, 0)
    reach.failed(a, 10)
    assert.strictEqual(reach.standingOf(a, [a, b], 1), "failing")
  })
})
