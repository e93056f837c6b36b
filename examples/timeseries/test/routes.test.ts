/** What the API says on a node that does not hold everything yet. */
import { NodeHttpServer, NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Option, Stream } from "effect"
import { Readiness, View } from "effect-file-replication"
import { Cluster } from "effect-file-replication/testing"
import { HttpRouter, HttpServer } from "effect/http"
import { createServer } from "node:http"
import { post } from "../src/demo/nodes.ts"
import * as routes from "../src/routes.ts"

describe("a reader", () => {
  it.live("answers no query before it is ready, and says when to ask again", () =>
    Effect.gen(function*() {
      const cluster = yield* Cluster.make(["reader"])
      yield* cluster.manifest.setUnavailable(Option.some("it is down"))
      const node = yield* Layer.build(View.layer.pipe(Layer.provideMerge(cluster.layerTest("reader"))))
      const server = yield* Layer.build(
        HttpRouter.serve(routes.reader({ data: "", work: "" }), { disableLogger: true, disableListenLog: true }).pipe(
          Layer.provideMerge(NodeHttpServer.layer(() => createServer(), { host: "127.0.0.1", port: 0 })),
          Layer.provide(NodeServices.layer)
        )
      ).pipe(Effect.provide(node))
      const url = HttpServer.formatAddress(Context.get(server, HttpServer.HttpServer).address)
      const body = JSON.stringify({ db: "db", sql: "SELECT 1" })
      const ask = Effect.promise(() => fetch(`${url}/query`, { method: "POST", body }))
      const refused = yield* ask
      assert.strictEqual(refused.status, 503)
      assert.match(refused.headers.get("retry-after") ?? "", /^[1-9]\d*$/)
      assert.include(yield* Effect.promise(() => refused.text()), "this node is not ready")

      yield* cluster.manifest.setUnavailable(Option.none())
      yield* Context.get(node, Readiness.Readiness).changes.pipe(
        Stream.takeUntil(({ ready }) => ready),
        Stream.runDrain
      )
      yield* Context.get(node, View.View).changes.pipe(Stream.takeUntil(Option.isSome), Stream.runDrain)
      assert.strictEqual((yield* Effect.promise(() => post(`${url}/query`, body))).status, 200)
    }).pipe(Effect.scoped), 60_000)
})
