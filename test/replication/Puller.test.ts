import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Layer, Option } from "effect"
import { TestClock } from "effect/testing"
import { Backend, BackendError } from "../../src/ports/Backend.ts"
import { BadOffset, ChecksumMismatch, FileNotOnPeer, PeerRejected, ShortBody } from "../../src/ports/FetchClient.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Puller } from "../../src/replication/Puller.ts"
import { entryOf } from "../support/entries.ts"
import { bytesOf, dialled, Dials, fileOf, hold, honest, makeGate, nodeLayer, onNode } from "./node.ts"
import { receiptsOf, type Script, textUnder, unreachable } from "./node.ts"

const owedRow = (path: string) =>
  Effect.gen(function*() {
    const row = yield* (yield* Inventory).why(fileOf(path).entry.path)
    return Option.isSome(row) && row.value._tag === "Owed" ? row.value : undefined
  })

describe("Puller.enqueue", () => {
  it.effect("answers Enqueued, and the file arrives verified and visible", () =>
    Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      assert.strictEqual(yield* puller.enqueue(fileOf("db/a")), "Enqueued")
      const receipt = yield* receipts
      assert.strictEqual(receipt._tag, "Pulled")
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("db/a"))
      const verified = yield* (yield* Inventory).verified(fileOf("db/a").entry.path)
      assert.isTrue(Option.isSome(verified))
      const { attempts, bytes, enqueued, pulled } = yield* puller.stats
      assert.deepStrictEqual({ attempts, bytes, enqueued, pulled }, { attempts: 1, bytes: 4, enqueued: 1, pulled: 1 })
    }).pipe(onNode({})))

  it.effect("answers SkippedSelf for a file of this node that is verified here", () =>
    Effect.gen(function*() {
      const puller = yield* Puller
      const ours = fileOf("db/a", 1, "self")
      yield* hold(ours)
      assert.strictEqual(yield* puller.enqueue(ours), "SkippedSelf")
      assert.strictEqual((yield* puller.stats).skippedSelf, 1)
    }).pipe(onNode({})))

  it.effect("answers SkippedLocal for another node's file that is verified here", () =>
    Effect.gen(function*() {
      const puller = yield* Puller
      yield* hold(fileOf("db/a"))
      assert.strictEqual(yield* puller.enqueue(fileOf("db/a")), "SkippedLocal")
      assert.strictEqual((yield* puller.stats).skippedLocal, 1)
    }).pipe(onNode({})))

  it.effect("pulls a file of this node that it no longer has", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      assert.strictEqual(yield* (yield* Puller).enqueue(fileOf("db/a", 1, "self")), "Enqueued")
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.deepStrictEqual(yield* dialled, ["node-1"])
    }).pipe(onNode({})))

  it.effect("answers SkippedDuplicate while the path is queued or in flight, and not afterwards", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const receipts = yield* receiptsOf
        assert.strictEqual(yield* puller.enqueue(fileOf("db/a")), "Enqueued")
        yield* (yield* Dials).next
        assert.strictEqual(yield* puller.enqueue(fileOf("db/a")), "SkippedDuplicate")
        yield* gate.open
        yield* receipts
        assert.strictEqual(yield* puller.enqueue(fileOf("db/a")), "SkippedLocal")
        assert.strictEqual((yield* puller.stats).skippedDuplicate, 1)
      }).pipe(onNode({ script: gate.script }))
    }))

  it.effect("answers Dropped when the queue is full, and the file still arrives", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const receipts = yield* receiptsOf
        const answers: Array<string> = []
        for (const name of ["a", "b", "c", "d", "e"]) {
          answers.push(yield* puller.enqueue(fileOf(`db/${name}`)))
          if (name === "a") yield* (yield* Dials).next
        }
        assert.include(answers, "Dropped")
        assert.isAbove((yield* puller.stats).dropped, 0)
        assert.strictEqual((yield* (yield* Inventory).progress).owed.files, 5)
        yield* gate.open
        for (let n = 0; n < 5; n++) assert.strictEqual((yield* receipts)._tag, "Pulled")
        assert.strictEqual((yield* (yield* Inventory).progress).owed.files, 0)
      }).pipe(onNode({ script: gate.script, workers: 1, queueSize: 2 }))
    }))
})

describe("Puller", () => {
  it.effect("counts what is verified already when a worker takes it up, and dials nobody for it", () =>
    Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      yield* hold(fileOf("db/a"))
      yield* puller.offer([{ file: fileOf("db/a") }])
      assert.strictEqual((yield* receipts)._tag, "Skipped")
      assert.strictEqual((yield* puller.stats).skippedLocal, 1)
      assert.deepStrictEqual(yield* dialled, [])
    }).pipe(onNode({})))

  it.effect("adopts a file that already lies under its name, without a fetch", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const receipts = yield* receiptsOf
      const file = fileOf("db/a")
      yield* Effect.scoped(Effect.gen(function*() {
        const staged = yield* backend.stage(file.entry.path, file.entry.sha256)
        yield* staged.write(bytesOf(file.entry))
        yield* staged.commit(file.entry.sha256)
      }))
      yield* (yield* Puller).enqueue(file)
      assert.strictEqual((yield* receipts)._tag, "Skipped")
      assert.deepStrictEqual(yield* dialled, [])
      assert.isTrue(Option.isSome(yield* (yield* Inventory).verified(file.entry.path)))
    }).pipe(onNode({})))

  it.effect("sets a file of other bytes aside and pulls the right ones", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const receipts = yield* receiptsOf
      const file = fileOf("db/a")
      const other = fileOf("other")
      yield* Effect.scoped(Effect.gen(function*() {
        const staged = yield* backend.stage(file.entry.path, other.entry.sha256)
        yield* staged.write(bytesOf(other.entry))
        yield* staged.commit(other.entry.sha256)
      }))
      yield* (yield* Puller).enqueue(file)
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("db/a"))
    }).pipe(onNode({})))

  it.effect("asks the origin first, then the others, within one attempt", () => {
    const script: Script = (peer, entry, offset, sink) =>
      peer.id === "node-3"
        ? honest(peer, entry, offset, sink)
        : Effect.fail(new FileNotOnPeer({ peer: peer.id, path: entry.path, code: "not_found" }))
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a", 1, "node-2"))
      const receipt = yield* receipts
      assert.strictEqual(receipt._tag, "Pulled")
      const asked = yield* dialled
      assert.strictEqual(asked[0], "node-2")
      assert.strictEqual(asked.at(-1), "node-3")
      assert.strictEqual((yield* (yield* Puller).stats).attempts, 1)
    }).pipe(onNode({ script, peers: ["node-1", "node-2", "node-3"] }))
  })

  it.effect("tries again after a failed attempt, with peers looked up afresh, and succeeds", () => {
    let refusals = 1
    const script: Script = (peer, entry, offset, sink) =>
      refusals-- > 0 ? unreachable(peer, entry, offset, sink) : honest(peer, entry, offset, sink)
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      yield* (yield* Dials).next
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      const { attempts, failed } = yield* (yield* Puller).stats
      assert.deepStrictEqual({ attempts, failed }, { attempts: 2, failed: 0 })
    }).pipe(onNode({ script }))
  })

  it.effect("records a give-up after the last attempt as owed, with every peer's answer and the next time", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      const waiting = yield* Effect.forkChild(receipts)
      for (let n = 0; n < 3; n++) {
        yield* (yield* Dials).next
        yield* (yield* Dials).next
        // The longest that the jitter makes of 100 and 200 ms; the next round is due later than that.
        if (n < 2) yield* TestClock.adjust(n === 0 ? "120 millis" : "240 millis")
      }
      const receipt = yield* Fiber.join(waiting)
      assert.strictEqual(receipt._tag, "Postponed")
      const owed = yield* owedRow("db/a")
      const now = yield* Clock.currentTimeMillis
      assert.strictEqual(owed?.rounds, 1)
      assert.isAbove(owed?.due ?? 0, now)
      assert.include(owed?.reason ?? "", "refused")
      assert.deepStrictEqual(owed?.answers.map(({ peer }) => peer).sort(), ["node-1", "node-2"])
      const { attempts, failed } = yield* (yield* Puller).stats
      assert.deepStrictEqual({ attempts, failed }, { attempts: 3, failed: 1 })
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.none())
    }).pipe(onNode({ script: unreachable, peers: ["node-1", "node-2"] })))

  it.effect("tries what it gave up again when its time has come", () => {
    let refusals = 1
    const script: Script = (peer, entry, offset, sink) =>
      refusals-- > 0 ? unreachable(peer, entry, offset, sink) : honest(peer, entry, offset, sink)
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      assert.strictEqual((yield* receipts)._tag, "Postponed")
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual((yield* receipts)._tag, "Pulled")
    }).pipe(onNode({ script, maxAttempts: 1 }))
  })

  it.effect("says that no peer is known, and counts it, when there is nobody to ask", () =>
    Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      const receipt = yield* receipts
      assert.strictEqual(receipt._tag, "Postponed")
      assert.include(receipt._tag === "Postponed" ? receipt.reason : "", "no peer is known")
      assert.strictEqual((yield* (yield* Puller).stats).peerLookupFailures, 1)
    }).pipe(onNode({ peers: [], maxAttempts: 1 })))

  it.effect("says that every peer rejects it when every one does", () => {
    const script: Script = (peer, entry) =>
      Effect.fail(new PeerRejected({ peer: peer.id, path: entry.path, code: "auth" }))
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      const receipt = yield* receipts
      assert.include(receipt._tag === "Postponed" ? receipt.reason : "", "check the shared secret")
    }).pipe(onNode({ script, maxAttempts: 1, peers: ["node-1", "node-2"] }))
  })

  it.effect("ends the attempt at a digest mismatch in the answer, without asking the next peer", () => {
    const script: Script = (peer, entry) =>
      Effect.fail(new ChecksumMismatch({ peer: peer.id, path: entry.path, detail: "another sha256" }))
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      assert.strictEqual((yield* receipts)._tag, "Postponed")
      assert.deepStrictEqual(yield* dialled, ["node-1"])
      assert.strictEqual((yield* (yield* Puller).stats).checksumMismatches, 1)
    }).pipe(onNode({ script, maxAttempts: 1, peers: ["node-1", "node-2"] }))
  })

  it.effect("shows nothing of a body with wrong bytes, and asks the other peer at the next attempt", () => {
    const script: Script = (peer, entry, offset, sink) =>
      peer.id === "node-1" ? sink.write(new Uint8Array(entry.size_bytes)) : honest(peer, entry, offset, sink)
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/a"))
      yield* (yield* Dials).next
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.none())
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.deepStrictEqual(yield* dialled, ["node-1", "node-2"])
      assert.strictEqual((yield* (yield* Puller).stats).checksumMismatches, 1)
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("db/a"))
    }).pipe(onNode({ script, peers: ["node-1", "node-2"] }))
  })

  it.effect("goes on at another peer where a broken body ended", () => {
    const script: Script = (peer, entry, offset, sink) =>
      peer.id === "node-1"
        ? sink.write(bytesOf(entry).subarray(offset, 3)).pipe(
          Effect.andThen(
            Effect.fail(new ShortBody({ peer: peer.id, path: entry.path, expected: entry.size_bytes, received: 3 }))
          )
        )
        : honest(peer, entry, offset, sink)
    return Effect.gen(function*() {
      const receipts = yield* receiptsOf
      yield* (yield* Puller).enqueue(fileOf("db/abc"))
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.deepStrictEqual(yield* dialled, ["node-1", "node-2@3"])
      assert.strictEqual((yield* (yield* Puller).stats).bytes, 6)
    }).pipe(onNode({ script, peers: ["node-1", "node-2"] }))
  })

  it.effect("begins again from 0 when every peer refuses to go on from where it is", () => {
    const kept = 256 * 1024
    const bytes = new Uint8Array(kept + 5).fill(7)
    const file = { ...fileOf("db/big"), entry: entryOf("db/big", Buffer.from(bytes).toString()) }
    const script: Script = (peer, entry, offset, sink) =>
      offset > 0
        ? Effect.fail(new BadOffset({ peer: peer.id, path: entry.path, offset }))
        : sink.write(bytes)
    return Effect.gen(function*() {
      const backend = yield* Backend
      const receipts = yield* receiptsOf
      yield* Effect.scoped(Effect.gen(function*() {
        const staged = yield* backend.stage(file.entry.path, file.entry.sha256)
        yield* staged.write(bytes.subarray(0, kept))
      }))
      yield* (yield* Puller).enqueue(file)
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.deepStrictEqual(yield* dialled, [`node-1@${kept}`, `node-2@${kept}`, "node-1"])
      assert.strictEqual((yield* (yield* Puller).stats).badOffsets, 2)
      assert.strictEqual(Option.getOrThrow(yield* textUnder("db/big")).length, bytes.length)
    }).pipe(onNode({ script, peers: ["node-1", "node-2"] }))
  })

  it.effect("blames the disk and nobody else when it refuses", () => {
    const refusing = Layer.effect(
      Backend,
      Effect.map(Backend, (backend) =>
        Backend.of({
          ...backend,
          stage: (path) =>
            Effect.fail(new BackendError({ operation: "stage", path, reason: "Io", detail: "the disk is gone" }))
        }))
    )
    return Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      yield* puller.enqueue(fileOf("db/a"))
      const receipt = yield* receipts
      assert.include(receipt._tag === "Postponed" ? receipt.reason : "", "the disk is gone")
      assert.deepStrictEqual(yield* dialled, [])
    }).pipe(Effect.provide(nodeLayer({ maxAttempts: 1, backend: refusing })))
  })
})
