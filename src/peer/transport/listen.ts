/**
 * Accepts connections from other nodes.
 *
 * Closing its scope stops accepting, tells every handler that it is closing, gives them a grace period to finish what
 * they are at, then destroys every socket. It never waits for a peer.
 */
import { Cause, Deferred, Effect, FiberSet, Schema, type Scope } from "effect"
import { createServer as createTcpServer, type Server, type Socket } from "node:net"
import { createServer as createTlsServer } from "node:tls"
import { addressText } from "../../ports/Membership.ts"
import * as Metrics from "../../telemetry/Metrics.ts"
import { type Connection, fromSocket } from "./Connection.ts"
import * as Silence from "./Silence.ts"
import type { Followed } from "./Tls.ts"

/** The address can't be listened on. */
export class ListenFailed extends Schema.TaggedError<ListenFailed>()("ListenFailed", {
  address: Schema.String,
  reason: Schema.Literals(["AddressInUse", "NotAllowed", "NoSuchAddress", "Failed"]),
  detail: Schema.String
}) {
  override get message(): string {
    switch (this.reason) {
      case "AddressInUse":
        return `can't listen on ${this.address}: another program already does; stop it or choose another port`
      case "NotAllowed":
        return `can't listen on ${this.address}: not allowed for this user; choose a port above 1023`
      case "NoSuchAddress":
        return `can't listen on ${this.address}: this machine has no such address`
      case "Failed":
        return `can't listen on ${this.address}: ${this.detail}`
    }
  }
}

/** An address in numbers. `port` is never 0 here. */
export interface Bound {
  readonly host: string
  readonly port: number
}

export interface ListenOptions<A extends Admitted, R> {
  /** `""` listens on every address. */
  readonly host: string
  /** 0 takes a free one. */
  readonly port: number
  readonly tls: Followed | undefined
  /** How long handlers may go on after the scope began to close. */
  readonly graceMillis: number
  /** How long a TLS handshake may take, and the first bytes behind it. */
  readonly patienceMillis: number
  /** Asked before anything is read of a connection: `undefined` refuses it. `close` ends the connection at once. */
  readonly admit: (remoteAddress: string, close: () => void) => A | undefined
  /**
   * Serves one connection on which something was said, and which is destroyed afterwards. `closing` ends as soon as the
   * scope begins to close; a handler that is not in the middle of something then returns.
   */
  readonly serve: (accepted: Accepted<A>, closing: Effect.Effect<void>) => Effect.Effect<void, never, R>
  /** A TLS handshake came to nothing. */
  readonly handshakeFailed: (admitted: A, detail: string) => Effect.Effect<void>
}

export interface Accepted<A extends Admitted> {
  readonly connection: Connection
  readonly admitted: A
  /** When it was opened, milliseconds. */
  readonly at: number
}

/** What stands for a connection that was let in. */
export interface Admitted {
  /** The connection has ended. */
  readonly leave: () => void
}

export const listen = <A extends Admitted, R>(
  options: ListenOptions<A, R>
): Effect.Effect<Bound, ListenFailed, Scope.Scope | R> =>
  Effect.gen(function*() {
    const fibers = yield* FiberSet.make<void>()
    const run = yield* FiberSet.runtime(fibers)<R>()
    const closing = yield* Deferred.make<void>()
    const sockets = new Set<Socket>()

    const silence = yield* Silence.make(options.patienceMillis)
    const metrics = yield* Metrics.connections

    const handle = (socket: Socket, admitted: A, first: Uint8Array, at: number) => {
      const connection = accepted(socket, first)
      run(
        options.serve({ connection, admitted, at }, Deferred.await(closing)).pipe(
          // What goes wrong on one connection ends that connection and nothing else.
          Effect.catchCause((cause) =>
            Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.logError("a connection's handler failed", cause)
          ),
          Effect.ensuring(Effect.sync(() => socket.destroy())),
          Effect.annotateLogs({ peer: connection.remote })
        )
      )
    }
    const listenTo = (socket: Socket, admitted: A) =>
      silence.watch(socket, (first, at) => handle(socket, admitted, first, at))

    // A TLS socket does not tell which socket it was made of; while that one is open, its two ends do.
    const shaking = new Map<string, A>()
    const endsOf = (socket: Socket) => `${socket.remoteAddress} ${socket.remotePort} ${socket.localAddress}`

    const secure = options.tls === undefined ? undefined : createTlsServer({
      ...options.tls.current(),
      allowHalfOpen: true,
      requestCert: true,
      rejectUnauthorized: true,
      handshakeTimeout: options.patienceMillis
    })
    options.tls?.onRenewed((material) => secure?.setSecureContext({ ...material }))
    secure?.on("secureConnection", (socket) => {
      const admitted = shaking.get(endsOf(socket))
      if (admitted === undefined) socket.destroy()
      else listenTo(socket, admitted)
    })
    secure?.on("tlsClientError", (error, socket) => {
      const admitted = shaking.get(endsOf(socket))
      if (admitted !== undefined) run(options.handshakeFailed(admitted, error.message))
      socket.destroy()
    })

    const server = createTcpServer({ noDelay: true, allowHalfOpen: true }, (socket) => {
      // A socket without a listener for its errors would end the process.
      socket.on("error", () => undefined)
      const admitted = options.admit(socket.remoteAddress ?? "", () => socket.destroy())
      if (admitted === undefined) {
        metrics.refused()
        socket.destroy()
        return
      }
      sockets.add(socket)
      metrics.opened()
      socket.once("close", () => {
        sockets.delete(socket)
        metrics.closed()
        admitted.leave()
      })
      if (secure === undefined) return listenTo(socket, admitted)
      const ends = endsOf(socket)
      shaking.set(ends, admitted)
      socket.once("close", () => shaking.delete(ends))
      secure.emit("connection", socket)
    })

    yield* Effect.addFinalizer(() =>
      Effect.gen(function*() {
        yield* Deferred.succeed(closing, undefined)
        yield* Effect.sync(() => {
          server.close()
          silence.close()
        })
        yield* FiberSet.awaitEmpty(fibers).pipe(Effect.timeoutOption(options.graceMillis))
        yield* Effect.sync(() => {
          for (const socket of sockets) socket.destroy()
        })
      })
    )
    return yield* bind(server, options.host, options.port)
  })

const bind = (server: Server, host: string, port: number): Effect.Effect<Bound, ListenFailed> =>
  Effect.callback((resume) => {
    const address = addressText({ host, port })
    // A failure to accept later, such as too few file descriptors, passes; the listener stays.
    server.on("error", (error) => {
      const code: unknown = Reflect.get(error, "code")
      resume(Effect.fail(new ListenFailed({ address, reason: reasonOf(code), detail: error.message })))
    })
    server.listen(host === "" ? { port } : { host, port }, () => {
      const bound = server.address()
      resume(
        bound !== null && typeof bound === "object"
          ? Effect.succeed({ host: bound.address, port: bound.port })
          : Effect.fail(new ListenFailed({ address, reason: "Failed", detail: "it has no port" }))
      )
    })
  })

const reasonOf = (code: unknown): ListenFailed["reason"] => {
  switch (code) {
    case "EADDRINUSE":
      return "AddressInUse"
    case "EACCES":
      return "NotAllowed"
    case "EADDRNOTAVAIL":
    case "ENOTFOUND":
      return "NoSuchAddress"
    default:
      return "Failed"
  }
}

// A connection reads a chunk only when somebody asks for one, so a peer that sends without being asked waits.
const accepted = (socket: Socket, first: Uint8Array): Connection => {
  const chunks = [first]
  socket.on("data", (chunk: Uint8Array) => {
    chunks.push(chunk)
    socket.pause()
    arrived()
  })
  const { arrived, connection } = fromSocket(socket, { take: () => chunks.shift(), demand: () => socket.resume() })
  return connection
}
