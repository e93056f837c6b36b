import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Option, Scope, Stream } from "effect"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { Readiness } from "../../src/replication/Readiness.ts"
import { Registrar } from "../../src/replication/Registrar.ts"
import * as View from "../../src/replication/View.ts"
import { Cluster } from "../../src/testing/index.ts"
import { textUnder } from "../replication/node.ts"

const text = (value: string) => new TextEncoder().encode(value)

describe("a cluster in memory", () => {
  it.live("replicates what one node publishes to the others, and to one that comes later", () =>
    Effect.gen(function*() {
      const cluster = yield* Cluster.make(["writer", "reader-1", "reader-2"])
      const writer = yield* Layer.build(cluster.layerTest("writer"))
      const reader = yield* Layer.build(cluster.layerTest("reader-1"))
      const registrar = Context.get(writer, Registrar)
      yield* registrar.publish({ path: "db/a" }, text("a"))
      yield* registrar.replace([{ path: "db/b", bytes: text("b") }], [{ path: "db/a", reason: "merged" }])
      const head = yield* Context.get(writer, Manifest).head
      yield* Context.get(reader, Readiness).await(head)
      assert.deepStrictEqual(yield* Effect.provide(textUnder("db/b"), reader), Option.some("b"))
      const late = yield* Layer.build(cluster.layerTest("reader-2"))
      yield* Context.get(late, Readiness).await(head)
      yield* Context.get(late, Readiness).gate
      assert.isTrue(Option.isSome(yield* Context.get(late, Inventory).verified(FilePath.make("db/b"))))
    }))

  it.live("owes what only a node had that is gone", () =>
    Effect.gen(function*() {
      const cluster = yield* Cluster.make(["writer", "reader"])
      const scope = yield* Scope.make()
      const writer = yield* Layer.buildWithScope(cluster.layerTest("writer"), scope)
      yield* Context.get(writer, Registrar).publish({ path: "db/a" }, text("a"))
      yield* Scope.close(scope, Exit.void)
      const reader = yield* Layer.build(cluster.layerTest("reader"))
      const inventory = Context.get(reader, Inventory)
      yield* inventory.changes.pipe(Stream.takeUntil(({ owed }) => owed.files === 1), Stream.runDrain)
      assert.strictEqual((yield* Effect.flip(Context.get(reader, Readiness).gate))._tag, "NotReady")
    }))

  it.live("says which names are no ids, and which ids are none of its nodes", () =>
    Effect.gen(function*() {
      const wrong = yield* Effect.flip(Cluster.make(["writer", "bad id!"]))
      assert.include(wrong.message, "1: Expected 1 to 128 of A-Z a-z 0-9 . _ -")
      const { layerTest } = yield* Cluster.make(["writer", "reader"])
      for (const name of ["bad id!", "another"]) {
        const unknown = yield* Effect.flip(Layer.build(layerTest(name)))
        assert.include(unknown.message, `"${name}" is none of the nodes of this cluster: writer, reader`)
      }
    }))

  it.live("has a node for a test that needs only one, and a view over it", () =>
    Effect.gen(function*() {
      const { entry } = yield* (yield* Registrar).publish({ path: "db/a" }, text("a"))
      const view = yield* View.View
      yield* view.await(yield* (yield* Manifest).head)
      const { files } = yield* view.open(() => true)
      assert.deepStrictEqual(files.map((file) => file.entry), [entry])
    }).pipe(Effect.provide(Layer.provideMerge(View.layer, Cluster.layerMemory))))
})
