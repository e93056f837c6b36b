/** Every refusal that no endpoint says itself, in the one shape: unknown addresses, wrong methods, bad parameters, defects. */
import { ByteSize, Cause, Effect } from "effect"
import { HttpIncomingMessage, HttpRouter, HttpServerError, HttpServerRequest } from "effect/http"
import { HttpApiError } from "effect/http-api"
import { explain } from "../ports/explain.ts"
import { type Refusal, refuse, response } from "./refusals.ts"

/** The longest body of a call; files come as streams and are not meant. */
const maxBody = ByteSize.fromInputUnsafe("64 KiB")

const parts: Record<HttpApiError.HttpApiSchemaError["kind"], string> = {
  Params: "the address",
  Headers: "the headers",
  Query: "the query",
  Payload: "the body",
  Body: "the answer",
  ResponseHeaders: "the answer"
}

/** An address that an endpoint answers, for one method. */
export interface Endpoint {
  readonly method: string
  /** As routes are written, `/a/:b/*`. */
  readonly path: string
}

/** Pure: the methods of an address, `[]` when there is no such. */
export const methodsOf = (endpoints: ReadonlyArray<Endpoint>, url: string): ReadonlyArray<string> => {
  const address = url.replace(/[?#][^]*$/, "")
  const methods = endpoints.filter(({ path }) => {
    const fixed = path.replace(/\/:[^]*$/, "")
    return fixed === path ? address === path : address.startsWith(`${fixed}/`)
  }).map(({ method }) => method)
  return methods.includes("GET") ? [...new Set([...methods, "HEAD"])] : [...new Set(methods)]
}

const unrouted = (endpoints: ReadonlyArray<Endpoint>, request: HttpServerRequest.HttpServerRequest) => {
  const methods = methodsOf(endpoints, request.url)
  if (methods.includes(request.method)) {
    return response(refuse("BadPath", "the address is not percent-encoded UTF-8, or too long"))
  }
  if (methods.length > 0) {
    const allow = methods.join(", ")
    return response(refuse("MethodNotAllowed", `this address takes ${allow}`), { allow })
  }
  return response(refuse("NoSuchEndpoint", "there is no such address; /docs lists those that there are"))
}

const refusalOf = (error: unknown): Refusal | undefined => {
  if (HttpApiError.HttpApiSchemaError.is(error)) {
    if (error.kind === "Body" || error.kind === "ResponseHeaders") return undefined
    return refuse("BadRequest", `${parts[error.kind]} is not as described: ${explain(error.cause)}`)
  }
  if (!HttpServerError.isHttpServerError(error)) return undefined
  const { reason } = error
  if (reason._tag !== "RequestParseError") return undefined
  return reason.reason === "BodyTooLarge"
    ? refuse("TooLarge", `the body of a call is at most ${ByteSize.format(maxBody)} long`)
    : refuse("BadRequest", "the request can't be read to its end")
}

/** To the router a `;` begins a query, and here it is a character of a path like others. */
const literal = (request: HttpServerRequest.HttpServerRequest): HttpServerRequest.HttpServerRequest => {
  const [path = "", ...query] = request.url.split("?")
  if (!path.includes(";")) return request
  return request.modify({ url: [path.replaceAll(";", "%3B"), ...query].join("?") })
}

export const layer = (endpoints: ReadonlyArray<Endpoint>) =>
  HttpRouter.middleware(
    (route) =>
      route.pipe(
        Effect.updateService(HttpServerRequest.HttpServerRequest, literal),
        Effect.map((answer) =>
          // Said by the library, and without our shape; our own are JSON.
          answer.status === 415 && answer.headers["content-type"] !== "application/json"
            ? response(refuse("WrongMediaType", "the body must be JSON: Content-Type: application/json"))
            : answer
        ),
        Effect.catchCause((cause) =>
          Effect.gen(function*() {
            if (Cause.hasInterrupts(cause)) return yield* Effect.failCause(cause)
            const error = Cause.squash(cause)
            const request = yield* HttpServerRequest.HttpServerRequest
            if (HttpServerError.isHttpServerError(error) && error.reason._tag === "RouteNotFound") {
              return unrouted(endpoints, request)
            }
            const refusal = refusalOf(error)
            if (refusal !== undefined) return response(refusal)
            yield* Effect.logError(`${request.method} ${request.url} failed`, cause)
            return response(refuse("Internal", "this is a defect of the node; its log tells more"))
          })
        ),
        Effect.provideService(HttpIncomingMessage.MaxBodySize, maxBody)
      ),
    { global: true }
  )
