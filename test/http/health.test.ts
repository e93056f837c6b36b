import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Stream } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { HttpApi, HttpApiBuilder } from "effect/http-api"
import { NodeGroup } from "../../src/http/Api.ts"
import { nodeHandlers } from "../../src/http/handlers/node.ts"
import * as MembershipStatic from "../../src/membership/MembershipStatic.ts"
import { NodeId } from "../../src/ports/FileEntry.ts"
import { InventoryError } from "../../src/ports/Inventory.ts"
import { Readiness } from "../../src/replication/Readiness.ts"

const error = new InventoryError({ operation: "progress", detail: "the disk is gone" })

const broken = Layer.succeed(Readiness, {
  status: Effect.fail(error),
  ready: Effect.fail(error),
  changes: Stream.fail(error),
  await: () => Effect.fail(error),
  gate: Effect.void
})

const routes = HttpApiBuilder.layer(HttpApi.make("file-replication").add(NodeGroup)).pipe(Layer.provide(nodeHandlers))

const ask = (path: string) =>
  Effect.acquireUseRelease(
    Effect.sync(() =>
      HttpRouter.toWebHandler(routes.pipe(
        Layer.provide(broken),
        Layer.provide(MembershipStatic.layer({ self: { id: NodeId.make("node"), role: "reader" }, peers: [] })),
        Layer.provide(HttpServer.layerServices)
      ))
    ),
    ({ handler }) => Effect.promise(() => handler(new Request(`http://localhost${path}`))),
    ({ dispose }) => Effect.promise(dispose)
  )

describe("a node whose inventory can't be read", () => {
  it.live("is not ready, says why and when to come back", () =>
    Effect.gen(function*() {
      const response = yield* ask("/ready")
      assert.strictEqual(response.status, 503)
      assert.strictEqual(response.headers.get("retry-after"), "5")
      const body: unknown = yield* Effect.promise(() => response.json())
      assert.deepStrictEqual(body, { ready: false, reason: error.message })
    }))

  it.live("serves all the same", () =>
    Effect.gen(function*() {
      const response = yield* ask("/health")
      assert.strictEqual(response.status, 200)
    }))
})
