/**
 * The node's HTTP server. It listens before the node joins the cluster, so that a port that is taken keeps it from joining;
 * what is asked before anything serves is refused with 503, but for whether the process lives.
 *
 * Whoever talks to it is not trusted: a client that is slow, says nothing or stops reading is cut, and never keeps a
 * shutdown from ending.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { Duration, Effect, Layer, Schema } from "effect"
import { HttpServer } from "effect/http"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { Duplex } from "node:stream"
import * as Admission from "../peer/Admission.ts"
import { version } from "../version.ts"
import type { Starting } from "./answers.ts"
import { type Code, fresh, refuse } from "./refusals.ts"

/** The address of `server.host` and `server.port` can't be listened on. */
export class HttpUnavailable extends Schema.TaggedError<HttpUnavailable>()("HttpUnavailable", {
  host: Schema.String,
  port: Schema.Int,
  detail: Schema.String
}) {
  override get message(): string {
    return `can't serve HTTP on ${this.host} port ${this.port}: ${this.detail}; choose another server.host or `
      + "server.port, or turn it off with server.enabled = false"
  }
}

export interface ServerOptions {
  readonly host: string
  /** 0 takes a free one. */
  readonly port: number
}

/** How long answers may still take when the scope closes; then every connection is cut. */
const grace = Duration.millis(500)

const limits = {
  /** Beyond, one that asks for nothing makes room, as at the cluster port. */
  maxConnections: 128,
  /** Not counted here. */
  maxServes: 0,
  maxHeaderSize: 16 * 1024,
  headersTimeout: 5000,
  /** A file may take long to arrive; what counts is that something of it does. */
  requestTimeout: 0,
  keepAliveTimeout: 5000,
  connectionsCheckingInterval: 1000,
  /** A connection on which nothing moves, in either direction, unless this node is at work for it. */
  idleMillis: 30_000,
  /** How long a client may go on sending a body behind the answer. */
  refusedMillis: 2000
}

export const layer = (options: ServerOptions): Layer.Layer<HttpServer.HttpServer, HttpUnavailable> =>
  Layer.effect(HttpServer.HttpServer, make(options))

/** A connection, with how many requests it has made that are not answered yet. */
interface Guest {
  readonly place: Admission.Place
  requests: number
}

const serve = (guest: Guest, response: ServerResponse): void => {
  guest.requests++
  guest.place.trust()
  guest.place.serves(true)
  response.on("close", () => {
    guest.requests--
    if (guest.requests === 0) guest.place.serves(false)
  })
}

const make = Effect.fnUntraced(function*({ host, port }: ServerOptions) {
  const sockets = new Set<Duplex>()
  const server = createServer(limits)
  server.timeout = limits.idleMillis
  const admission = Admission.make(limits)
  const guests = new WeakMap<Duplex, Guest>()
  server.on("request", (request, response) => {
    if (server.listenerCount("request") === 1) answerEarly(request, response)
    const guest = guests.get(request.socket)
    if (guest !== undefined) serve(guest, response)
    // With all of it here and nothing answered, the client waits for us and not we for it.
    response.on("timeout", (socket) => {
      if (request.complete && !response.headersSent) socket.setTimeout(limits.idleMillis)
      else socket.destroy()
    })
    // Refused before its body has come: what is left of that body holds no connection.
    response.on("finish", () => {
      if (!request.complete) {
        setTimeout(() => request.complete || request.socket.destroy(), limits.refusedMillis).unref()
      }
    })
  })
  server.on("clientError", refuseMalformed)
  server.on("connection", (socket) => {
    const place = admission.connect(socket.remoteAddress ?? "", () => socket.destroy())
    if (place === undefined) {
      socket.destroy()
      return
    }
    guests.set(socket, { place, requests: 0 })
    sockets.add(socket)
    socket.once("close", () => {
      sockets.delete(socket)
      place.leave()
    })
  })
  const http = yield* NodeHttpServer.make(() => server, { host, port, gracefulShutdownTimeout: grace }).pipe(
    Effect.mapError(({ cause }) => new HttpUnavailable({ host, port, detail: detailOf(cause) }))
  )
  // Behind the grace the server only stops to accept: whoever is still connected stays so.
  const cutting = Effect.addFinalizer(() =>
    Effect.sync(() => {
      for (const socket of sockets) socket.destroy()
    })
  )
  yield* cutting
  return HttpServer.make({
    address: http.address,
    serve: (app, middleware) =>
      Effect.andThen(cutting, middleware === undefined ? http.serve(app) : http.serve(app, middleware))
  })
})

/** The port is bound, and the node behind it is not built yet: that may last as long as nothing answers that it needs. */
const answerEarly = (request: IncomingMessage, response: ServerResponse): void => {
  const headers = { ...fresh, "content-type": "application/json" }
  if (request.method === "GET" && request.url === "/health") {
    response.writeHead(200, headers).end(JSON.stringify({ status: "starting", version } satisfies typeof Starting.Type))
    return
  }
  const body = JSON.stringify(refuse("Unavailable", "the node is starting; ask again"))
  response.writeHead(503, { ...headers, "retry-after": "1" }).end(body)
}

/** What is no HTTP never comes as far as the routes, and is refused in their shape all the same. */
const refuseMalformed = (error: Error, socket: Duplex): void => {
  if (!socket.writable || Reflect.get(error, "code") === "ECONNRESET") {
    socket.destroy(error)
    return
  }
  const [status, code, message] = malformed[String(Reflect.get(error, "code"))]
    ?? ["400 Bad Request", "BadRequest", "this is no HTTP request"]
  const body = JSON.stringify(refuse(code, message))
  socket.end(
    `HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`
  )
}

const malformed: Readonly<Record<string, readonly [string, Code, string]>> = {
  HPE_HEADER_OVERFLOW: ["431 Request Header Fields Too Large", "TooLarge", "the headers are longer than 16 KiB"],
  ERR_HTTP_REQUEST_TIMEOUT: ["408 Request Timeout", "TooSlow", "the request came too slowly"]
}

const detailOf = (cause: unknown): string => {
  switch (cause instanceof Error ? Reflect.get(cause, "code") : undefined) {
    case "EADDRINUSE":
      return "another program already does"
    case "EACCES":
      return "not allowed for this user"
    case "EADDRNOTAVAIL":
    case "ENOTFOUND":
      return "this machine has no such address"
    default:
      return cause instanceof Error ? cause.message : String(cause)
  }
}
