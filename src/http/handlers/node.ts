/**
 * What an orchestrator asks a node: `GET /health`, whether its process serves, and `GET /ready`, whether it holds
 * everything. Both only read, and say nothing that is secret.
 */
import { Effect } from "effect"
import { HttpServerResponse } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import { Membership } from "../../ports/Membership.ts"
import { Readiness } from "../../replication/Readiness.ts"
import { encodeStatus, retryAfterMillis, type Status } from "../../replication/Status.ts"
import { version } from "../../version.ts"
import { Api } from "../Api.ts"
import { fresh } from "../refusals.ts"

const answer = (status: Status) =>
  HttpServerResponse.jsonUnsafe(
    encodeStatus(status),
    status.ready ? { headers: fresh } : { status: 503, headers: retryIn(retryAfterMillis(status)) }
  )

/** `Retry-After` counts whole seconds. */
const retryIn = (millis: number) => ({ ...fresh, "retry-after": String(Math.ceil(millis / 1000)) })

export const nodeHandlers = HttpApiBuilder.group(Api, "node", (handlers) =>
  Effect.gen(function*() {
    const { self } = yield* Membership
    const readiness = yield* Readiness
    return handlers.handleAll({
      /** 200 as long as the process serves. */
      health: () => {
        const body = { status: "ok", node: self.id, role: self.role, version }
        return Effect.succeed(HttpServerResponse.jsonUnsafe(body, { headers: fresh }))
      },
      /** Without an inventory nothing is known, so nothing is ready. */
      ready: () =>
        Effect.match(readiness.status, {
          onSuccess: answer,
          onFailure: ({ message }) =>
            HttpServerResponse.jsonUnsafe({ ready: false, reason: message }, { status: 503, headers: retryIn(5000) })
        })
    })
  }))
