/** What the puller does where a peer sends a file to others first. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Metric, Option, Queue } from "effect"
import { TestClock } from "effect/testing"
import { Crowded, FileNotOnPeer, PeerRejected, ShortBody } from "../../src/ports/FetchClient.ts"
import { NodeId, type Registered, Revision } from "../../src/ports/FileEntry.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import * as Aside from "../../src/replication/Aside.ts"
import { named, othersFirst, unreachable } from "../../src/replication/crowds.ts"
import { Puller } from "../../src/replication/Puller.ts"
import * as Metrics from "../../src/telemetry/Metrics.ts"
import { entryOf } from "../support/entries.ts"
import { valueOf } from "../support/metrics.ts"
import { bytesOf, Dials, fileOf, onNode, peer, receiptsOf, type Script, unreachable as away } from "./node.ts"

const ids = (names: ReadonlyArray<string>) => names.map((name) => NodeId.make(name))
const crowded = (name: string, holders: ReadonlyArray<string>, retryAfterMillis = 100): Crowded =>
  new Crowded({ peer: NodeId.make(name), path: FilePath.make("db/a"), holders: ids(holders), retryAfterMillis })
const namesOf = (peers: ReadonlyArray<{ readonly id: NodeId }>) => peers.map(({ id }) => String(id)).join("")
const peers = ["a", "b", "c", "d"].map(peer)
const asked = (...names: ReadonlyArray<string>) => names.map((name) => ({ peer: NodeId.make(name) }))

/** The fibers that were woken have to get to their next wait. */
const settle = Effect.forEach(Array.from({ length: 50 }), () => Effect.yieldNow)
const pass = (millis: number) => Effect.andThen(TestClock.adjust(millis), settle)

describe("what crowds lead to", () => {
  it("asks those that were named and can be asked, in their order, the last naming first, and nobody twice", () => {
    assert.strictEqual(namesOf(named([crowded("a", ["z", "d", "b"])], peers, asked("a"))), "bd")
    const both = [crowded("a", ["d", "b"]), crowded("b", ["c", "d", "a"])]
    assert.strictEqual(namesOf(named(both, peers, asked("a", "b"))), "cd")
    assert.strictEqual(namesOf(named(both, peers, asked("a", "b", "c", "d"))), "")
  })

  it("tells who can't be asked, when that is everybody that was named and nobody gets it", () => {
    assert.deepStrictEqual(unreachable([crowded("a", ["y", "z"])], peers), ids(["y", "z"]))
    assert.deepStrictEqual(unreachable([crowded("a", ["y", "b"])], peers), [])
    assert.deepStrictEqual(unreachable([crowded("a", ["y"]), crowded("b", [])], peers), [])
    assert.deepStrictEqual(unreachable([], peers), [])
  })

  it("comes again when somebody who gets it should have it, and else soon", () => {
    const getting = othersFirst([crowded("a", ["b"], 100), crowded("b", [], 900), crowded("c", [], 800)])
    assert.deepInclude(getting, { retryAfterMillis: 800, vain: false })
    assert.deepInclude(othersFirst([crowded("a", ["b"], 100)]), { retryAfterMillis: 100, vain: true })
    assert.include(getting.message, "a sends db/a to others first; those have it: b")
  })
})

describe("a file that is left to others", () => {
  const { entry, revision } = fileOf("db/a")
  const item = { file: { entry: { ...entry, size_bytes: 30 << 20 }, revision } }
  const getting = othersFirst([crowded("a", [], 0)])

  it.effect("may wait for half a minute and its time at 1 MiB/s, unless the clock was set back", () =>
    Effect.gen(function*() {
      const { add, mayWait } = yield* Aside.make<typeof item>(() => undefined)
      yield* TestClock.setTime(1000)
      assert.isTrue(yield* mayWait(item))
      yield* add(item, getting)
      yield* TestClock.setTime(60_999)
      assert.isTrue(yield* mayWait(item))
      yield* TestClock.setTime(61_000)
      assert.isFalse(yield* mayWait(item))
      yield* TestClock.setTime(1000)
      assert.isTrue(yield* mayWait(item))
      yield* TestClock.setTime(999)
      assert.isFalse(yield* mayWait(item))
    }))

  it.effect("is asked for ever less often, whatever a peer says", () =>
    Effect.gen(function*() {
      const back = yield* Queue.unbounded<typeof item>()
      const { add } = yield* Aside.make<typeof item>((item) => Queue.offerUnsafe(back, item))
      for (const least of [100, 200, 400, 800, 1600, 2000, 2000]) {
        yield* add(item, getting)
        yield* pass(least - 1)
        assert.strictEqual(yield* Queue.size(back), 0)
        yield* pass(1 + least / 5)
        yield* Queue.take(back)
      }
    }))
})

/** Sends the file to others first, and says who has it. */
const names = (holders: ReadonlyArray<string>, retryAfterMillis = 100): Script => (peer, { path }) =>
  Effect.fail(new Crowded({ peer: peer.id, path, holders: ids(holders), retryAfterMillis }))
const notHere: Script = (peer, { path }) => Effect.fail(new FileNotOnPeer({ peer: peer.id, path, code: "not_found" }))
const gives: Script = (_peer, entry, offset, sink) => sink.write(bytesOf(entry).subarray(offset))

/** Each peer's own script; but the origin gives the file to whoever can't wait. */
const each = (scripts: Readonly<Record<string, Script>>): Script => (peer, entry, offset, sink, elsewhere) => {
  const script = scripts[peer.id] ?? notHere
  const plain = peer.id === "node-1" && elsewhere === undefined
  return (plain ? gives : script)(peer, entry, offset, sink, elsewhere)
}

/** Sends a text from an offset on. */
const sends = (text: string): Script => (_peer, _entry, offset, sink) => sink.write(Buffer.from(text.slice(offset)))
/** Sends so much of a text and breaks off. */
const breaks = (text: string, length: number): Script => (peer, entry, offset, sink) =>
  Effect.andThen(
    sends(text.slice(0, length))(peer, entry, offset, sink),
    Effect.fail(new ShortBody({ peer: peer.id, path: entry.path, expected: text.length, received: length }))
  )

const two = ["node-1", "node-2"]
const three = [...two, "node-3"]
const dialled = Effect.map(Dials, ({ all }) => all.map(({ peer }) => peer))
const whyOf = ({ entry }: Registered) => Effect.flatMap(Puller, ({ waitsFor }) => waitsFor(entry.path))

describe("a puller whose peer sends a file to others first", () => {
  it.effect("asks whom that one names, and nobody else", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      const receipt = yield* receipts
      assert.deepStrictEqual(receipt._tag === "Pulled" && receipt.from, Option.some(NodeId.make("node-3")))
      assert.deepStrictEqual(yield* dialled, ["node-1", "node-3"])
    }).pipe(onNode({ script: each({ "node-1": names(["node-3"]), "node-2": gives, "node-3": gives }), peers: three })))

  it.effect("asks one more the first time when nobody is named, who may hold it for long", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      const receipt = yield* receipts
      assert.deepStrictEqual(receipt._tag === "Pulled" && receipt.from, Option.some(NodeId.make("node-3")))
      assert.deepStrictEqual(yield* dialled, ["node-1", "node-3"])
    }).pipe(onNode({ script: each({ "node-1": names([]), "node-3": gives }), peers: three })))

  it.effect("does not ask one more that failed lately", () =>
    Effect.gen(function*() {
      const puller = yield* Puller
      yield* puller.enqueue(fileOf("db/a"))
      yield* settle
      yield* puller.enqueue(fileOf("db/b"))
      yield* settle
      assert.deepStrictEqual(yield* dialled, ["node-1", "node-2", "node-1"])
    }).pipe(onNode({ script: each({ "node-1": names([], 5000), "node-2": away }), peers: two })))

  it.effect("takes other files meanwhile, then this one from whoever has it, without any failure", () => {
    let taken = false
    const origin: Script = (peer, entry, offset, sink, elsewhere) =>
      entry.path === "db/a"
        ? names(taken ? ["node-2"] : [], 700)(peer, entry, offset, sink, elsewhere)
        : gives(peer, entry, offset, sink)
    return Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      const file = fileOf("db/a", 2)
      yield* puller.enqueue(file)
      yield* puller.enqueue(fileOf("db/b", 1))
      assert.strictEqual((yield* receipts).file.entry.path, "db/b")
      yield* settle
      assert.include(Option.getOrElse(yield* whyOf(file), () => ""), "node-1 sends db/a to others first")
      const { inFlight, queueDepth } = yield* puller.stats
      assert.deepStrictEqual({ inFlight, queueDepth }, { inFlight: 0, queueDepth: 1 })
      yield* pass(699)
      assert.deepStrictEqual(yield* dialled, ["node-1", "node-3", "node-1"])
      taken = true
      yield* pass(141 + 1)
      const receipt = yield* receipts
      assert.deepStrictEqual(receipt._tag === "Pulled" && receipt.from, Option.some(NodeId.make("node-2")))
      assert.deepStrictEqual(yield* dialled, ["node-1", "node-3", "node-1", "node-1", "node-2"])
      assert.isTrue(Option.isNone(yield* whyOf(file)))
      const { failed, pulled } = yield* puller.stats
      assert.deepStrictEqual({ failed, pulled }, { failed: 0, pulled: 2 })
    }).pipe(onNode({ workers: 1, script: each({ "node-1": origin, "node-2": gives }), peers: three }))
  })

  it.effect("counts no round against the file, and asks the same peer first for others", () =>
    Effect.gen(function*() {
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      yield* settle
      const row = yield* (yield* Inventory).why(FilePath.make("db/a"))
      assert.deepInclude(Option.getOrUndefined(row), { _tag: "Owed", rounds: 0, answers: [], due: 0 })
      yield* (yield* Puller).enqueue(fileOf("db/b"))
      yield* settle
      assert.deepStrictEqual(yield* dialled, ["node-1", "node-3", "node-1", "node-2"])
    }).pipe(onNode({ script: each({ "node-1": names([], 5000) }), peers: three })))

  it.effect("takes it from that peer all the same when nobody has it for half a minute", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      for (let n = 0; n < 36; n++) yield* pass(1000)
      const receipt = yield* receipts
      assert.deepStrictEqual(receipt._tag === "Pulled" && receipt.from, Option.some(NodeId.make("node-1")))
      assert.isAtMost((yield* dialled).length, 1 + 30_000 / 1000)
    }).pipe(onNode({ script: each({ "node-1": names([], 1000) }), peers: three })))

  it.effect("does so after a few tries when those that are said to have it don't", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      for (let n = 0; n < 40; n++) yield* pass(200)
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.deepStrictEqual(
        yield* dialled,
        [...Array.from({ length: 5 }, () => ["node-1", "node-2"]), "node-1"].flat()
      )
    }).pipe(onNode({ script: each({ "node-1": names(["node-2"]) }), peers: three })))

  it.effect("says so at once when none of those can be asked", () => {
    const told: Array<ReadonlyArray<string>> = []
    const origin: Script = (peer, entry, offset, sink, elsewhere) => {
      told.push(elsewhere?.notAt ?? ["nothing"])
      return elsewhere?.notAt.length === 0
        ? names(["gone", "node-2"])(peer, entry, offset, sink, elsewhere)
        : gives(peer, entry, offset, sink)
    }
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      yield* settle
      // That it is away shows first.
      assert.deepStrictEqual(told, [[]])
      yield* pass(250)
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.deepStrictEqual(told, [[], [], ["gone", "node-2"]])
      assert.deepStrictEqual(yield* dialled, ["node-1", "node-2", "node-1", "node-1"])
    }).pipe(onNode({ script: each({ "node-1": origin, "node-2": away }), peers: three }))
  })

  it.effect("does not forget over it whose bytes were wrong", () => {
    let asked = 0
    const origin: Script = (...given) => names(asked++ % 2 === 0 ? ["node-2"] : [])(...given)
    const wrong: Script = (_peer, entry, _offset, sink) => sink.write(bytesOf(entry).map((byte) => byte ^ 1))
    return Effect.gen(function*() {
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      for (let n = 0; n < 50; n++) yield* pass(100)
      // Once, and once more when its pause is over.
      assert.isAtMost((yield* dialled).filter((name) => name === "node-2").length, 2)
      assert.isAbove(asked, 3)
    }).pipe(onNode({ script: each({ "node-1": origin, "node-2": wrong }), peers: three, initialBackoffMillis: 4000 }))
  })

  it.effect("does not wait once something of the file is here", () => {
    // So much of a file is kept.
    const half = 256 * 1024
    const text = "x".repeat(2 * half)
    const file = { entry: entryOf("db/a", text, { origin_node_id: NodeId.make("node-1") }), revision: Revision.make(1) }
    const rest = sends(text)
    let begun = 0
    const origin: Script = (...given) =>
      (given[4] === undefined ? rest : begun++ === 0 ? breaks(text, half) : names([]))(...given)
    const script: Script = (...given) => (given[0].id === "node-1" ? origin : notHere)(...given)
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(file)
      for (let n = 0; n < 10; n++) yield* pass(100)
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      const { all } = yield* Dials
      assert.deepStrictEqual(all.map(({ offset, peer }) => [peer, offset]), [
        ["node-1", 0],
        ["node-2", half],
        ["node-1", half]
      ])
    }).pipe(onNode({ script, peers: two }))
  })

  it.effect("does not wait either while it takes a file from one peer alone, to see who sends wrong bytes", () => {
    let begun = false
    const origin: Script = (...given) => {
      const script = begun ? names([]) : breaks("wrong", 2)
      begun = true
      return script(...given)
    }
    const second: Script = (...given) => (begun ? gives : notHere)(...given)
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      for (let n = 0; n < 10; n++) yield* pass(100)
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.deepStrictEqual(yield* dialled, ["node-1", "node-2", "node-1"])
    }).pipe(onNode({ script: each({ "node-1": origin, "node-2": second }), peers: two }))
  })

  it.effect("says so of nobody that is only busy, and asks it when it no longer is", () => {
    const told: Array<ReadonlyArray<string>> = []
    const origin: Script = (peer, entry, offset, sink, elsewhere) => {
      told.push(elsewhere?.notAt ?? ["nothing"])
      return names(["node-2"])(peer, entry, offset, sink, elsewhere)
    }
    let asked = 0
    const busy: Script = (peer, entry, offset, sink) =>
      asked++ > 0
        ? gives(peer, entry, offset, sink)
        : Effect.fail(new PeerRejected({ peer: peer.id, path: entry.path, code: "busy", retryAfterMillis: 1000 }))
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      for (let n = 0; n < 20; n++) yield* pass(100)
      const receipt = yield* receipts
      assert.deepStrictEqual(receipt._tag === "Pulled" && receipt.from, Option.some(NodeId.make("node-2")))
      assert.deepStrictEqual(told, [[], [], [], []])
      assert.strictEqual(asked, 2)
    }).pipe(onNode({ script: each({ "node-1": origin, "node-2": busy }), peers: three }))
  })

  it.effect("counts no failure of who is named and has not verified it yet, and each try behind the first", () =>
    Effect.gen(function*() {
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      for (let n = 0; n < 4; n++) yield* pass(100)
      assert.deepStrictEqual(yield* dialled, ["node-1", "node-2", "node-1", "node-2"])
      const text = yield* Metrics.render
      const of = (series: string) => valueOf(text, `file_replication_${series}`) ?? 0
      assert.deepStrictEqual([of("pull_attempts_total"), of("pull_retries_total")], [2, 1])
      assert.strictEqual(of("peer_failures_total{peer=\"node-2\"}"), 0)
      assert.strictEqual(of("fetch_failures_total{kind=\"FileNotOnPeer\"}"), 0)
    }).pipe(
      onNode({ script: each({ "node-1": names(["node-2"]) }), peers: two }),
      Effect.provideService(Metric.MetricRegistry, new Map())
    ))

  it.effect("takes more of what is owed at once in the place of what is left to others", () =>
    Effect.gen(function*() {
      yield* settle
      const { pulled, queueDepth } = yield* (yield* Puller).stats
      assert.deepStrictEqual({ pulled, queueDepth }, { pulled: 4, queueDepth: 8 })
    }).pipe(onNode({
      script: (...given) => (Number(given[1].path.slice(3)) < 4 ? gives : names([], 5000))(...given),
      peers: two,
      queueSize: 4,
      before: Effect.flatMap(Inventory, ({ apply }) =>
        apply(Array.from({ length: 12 }, (_, n) => ({
          _tag: "Owe" as const,
          file: fileOf(`db/${n}`, n + 1),
          reason: "",
          due: 0
        }))))
    })))

  it.effect("leaves no more than so many to others at once", () =>
    Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      for (let n = 0; n < 70; n++) {
        yield* puller.enqueue(fileOf(`db/${n}`, n + 1))
        yield* settle
      }
      const { pulled, queueDepth } = yield* puller.stats
      assert.deepStrictEqual({ pulled, queueDepth }, { pulled: 6, queueDepth: 64 })
      assert.strictEqual((yield* receipts).file.entry.path, "db/64")
    }).pipe(onNode({ workers: 1, queueSize: 100, script: each({ "node-1": names([], 5000) }), peers: three })))

  it.effect("looks again at what is owed when its time has come", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      const inventory = yield* Inventory
      yield* (yield* Dials).next
      yield* settle
      const path = FilePath.make("db/a")
      yield* inventory.apply([{ _tag: "Forget", path, revision: Revision.make(2), due: 0 }])
      yield* pass(1201)
      assert.strictEqual((yield* receipts)._tag, "Withdrawn")
      assert.deepStrictEqual(yield* dialled, ["node-1", "node-3"])
    }).pipe(onNode({
      script: each({ "node-1": names([], 1000) }),
      peers: three,
      before: Effect.flatMap(
        Inventory,
        ({ apply }) => apply([{ _tag: "Owe", file: fileOf("db/a"), reason: "", due: 0 }])
      )
    })))

  it.effect("forgets a file that is deleted meanwhile, or replaced", () =>
    Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      const file = fileOf("db/a")
      yield* puller.enqueue(file)
      yield* settle
      yield* puller.withdraw(file.entry.path)
      assert.strictEqual((yield* receipts)._tag, "Withdrawn")
      assert.strictEqual((yield* puller.stats).queueDepth, 0)
      yield* puller.enqueue(file)
      yield* settle
      assert.strictEqual(yield* puller.enqueue(fileOf("db/a", 2)), "Enqueued")
      yield* settle
      assert.strictEqual((yield* puller.stats).queueDepth, 1)
      for (let n = 0; n < 36; n++) yield* pass(1000)
      assert.strictEqual((yield* receipts).file.revision, 2)
      assert.strictEqual((yield* puller.stats).pulled, 1)
    }).pipe(onNode({ script: each({ "node-1": names([], 1000) }), peers: three })))
})
