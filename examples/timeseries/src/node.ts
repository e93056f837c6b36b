/** One node of the cluster, as a process: `node src/node.ts`, set up by the environment. */
import { NodeHttpServer, NodeRuntime, NodeServices } from "@effect/platform-node"
import { Config, Effect, Layer, Option, Schema } from "effect"
import { FileEntry, Replication, ReplicationConfig, View } from "effect-file-replication"
import { HttpRouter, HttpServer } from "effect/http"
import { createServer } from "node:http"
import { join } from "node:path"
import * as Ingest from "./Ingest.ts"
import * as routes from "./routes.ts"
import * as SameRack from "./sameRack.ts"

const settings = Config.all({
  /** `rack.name`. */
  id: Config.schema(FileEntry.NodeId, "NODE_ID"),
  role: Config.schema(Schema.Literals(["writer", "reader"]), "NODE_ROLE"),
  /** Holds the node's files. */
  folder: Config.String("NODE_FOLDER"),
  /** The manifest's SQLite file, the same for all nodes of this machine. */
  manifest: Config.String("MANIFEST"),
  secret: Config.Redacted("SECRET"),
  port: Config.Int("PORT").pipe(Config.withDefault(0)),
  flushPoints: Config.Int("FLUSH_POINTS").pipe(Config.withDefault(100_000)),
  flushMillis: Config.Int("FLUSH_MILLIS").pipe(Config.withDefault(10_000))
})

const main = Layer.unwrap(Effect.gen(function*() {
  const { flushMillis, flushPoints, folder, id, manifest, port, role, secret } = yield* settings
  const folders = { data: join(folder, "data"), work: join(folder, "work") }

  const replication = View.layer.pipe(
    Layer.provideMerge(Replication.layerActive),
    Layer.provideMerge(Replication.layerPorts({ peerResolver: SameRack.layer })),
    Layer.provide(ReplicationConfig.layer({
      nodeId: Option.some(id),
      role,
      localPath: folders.data,
      statePath: Option.some(join(folder, "state")),
      manifestPath: Option.some(manifest),
      coordinatorAddr: "127.0.0.1:0",
      queryGateOnCatchup: true,
      // What was written just now may be on its way; a query that must see it says so by its min_revision.
      readyMaxLagMillis: 10_000,
      sharedSecret: secret
    }))
  )

  const api = role === "writer"
    ? routes.writer(folders).pipe(
      Layer.provide(Ingest.layer({ folder: folders.work, flushPoints, flushMillis, maxPoints: 10 * flushPoints }))
    )
    : routes.reader(folders)

  const announce = Layer.effectDiscard(
    Effect.flatMap(
      HttpServer.HttpServer,
      ({ address }) =>
        Effect.sync(() => process.stdout.write(`${JSON.stringify({ url: HttpServer.formatAddress(address) })}\n`))
    )
  )

  return announce.pipe(
    Layer.provide(HttpRouter.serve(api, { disableLogger: true, disableListenLog: true })),
    Layer.provide(NodeHttpServer.layer(() => createServer(), { host: "127.0.0.1", port })),
    Layer.provide(replication),
    Layer.provide(NodeServices.layer)
  )
}))

NodeRuntime.runMain(Layer.launch(main))
