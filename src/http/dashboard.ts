/** `GET /`: the node for people, in a browser. */
import { Effect } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { headers, html } from "./dashboard/page.ts"

export const dashboard = HttpRouter.use((router) =>
  router.add("GET", "/", Effect.succeed(HttpServerResponse.html(html).pipe(HttpServerResponse.setHeaders(headers))))
)
