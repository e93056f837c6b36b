import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Option } from "effect"
import { Puller } from "../../src/replication/Puller.ts"
import { Dials, fileOf, makeGate, onNode, receiptsOf } from "./node.ts"
import { bundling, ends, files, owing, resumed, right } from "./together.ts"

const asked = Option.some("node-1 is asked for it now")

describe("who is asked for a file", () => {
  it.effect("is told as long as it is asked for alone", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const receipts = yield* receiptsOf
        const file = fileOf("db/a")
        yield* puller.enqueue(file)
        yield* (yield* Dials).next
        assert.deepStrictEqual(yield* puller.waitsFor(file.entry.path), asked)
        yield* gate.open
        yield* receipts
        assert.deepStrictEqual(yield* puller.waitsFor(file.entry.path), Option.none())
      }).pipe(onNode({ script: gate.script }))
    }))

  it.effect("is told while it is asked for together with others", () =>
    Effect.gen(function*() {
      const began = yield* Deferred.make<void>()
      const go = yield* Deferred.make<void>()
      const { way } = bundling((peer, entries) =>
        Effect.andThen(Deferred.succeed(began, undefined), Effect.andThen(Deferred.await(go), right(peer, entries)))
      )
      const some = files(2)
      yield* Effect.gen(function*() {
        const { waitsFor } = yield* Puller
        const receipts = yield* resumed
        yield* Deferred.await(began)
        assert.deepStrictEqual(yield* Effect.forEach(some, ({ entry }) => waitsFor(entry.path)), [asked, asked])
        yield* Deferred.succeed(go, undefined)
        yield* ends(receipts, some.length)
      }).pipe(onNode(owing(some, { together: way })))
    }))
})
