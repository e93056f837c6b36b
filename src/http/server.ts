/**
 * The node's HTTP server.
 *
 * Whoever talks to it is not trusted: a client that is slow, says nothing or stops reading is cut, and never keeps a
 * shutdown from ending.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { Duration, Effect, Layer, Schema } from "effect"
import { HttpServer } from "effect/http"
import { createServer } from "node:http"
import type { Duplex } from "node:stream"

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
  maxConnections: 128,
  maxHeaderSize: 16 * 1024,
  headersTimeout: 5000,
  requestTimeout: 10_000,
  keepAliveTimeout: 5000,
  connectionsCheckingInterval: 1000,
  /** A connection on which nothing moves, in either direction. */
  idleMillis: 30_000
}

export const layer = (options: ServerOptions): Layer.Layer<HttpServer.HttpServer, HttpUnavailable> =>
  Layer.effect(HttpServer.HttpServer, make(options))

const make = Effect.fnUntraced(function*({ host, port }: ServerOptions) {
  const sockets = new Set<Duplex>()
  const server = createServer(limits)
  server.maxConnections = limits.maxConnections
  server.timeout = limits.idleMillis
  server.on("connection", (socket) => {
    sockets.add(socket)
    socket.once("close", () => sockets.delete(socket))
  })
  const http = yield* NodeHttpServer.make(() => server, { host, port, gracefulShutdownTimeout: grace }).pipe(
    Effect.mapError(({ cause }) => new HttpUnavailable({ host, port, detail: detailOf(cause) }))
  )
  // Behind the grace the server only stops to accept: whoever is still connected stays so.
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      for (const socket of sockets) socket.destroy()
    })
  )
  return http
})

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
