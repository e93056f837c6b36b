/** The application: a node of the library, what it takes in, and its HTTP API. */
import { NodeHttpServer, NodeServices } from "@effect/platform-node"
import { Layer, Option, type Redacted } from "effect"
import { type FileEntry, Replication, ReplicationConfig, View } from "effect-file-replication"
import { HttpRouter } from "effect/http"
import { createServer } from "node:http"
import { join } from "node:path"
import * as Ingest from "./Ingest.ts"
import * as routes from "./routes.ts"
import * as SameRack from "./sameRack.ts"

export interface AppOptions {
  /** `rack.name`. */
  readonly id: FileEntry.NodeId
  readonly role: "writer" | "reader"
  /** Holds the node's files. */
  readonly folder: string
  /** The manifest's SQLite file. */
  readonly manifest: string
  readonly secret: Redacted.Redacted
  /** Of the API; 0: one that is free. */
  readonly port: number
  readonly flushPoints: number
  readonly flushBytes: number
  readonly flushMillis: number
  readonly queries?: routes.QueryOptions
}

/** Serves as long as it lives; gives the server. */
export const layer = (options: AppOptions) => {
  const { flushBytes, flushMillis, flushPoints, folder, id, manifest, port, role, secret } = options
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

  const ingest = Ingest.layer({
    folder: folders.work,
    flushPoints,
    flushBytes,
    flushMillis,
    maxPoints: 4 * flushPoints,
    maxBytes: 4 * flushBytes
  })
  const api = role === "writer"
    ? routes.writer(folders, options.queries).pipe(Layer.provide(ingest))
    : routes.reader(folders, options.queries)

  return HttpRouter.serve(api, { disableLogger: true, disableListenLog: true }).pipe(
    Layer.provideMerge(NodeHttpServer.layer(() => createServer(), { host: "127.0.0.1", port })),
    Layer.provide(replication),
    Layer.provide(NodeServices.layer)
  )
}
