/** One node of the cluster, as a process: `node src/node.ts`, set up by the environment. */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Effect, Layer, Schema } from "effect"
import { FileEntry } from "effect-file-replication"
import { HttpServer } from "effect/http"
import * as App from "./app.ts"

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
  flushBytes: Config.Int("FLUSH_BYTES").pipe(Config.withDefault(16 * 1024 * 1024)),
  flushMillis: Config.Int("FLUSH_MILLIS").pipe(Config.withDefault(10_000))
})

const announce = Layer.effectDiscard(
  Effect.flatMap(
    HttpServer.HttpServer,
    ({ address }) =>
      Effect.sync(() => process.stdout.write(`${JSON.stringify({ url: HttpServer.formatAddress(address) })}\n`))
  )
)

NodeRuntime.runMain(Layer.launch(announce.pipe(Layer.provide(Layer.unwrap(Effect.map(settings, App.layer))))))
