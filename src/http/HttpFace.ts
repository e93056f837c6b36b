/** Everything that a node serves over HTTP. Built on top of the whole graph, and so closed first. */
import { Context, Effect, Layer } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import type { Membership } from "../ports/Membership.ts"
import type { Monitoring } from "../replication/Monitoring.ts"
import type { Readiness } from "../replication/Readiness.ts"
import { routes as health } from "./health.ts"
import { routes as metrics } from "./metrics.ts"
import { type HttpUnavailable, layer as layerServer, type ServerOptions } from "./server.ts"

export class HttpFace extends Context.Service<HttpFace, {
  /** Where it listens: `http://127.0.0.1:8000`. */
  readonly url: string
}>()("file-replication/HttpFace") {}

export const layer = (
  options: ServerOptions
): Layer.Layer<HttpFace, HttpUnavailable, Membership | Monitoring | Readiness> =>
  Layer.effect(
    HttpFace,
    Effect.map(HttpServer.HttpServer, ({ address }) => ({ url: HttpServer.formatAddress(address) }))
  )
    .pipe(
      Layer.provide(HttpRouter.serve(Layer.mergeAll(health, metrics), { disableLogger: true, disableListenLog: true })),
      Layer.provide(layerServer(options))
    )
