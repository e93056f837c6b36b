/** Whom the puller asks, whom it blames, and what it keeps, over attempts and rounds. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Layer, Option, Queue, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Backend, type Staged } from "../../src/ports/Backend.ts"
import { FileNotOnPeer, PeerRejected, ShortBody } from "../../src/ports/FetchClient.ts"
import { NodeId, type Registered } from "../../src/ports/FileEntry.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { type Member, Membership } from "../../src/ports/Membership.ts"
import { Puller } from "../../src/replication/Puller.ts"
import { entryOf } from "../support/entries.ts"
import { dialled, Dials, fileOf, honest, makeGate, onNode, receiptsOf, type Script, textUnder } from "./node.ts"
import { passing, peer, self, unreachable } from "./node.ts"

const MiB = 1024 * 1024

const owedRow = (file: Registered) =>
  Effect.gen(function*() {
    const row = yield* (yield* Inventory).why(file.entry.path)
    return Option.isSome(row) && row.value._tag === "Owed" ? row.value : undefined
  })
const here = (file: Registered) =>
  Effect.map(Effect.flatMap(Inventory, (inventory) => inventory.verified(file.entry.path)), Option.isSome)

/** A file of some MiB; its bytes come from `bigBytes`. */
const bigFile = (size: number, origin = "node-1"): Registered => ({
  entry: entryOf("db/big", "x".repeat(size), { origin_node_id: origin }),
  revision: fileOf("db/big").revision
})
const right = (size: number) => new Uint8Array(size).fill("x".charCodeAt(0))
const wrong = (size: number) => new Uint8Array(size).fill("y".charCodeAt(0))

/** Sends `bytes` from the offset on, at most `count` of them, then breaks when that is not all. */
const sends = (bytes: (size: number) => Uint8Array, count = Infinity): Script => (peer, entry, offset, sink) => {
  const end = Math.min(entry.size_bytes, offset + count)
  const sent = sink.write(bytes(entry.size_bytes).subarray(offset, end))
  if (end === entry.size_bytes) return sent
  const broken = new ShortBody({
    peer: peer.id,
    path: entry.path,
    expected: entry.size_bytes - offset,
    received: count
  })
  return Effect.andThen(sent, Effect.fail(broken))
}
const notHere: Script = (peer, entry) =>
  Effect.fail(new FileNotOnPeer({ peer: peer.id, path: entry.path, code: "not_found" }))

/** Each peer's own script. */
const each = (scripts: Readonly<Record<string, Script>>): Script => (peer, entry, offset, sink) =>
  (scripts[peer.id] ?? honest)(peer, entry, offset, sink)

const three = ["node-1", "node-2", "node-3"]

describe("falling back", () => {
  it.effect("asks an origin that is gone once, and last from then on", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      for (const name of ["a", "b", "c", "d"]) {
        yield* (yield* Puller).enqueue(fileOf(`db/${name}`))
        assert.strictEqual((yield* receipts)._tag, "Pulled")
      }
      const asked = yield* dialled
      assert.strictEqual(asked[0], "node-1")
      assert.strictEqual(asked.filter((name) => name === "node-1").length, 1)
    }).pipe(onNode({ script: each({ "node-1": unreachable }), peers: three })))

  it.effect("asks a peer that was gone first again once that is long ago, or it has answered", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      yield* receipts
      yield* TestClock.adjust("61 seconds")
      yield* (yield* Puller).enqueue(fileOf("db/b"))
      yield* receipts
      const asked = yield* dialled
      assert.deepStrictEqual(asked, ["node-1", "node-2", "node-1", "node-2"])
    }).pipe(onNode({ script: each({ "node-1": unreachable }), peers: ["node-1", "node-2"] })))

  it.effect("costs exactly peers × attempts dials when all fail", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      yield* Effect.forEach([1, 2, 3], () => TestClock.adjust("300 millis"))
      assert.strictEqual((yield* receipts)._tag, "Postponed")
      assert.strictEqual((yield* dialled).length, 3 * 3)
    }).pipe(onNode({ script: unreachable, peers: three })))

  it.effect("goes on to the next peer from every refusal there is", () => {
    const codes = ["auth", "backend", "raft", "invalid_path", "busy", "unknown"] as const
    const refusals: Record<string, Script> = {
      ...Object.fromEntries(codes.map((code): [string, Script] => [
        `node-${code}`,
        (peer, entry) => Effect.fail(new PeerRejected({ peer: peer.id, path: entry.path, code }))
      ])),
      "node-not_found": notHere,
      "node-manifest": (peer, entry) =>
        Effect.fail(new FileNotOnPeer({ peer: peer.id, path: entry.path, code: "manifest" }))
    }
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      const file = fileOf("db/a", 1, "node-auth")
      yield* (yield* Puller).enqueue(file)
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.isTrue(yield* here(file))
    }).pipe(onNode({ script: each(refusals), peers: [...Object.keys(refusals), "node-z"] }))
  })

  it.effect("dials neither of the others when it is stopped on the first of three peers", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        const receipts = yield* receiptsOf
        const file = fileOf("db/a")
        yield* (yield* Puller).enqueue(file)
        yield* (yield* Dials).next
        yield* (yield* Inventory).apply([{
          _tag: "Forget",
          path: file.entry.path,
          revision: fileOf("db/a", 2).revision,
          due: 0
        }])
        yield* (yield* Puller).withdraw(file.entry.path)
        assert.strictEqual((yield* receipts)._tag, "Withdrawn")
        yield* TestClock.adjust("10 minutes")
        assert.deepStrictEqual(yield* dialled, ["node-1"])
      }).pipe(onNode({ script: gate.script, peers: three }))
    }))
})

describe("bytes of several peers", () => {
  const size = 3 * MiB + 5

  it.effect("blame nobody when they are wrong together; then one peer alone is asked from 0, and shows who it is", () => {
    // The first sends wrong bytes and breaks; the second goes on rightly: nobody can tell whose bytes were wrong.
    const script = each({ "node-1": sends(wrong, 2 * MiB), "node-2": sends(right) })
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      const file = bigFile(size)
      yield* (yield* Puller).enqueue(file)
      assert.strictEqual((yield* passing(receipts))._tag, "Postponed")
      assert.strictEqual((yield* passing(receipts))._tag, "Pulled")
      assert.isTrue(yield* here(file))
      const { checksumMismatches, wrongBytes } = yield* (yield* Puller).stats
      assert.strictEqual(checksumMismatches, 2)
      assert.deepStrictEqual([...wrongBytes], [[NodeId.make("node-1"), 1]])
      assert.deepStrictEqual(
        yield* dialled,
        ["node-1", `node-2@${2 * MiB}`, "node-1", `node-1@${2 * MiB}`, "node-2"]
      )
    }).pipe(onNode({ script, peers: ["node-1", "node-2"] }))
  })

  it.effect("are not waited for in vain: a peer that only breaks gives way to the next, from 0", () => {
    const script = each({ "node-1": sends(wrong, 100), "node-2": sends(right) })
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      const file = bigFile(size)
      yield* (yield* Puller).enqueue(file)
      assert.strictEqual((yield* passing(receipts))._tag, "Pulled")
      assert.isTrue(yield* here(file))
      assert.deepStrictEqual(yield* dialled, ["node-1", "node-2@100", "node-1", "node-2"])
      assert.strictEqual((yield* (yield* Puller).stats).wrongBytes.size, 0)
    }).pipe(onNode({ script, peers: ["node-1", "node-2"] }))
  })

  const stageBefore = (file: Registered, write: (staged: Staged) => Effect.Effect<void, unknown>) =>
    Effect.scoped(Effect.gen(function*() {
      yield* write(yield* (yield* Backend).stage(file.entry.path, file.entry.sha256))
    }))

  it.effect("that an earlier process left are wrong: nobody is blamed, and the next attempt begins at 0", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      const file = bigFile(size)
      yield* stageBefore(file, (staged) => staged.write(wrong(2 * MiB)))
      yield* (yield* Puller).enqueue(file)
      assert.strictEqual((yield* passing(receipts))._tag, "Pulled")
      assert.deepStrictEqual(yield* dialled, [`node-1@${2 * MiB}`, "node-1"])
      const { checksumMismatches, wrongBytes } = yield* (yield* Puller).stats
      assert.deepStrictEqual([checksumMismatches, wrongBytes.size], [1, 0])
    }).pipe(onNode({ script: sends(right) })))

  it.effect("that an earlier process left whole are hashed: wrong ones are dropped and pulled in the same attempt", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      const file = bigFile(2 * MiB)
      yield* stageBefore(file, (staged) => staged.write(wrong(2 * MiB)))
      yield* (yield* Puller).enqueue(file)
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.deepStrictEqual(yield* dialled, ["node-1"])
      const { attempts, checksumMismatches } = yield* (yield* Puller).stats
      assert.deepStrictEqual([attempts, checksumMismatches], [1, 1])
    }).pipe(onNode({ script: sends(right) })))

  it.effect("that an earlier process left whole and right need no peer at all", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      const file = bigFile(2 * MiB)
      yield* stageBefore(file, (staged) => staged.write(right(2 * MiB)))
      yield* (yield* Puller).enqueue(file)
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.deepStrictEqual(yield* dialled, [])
    }).pipe(onNode({ peers: [] })))

  it.effect("that one peer sent over two connections are all its own, and it is blamed for them", () => {
    let connections = 0
    const script: Script = (peer, entry, offset, sink) =>
      sends(wrong, connections++ === 0 ? 2 * MiB : Infinity)(peer, entry, offset, sink)
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      const file = bigFile(size)
      yield* (yield* Puller).enqueue(file)
      assert.strictEqual((yield* passing(receipts))._tag, "Postponed")
      assert.deepStrictEqual(yield* dialled, ["node-1", `node-1@${2 * MiB}`])
      assert.strictEqual((yield* owedRow(file))?.answers[0]?.wrongTimes, 1)
    }).pipe(onNode({ script }))
  })

  it.effect("are kept when one peer refuses to go on from them and another does", () => {
    const script = each({
      "node-1": (peer, entry, offset, sink) =>
        offset > 0 ? unreachable(peer, entry, offset, sink) : notHere(peer, entry, offset, sink),
      "node-2": sends(right)
    })
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      const file = bigFile(size)
      yield* stageBefore(file, (staged) => staged.write(right(2 * MiB)))
      yield* (yield* Puller).enqueue(file)
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.deepStrictEqual(yield* dialled, [`node-1@${2 * MiB}`, `node-2@${2 * MiB}`])
    }).pipe(onNode({ script, peers: ["node-1", "node-2"] }))
  })
})

describe("a debt", () => {
  it.effect("that only a corrupt peer could pay costs one transfer a pause, and the pause doubles", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      const file = fileOf("db/a")
      yield* (yield* Puller).enqueue(file)
      const pauses: Array<number> = []
      for (let n = 1; n <= 5; n++) {
        while ((yield* dialled).length < n) yield* TestClock.adjust("1 second")
        yield* receipts
        const answer = (yield* owedRow(file))?.answers[0]
        assert.strictEqual(answer?.wrongTimes, n)
        pauses.push((answer?.notBefore ?? 0) - (answer?.at ?? 0))
      }
      assert.deepStrictEqual(pauses, [800, 1600, 3200, 6400, 12_800])
      const { attempts } = yield* (yield* Puller).stats
      assert.strictEqual(attempts, (yield* dialled).length)
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.none())
    }).pipe(onNode({ script: sends(wrong) })))

  it.effect("that rests for a day is still looked at every five minutes, without a dial", () => {
    const file = fileOf("db/a")
    return Effect.gen(function*() {
      const inventory = yield* Inventory
      const receipts = yield* receiptsOf
      const peer = NodeId.make("node-1")
      yield* inventory.apply([{ _tag: "Owe", file, reason: "", due: 0 }])
      yield* inventory.postpone(file, 0, "", [
        { peer, at: 0, kind: "WrongBytes", detail: "wrong", wrongTimes: 30, notBefore: 86_400_000 }
      ])
      yield* (yield* Puller).offer([{ file }])
      const receipt = yield* receipts
      assert.include(receipt._tag === "Postponed" ? receipt.reason : "", "node-1 (30 times)")
      assert.isAtMost(receipt._tag === "Postponed" ? receipt.due : Infinity, 300_000)
      assert.deepStrictEqual(yield* dialled, [])
      assert.strictEqual((yield* (yield* Puller).stats).attempts, 1)
    }).pipe(onNode({}))
  })

  it.effect("that the manifest describes wrongly blames nobody: no bytes have that sha256", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      const { entry, revision } = fileOf("db/a")
      yield* (yield* Puller).enqueue({ entry: { ...entry, size_bytes: 0 }, revision })
      const receipt = yield* receipts
      assert.include(receipt._tag === "Postponed" ? receipt.reason : "", "not that of a file of 0 bytes")
      assert.strictEqual((yield* (yield* Puller).stats).wrongBytes.size, 0)
    }).pipe(onNode({ maxAttempts: 1, script: () => Effect.void })))

  it.effect("that a client says to have paid and has not is the peer's fault, and not the manifest's", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      const receipt = yield* receipts
      assert.include(
        receipt._tag === "Postponed" ? receipt.reason : "",
        "node-1 closed after 0 of 4 bytes of db/a"
      )
    }).pipe(onNode({ maxAttempts: 1, script: () => Effect.void })))

  it.effect("that failed before lets those go first that did not", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        const inventory = yield* Inventory
        const puller = yield* Puller
        const receipts = yield* receiptsOf
        // One worker and one ahead of it are taken; what is due again waits behind.
        for (const name of ["a", "b"]) yield* puller.enqueue(fileOf(`db/${name}`))
        yield* (yield* Dials).next
        const poison = Array.from({ length: 4 }, (_, n) => fileOf(`poison/${n}`))
        yield* inventory.apply(poison.map((file) => ({ _tag: "Owe", file, reason: "", due: 0 })))
        yield* Effect.forEach(poison, (file) => inventory.postpone(file, 0, "", []))
        yield* TestClock.adjust("61 seconds")
        for (const name of ["c", "d"]) yield* puller.enqueue(fileOf(`db/${name}`))
        yield* gate.open
        for (let n = 0; n < 8; n++) yield* receipts
        const order = (yield* Dials).all.map(({ path }) => path)
        assert.isBelow(order.indexOf("db/d"), order.indexOf("poison/1"))
      }).pipe(onNode({ script: gate.script, workers: 1, queueSize: 8 }))
    }))

  it.effect("is taken up at once when its file was replaced while the old one was in flight", () => {
    let dials = 0
    return Effect.gen(function*() {
      const gate = yield* makeGate
      const script: Script = (peer, entry, offset, sink) =>
        dials++ === 0 ? gate.script(peer, entry, offset, sink) : honest(peer, entry, offset, sink)
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const inventory = yield* Inventory
        const receipts = yield* receiptsOf
        const old = fileOf("db/a", 1)
        yield* puller.enqueue({ entry: { ...old.entry, sha256: fileOf("other").entry.sha256 }, revision: old.revision })
        yield* (yield* Dials).next
        const renewed = fileOf("db/a", 3)
        yield* inventory.apply([{ _tag: "Owe", file: renewed, reason: "", due: 0 }])
        yield* puller.offer([{ file: renewed }])
        yield* puller.withdraw(renewed.entry.path)
        assert.strictEqual((yield* receipts)._tag, "Withdrawn")
        const second = yield* receipts
        assert.deepStrictEqual([second._tag, Number(second.file.revision)], ["Pulled", 3])
      }).pipe(onNode({ script }))
    })
  })
})

describe("a peer that appears", () => {
  it.effect("is asked soon for what an earlier process had postponed", () => {
    const file = fileOf("db/a")
    const before = Effect.gen(function*() {
      const inventory = yield* Inventory
      yield* inventory.apply([{ _tag: "Owe", file, reason: "", due: 0 }])
      yield* inventory.postpone(file, 300_000, "nobody had it", [])
    })
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      assert.strictEqual((yield* passing(receipts))._tag, "Pulled")
      assert.isBelow(yield* Clock.currentTimeMillis, 3000)
    }).pipe(onNode({ before }))
  })

  const member = (name: string): Member => ({
    ...peer(name),
    address: Option.some(peer(name).address),
    role: "reader",
    alive: true,
    version: "",
    watermark: Option.none(),
    draining: false
  })

  it.effect("is asked soon for what was in flight when it came, and had failed often before", () => {
    const file = fileOf("db/a")
    const before = Effect.gen(function*() {
      const inventory = yield* Inventory
      yield* inventory.apply([{ _tag: "Owe", file, reason: "", due: 0 }])
      for (let n = 0; n < 20; n++) yield* inventory.postpone(file, 0, "nobody had it", [])
    })
    return Effect.gen(function*() {
      const views = yield* Queue.unbounded<ReadonlyArray<Member>>()
      let members = [member("node-1")]
      const membership = Layer.mock(Membership)({
        self: { id: self, role: "reader" },
        members: Effect.sync(() => members),
        changes: Stream.fromQueue(views),
        trouble: Effect.succeedNone
      })
      const gate = yield* makeGate
      const script = each({
        "node-1": (peer, entry, offset, sink) =>
          Effect.andThen(gate.script(peer, entry, 0, { write: () => Effect.void }), notHere(peer, entry, offset, sink))
      })
      yield* Effect.gen(function*() {
        const receipts = yield* receiptsOf
        yield* (yield* Dials).next
        members = [member("node-1"), member("node-2")]
        yield* Queue.offer(views, members)
        yield* Effect.yieldNow
        yield* TestClock.adjust("1 second")
        yield* gate.open
        assert.strictEqual((yield* receipts)._tag, "Postponed")
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual((yield* receipts)._tag, "Pulled")
      }).pipe(onNode({ script, membership, before, maxAttempts: 1 }))
    })
  })
})
