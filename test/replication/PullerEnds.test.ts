/** How pulls end: by themselves, by a deletion, and with the node. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Layer, Option, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Puller } from "../../src/replication/Puller.ts"
import { dialled, Dials, fileOf, honest, makeGate, nodeLayer, onNode, receiptsOf, type Script } from "./node.ts"
import { textUnder, unreachable } from "./node.ts"

describe("Puller", () => {
  it.effect("gives a path's place back on success, failure and defect alike", () => {
    const outcomes = ["defect", "failure", "success"]
    const script: Script = (peer, entry, offset, sink) => {
      const outcome = outcomes.shift()
      if (outcome === "defect") return Effect.die("a defect of the client")
      return outcome === "failure" ? unreachable(peer, entry, offset, sink) : honest(peer, entry, offset, sink)
    }
    return Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      yield* puller.enqueue(fileOf("db/a"))
      for (const expected of ["Postponed", "Postponed", "Pulled"]) {
        assert.strictEqual((yield* receipts)._tag, expected)
        yield* TestClock.adjust("5 minutes")
      }
      const { inFlight, queueDepth } = yield* puller.stats
      assert.deepStrictEqual({ inFlight, queueDepth }, { inFlight: 0, queueDepth: 0 })
    }).pipe(onNode({ script, maxAttempts: 1 }))
  })

  it.effect("stops a pull whose path is deleted, and shows nothing of it", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const receipts = yield* receiptsOf
        const file = fileOf("db/a")
        yield* puller.enqueue(file)
        yield* (yield* Dials).next
        yield* (yield* Inventory).apply([{
          _tag: "Forget",
          path: file.entry.path,
          revision: fileOf("db/a", 2).revision,
          due: 0
        }])
        yield* puller.withdraw(file.entry.path)
        assert.strictEqual(yield* gate.interrupted, "db/a")
        assert.strictEqual((yield* receipts)._tag, "Withdrawn")
        assert.strictEqual((yield* puller.stats).failed, 0)
      }).pipe(onNode({ script: gate.script }))
    }))

  it.effect("does not show a file that was deleted while its last bytes arrived", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const receipts = yield* receiptsOf
        const file = fileOf("db/a")
        yield* puller.enqueue(file)
        yield* (yield* Dials).next
        yield* (yield* Inventory).apply([{
          _tag: "Forget",
          path: file.entry.path,
          revision: fileOf("db/a", 2).revision,
          due: 0
        }])
        yield* gate.open
        assert.strictEqual((yield* receipts)._tag, "Withdrawn")
        assert.deepStrictEqual(yield* textUnder("db/a"), Option.none())
      }).pipe(onNode({ script: gate.script }))
    }))

  it.effect("dials nobody after shutdown has interrupted a pull, counts no failure and keeps the debt", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(
        nodeLayer({ script: gate.script, peers: ["node-1", "node-2", "node-3"], workers: 1 }),
        scope
      )
      const run = <A, E>(effect: Effect.Effect<A, E, Puller | Dials | Inventory>) => Effect.provide(effect, context)
      yield* run(Effect.gen(function*() {
        const puller = yield* Puller
        yield* puller.enqueue(fileOf("db/a"))
        yield* (yield* Dials).next
        yield* puller.enqueue(fileOf("db/b"))
      }))
      yield* Scope.close(scope, Exit.void)
      yield* gate.open
      yield* TestClock.adjust("10 minutes")
      yield* run(Effect.gen(function*() {
        assert.deepStrictEqual(yield* dialled, ["node-1"])
        assert.strictEqual((yield* (yield* Puller).stats).failed, 0)
        assert.strictEqual((yield* (yield* Inventory).progress).owed.files, 2)
      }))
    }))

  it.effect("interrupts all pulls in flight in parallel", () =>
    Effect.gen(function*() {
      const slow: Script = () => Effect.never.pipe(Effect.onInterrupt(() => Effect.sleep("1 second")))
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(nodeLayer({ script: slow, workers: 8, queueSize: 8 }), scope)
      yield* Effect.gen(function*() {
        for (let n = 0; n < 8; n++) {
          yield* (yield* Puller).enqueue(fileOf(`db/${n}`))
          yield* (yield* Dials).next
        }
      }).pipe(Effect.provide(context))
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust(Duration.millis(1000))
      // Eight seconds if they were interrupted one after another.
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(closing)))
    }))

  it.effect("keeps its number of workers busy and no more", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const receipts = yield* receiptsOf
        for (let n = 0; n < 6; n++) yield* puller.enqueue(fileOf(`db/${n}`))
        yield* (yield* Dials).next
        yield* (yield* Dials).next
        assert.strictEqual((yield* puller.stats).inFlight, 2)
        assert.strictEqual((yield* Dials).all.length, 2)
        yield* gate.open
        for (let n = 0; n < 6; n++) yield* receipts
        assert.strictEqual((yield* puller.stats).pulled, 6)
      }).pipe(onNode({ script: gate.script, workers: 2, queueSize: 8 }))
    }))
})
