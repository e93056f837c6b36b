/**
 * What an orchestrator asks a node: `GET /health`, whether its process serves, and `GET /ready`, whether it holds
 * everything. Both only read, and say nothing that is secret.
 */
import { Effect, Layer } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { Membership } from "../ports/Membership.ts"
import { Readiness } from "../replication/Readiness.ts"
import { encodeStatus, retryAfterMillis, type Status } from "../replication/Status.ts"
import { version } from "../version.ts"

const fresh = { "cache-control": "no-store" }

/** 200 as long as the process serves. */
const health = HttpRouter.use(Effect.fnUntraced(function*(router) {
  const { self } = yield* Membership
  const body = { status: "ok", node: self.id, role: self.role, version }
  yield* router.add("GET", "/health", HttpServerResponse.jsonUnsafe(body, { headers: fresh }))
}))

const answer = (status: Status) =>
  HttpServerResponse.jsonUnsafe(
    encodeStatus(status),
    status.ready ? { headers: fresh } : { status: 503, headers: retryIn(retryAfterMillis(status)) }
  )

/** `Retry-After` counts whole seconds. */
const retryIn = (millis: number) => ({ ...fresh, "retry-after": String(Math.ceil(millis / 1000)) })

/** 200 with the status, or 503 with it and `Retry-After`. Without an inventory nothing is known, so nothing is ready. */
const ready = HttpRouter.use(Effect.fnUntraced(function*(router) {
  const readiness = yield* Readiness
  const respond = Effect.match(readiness.status, {
    onSuccess: answer,
    onFailure: ({ message }) =>
      HttpServerResponse.jsonUnsafe({ ready: false, reason: message }, { status: 503, headers: retryIn(5000) })
  })
  yield* router.add("GET", "/ready", respond)
}))

export const routes = Layer.mergeAll(health, ready)
