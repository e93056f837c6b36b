/** Everything that a node serves over HTTP. Built on top of the whole graph, and so closed first. */
import { Context, Effect, Layer, type Option, type Redacted } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import type { Ports, Services } from "../Replication.ts"
import { Api } from "./Api.ts"
import * as Authorization from "./Authorization.ts"
import { dashboard } from "./dashboard.ts"
import { docs } from "./docs.ts"
import * as Fallback from "./fallback.ts"
import { bytesHandlers } from "./handlers/bytes.ts"
import { clusterHandlers } from "./handlers/cluster.ts"
import { manifestHandlers } from "./handlers/manifest.ts"
import { nodeHandlers } from "./handlers/node.ts"
import { operationHandlers } from "./handlers/operation.ts"
import { uploadHandlers } from "./handlers/upload.ts"
import { routes as metrics } from "./metrics.ts"
import { type Paces, paces as usualPaces } from "./pace.ts"
import * as Verifier from "./Verifier.ts"

export class HttpFace extends Context.Service<HttpFace, {
  /** Where it listens: `http://127.0.0.1:8000`. */
  readonly url: string
}>()("file-replication/HttpFace") {}

export interface FaceOptions {
  /** Where the server listens. */
  readonly host: string
  /** What calls that change something must show; `none`: they come from this machine. */
  readonly apiToken: Option.Option<Redacted.Redacted>
  /** The node's own folder. */
  readonly stateFolder: string
  /** No file that is published over HTTP may be longer; 0: no limit. */
  readonly maxFileBytes: number
  /** How slowly files may come and go. */
  readonly paces?: Paces
  /** How long a PUT waits for the manifest behind its last byte, milliseconds. */
  readonly patienceMillis?: number
}

const handlers = ({ maxFileBytes, paces = usualPaces, patienceMillis, stateFolder }: FaceOptions) =>
  Layer.mergeAll(
    nodeHandlers,
    clusterHandlers,
    operationHandlers(stateFolder),
    bytesHandlers(paces.download),
    uploadHandlers({ maxFileBytes, pace: paces.upload, patienceMillis }),
    manifestHandlers(paces.upload)
  ).pipe(
    Layer.provide(Verifier.layer(stateFolder))
  )

/** Pages besides the definition. */
const pages = [
  { method: "GET", path: "/" },
  { method: "GET", path: "/docs" },
  { method: "GET", path: "/metrics" },
  { method: "GET", path: "/openapi.json" }
]

const endpoints: ReadonlyArray<Fallback.Endpoint> = Object.values(Api.groups).flatMap(({ endpoints }) =>
  Object.values(endpoints).map(({ method, path }) => ({ method, path }))
)

const routes = (options: FaceOptions) => {
  const { apiToken: token, host } = options
  return Layer.mergeAll(
    HttpApiBuilder.layer(Api, { openapiPath: "/openapi.json" }).pipe(
      Layer.provide(handlers(options)),
      Layer.provide(Authorization.layer({ token, host }))
    ),
    dashboard,
    docs,
    metrics,
    Fallback.layer([...endpoints, ...pages]),
    Authorization.layerName({ token, host })
  )
}

/** An address means what it says, to the letter; and a file's path may be long. */
const routerConfig = {
  ignoreTrailingSlash: false,
  ignoreDuplicateSlashes: false,
  caseSensitive: true,
  maxParamLength: 16 * 1024
}

export const layer = (
  options: FaceOptions
): Layer.Layer<HttpFace, never, Services | Ports | HttpServer.HttpServer> =>
  Layer.effect(
    HttpFace,
    Effect.map(HttpServer.HttpServer, ({ address }) => ({ url: HttpServer.formatAddress(address) }))
  )
    .pipe(
      Layer.provide(
        HttpRouter.serve(routes(options), { disableLogger: true, disableListenLog: true, routerConfig })
      ),
      Layer.provide(HttpServer.layerServices)
    )
