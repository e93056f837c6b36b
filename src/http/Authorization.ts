/**
 * Who may change something.
 *
 * With `server.api_token` set, whoever sends it as a bearer token. Without, the server listens on a loopback address
 * only, and so whoever is on this machine; but not a web page of another site that a browser here has open.
 */
import { Effect, Layer, Option, Redacted, Result } from "effect"
import { HttpEffect, HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { HttpApiMiddleware, HttpApiSecurity, OpenApi } from "effect/http-api"
import { NetAddress } from "effect/net"
import { createHash, timingSafeEqual } from "node:crypto"
import { type Refusal, refusals, refuse, response } from "./refusals.ts"

export class Authorization extends HttpApiMiddleware.Service<Authorization>()("file-replication/http/Authorization", {
  security: {
    bearer: HttpApiSecurity.bearer.pipe(
      HttpApiSecurity.annotate(OpenApi.Description, "The text of `server.api_token`")
    )
  },
  error: refusals("Unauthorized", "ForeignOrigin")
}) {}

/** `none`: no token is set, and the node is reached from this machine only. `host` is what it listens on. */
export interface Access {
  readonly token: Option.Option<Redacted.Redacted>
  readonly host: string
}

export const layer = ({ host, token }: Access): Layer.Layer<Authorization> =>
  Layer.succeed(Authorization, {
    bearer: (endpoint, { credential }) =>
      Effect.gen(function*() {
        const { headers } = yield* HttpServerRequest.HttpServerRequest
        const refusal = Option.match(token, {
          onNone: () => foreignOrigin(headers, host),
          onSome: (token) => unauthorized(token, credential)
        })
        if (refusal?.error.code === "Unauthorized") {
          yield* HttpEffect.appendPreResponseHandler((_, response) =>
            Effect.succeed(HttpServerResponse.setHeader(response, "www-authenticate", "Bearer"))
          )
        }
        if (refusal !== undefined) return yield* Effect.fail(refusal)
        return yield* endpoint
      })
  })

/**
 * Refuses whoever comes by a foreign name, reading or writing, where no token is set: a page of another site, whose name
 * was made to lead here, could otherwise read everything. With a token a node has whatever names its users give it.
 */
export const layerName = ({ host, token }: Access) =>
  Option.isSome(token) ? Layer.empty : HttpRouter.middleware(
    (route) =>
      Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ headers }) => {
        const refusal = foreignName(headers, host)
        return refusal === undefined ? route : Effect.succeed(response(refusal))
      }),
    { global: true }
  )

const unauthorized = (token: Redacted.Redacted, given: Redacted.Redacted): Refusal<"Unauthorized"> | undefined => {
  if (sameText(Redacted.value(token), Redacted.value(given))) return undefined
  return refuse(
    "Unauthorized",
    "this call changes something and needs the header \"Authorization: Bearer \" with the node's server.api_token"
  )
}

/** In a time that does not depend on where, or by how much, they differ. */
const sameText = (a: string, b: string): boolean => {
  const digest = (text: string) => createHash("sha256").update(text).digest()
  return timingSafeEqual(digest(a), digest(b))
}

type Headers = Readonly<Record<string, string | undefined>>

/**
 * Pure: whether a request may come from a web page of another site, for a server that asks for no token. Programs send
 * no `Origin`; a browser names the page's. A name that leads here by a trick of DNS makes the page's site look like
 * ours, so only names that nobody else can give out are taken.
 */
export const foreignOrigin = (headers: Headers, ownHost: string): Refusal<"ForeignOrigin"> | undefined => {
  const { host, origin } = headers
  const site = headers["sec-fetch-site"]
  const name = foreignName(headers, ownHost)
  if (name !== undefined) return name
  if (origin !== undefined && originHost(origin) !== host?.toLowerCase()) {
    return refuse("ForeignOrigin", "without server.api_token, web pages of other sites may not call this node")
  }
  if (site !== undefined && site !== "same-origin" && site !== "none") {
    return refuse("ForeignOrigin", "without server.api_token, web pages of other sites may not call this node")
  }
  return undefined
}

/** Pure: whether a request names us as only others would. `ownHost` is what the node listens on. */
export const foreignName = ({ host }: Headers, ownHost: string): Refusal<"ForeignOrigin"> | undefined =>
  host !== undefined && isOwnName(host, ownHost.toLowerCase()) ? undefined : refuse(
    "ForeignOrigin",
    `without server.api_token this node is reached under localhost or an IP address only, not as ${host ?? "nothing"}`
  )

/** `localhost`, an address, or what the node listens on; with a port or without. */
const isOwnName = (host: string, ownHost: string): boolean => {
  const name = /^(\[[^\]]+\]|[^:]+)(?::\d+)?$/.exec(host)?.[1]?.toLowerCase()
  return name !== undefined &&
    (name === "localhost" || name === ownHost ||
      Result.isSuccess(NetAddress.ipFromString(name.replace(/^\[|\]$/g, ""))))
}

const originHost = (origin: string): string | undefined => URL.canParse(origin) ? new URL(origin).host : undefined
