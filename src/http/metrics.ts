/** `GET /metrics`: what a Prometheus server reads. */
import { Effect } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { Monitoring } from "../replication/Monitoring.ts"
import { contentType } from "../telemetry/Metrics.ts"

export const routes = HttpRouter.use(Effect.fnUntraced(function*(router) {
  const { render } = yield* Monitoring
  const headers = { "cache-control": "no-store" }
  yield* router.add(
    "GET",
    "/metrics",
    Effect.map(render, (text) => HttpServerResponse.text(text, { contentType, headers }))
  )
}))
