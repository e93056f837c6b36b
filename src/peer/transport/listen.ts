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
import { type Connection, fromSocket } from "./Connection.ts"
import type { TlsMaterial } from "./Tls.ts"

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

export interface ListenOptions<R> {
  /** `""` listens on every address. */
  readonly host: string
  /** 0 takes a free one. */
  readonly port: number
  readonly tls: TlsMaterial | undefined
  /** How long handlers may go on after the scope began to close. */
  readonly graceMillis: number
  /** How long a TLS handshake may take. */
  readonly handshakeMillis: number
  /** Asked before anything is read of a connection: `undefined` refuses it, else what to do when it has ended. */
  readonly admit: (remoteAddress: string) => (() => void) | undefined
  /**
   * Serves one connection, which is destroyed afterwards. `closing` ends as soon as the scope begins to close; a
   * handler that is not in the middle of something then returns.
   */
  readonly serve: (connection: Connection, closing: Effect.Effect<void>) => Effect.Effect<void, never, R>
}

export const listen = <R>(options: ListenOptions<R>): Effect.Effect<Bound, ListenFailed, Scope.Scope | R> =>
  Effect.gen(function*() {
    const fibers = yield* FiberSet.make<void>()
    const run = yield* FiberSet.runtime(fibers)<R>()
    const closing = yield* Deferred.make<void>()
    const sockets = new Set<Socket>()

    const handle = (socket: Socket) => {
      const connection = accepted(socket)
      run(
        options.serve(connection, Deferred.await(closing)).pipe(
          // What goes wrong on one connection ends that connection and nothing else.
          Effect.catchCause((cause) =>
            Cause.hasInterruptsOnly(cause) ? Effect.void : Effect.logError("a connection's handler failed", cause)
          ),
          Effect.ensuring(Effect.sync(() => socket.destroy())),
          Effect.annotateLogs({ peer: connection.remote })
        )
      )
    }
    const warn = (message: string, socket: Socket, error: Error) =>
      run(Effect.logWarning(message, error.message).pipe(Effect.annotateLogs({ peer: socket.remoteAddress ?? "?" })))

    const secure = options.tls === undefined ? undefined : createTlsServer({
      ...options.tls,
      allowHalfOpen: true,
      requestCert: true,
      rejectUnauthorized: true,
      handshakeTimeout: options.handshakeMillis
    })
    secure?.on("secureConnection", handle)
    secure?.on("tlsClientError", (error, socket) => {
      warn("a TLS handshake failed", socket, error)
      socket.destroy()
    })

    const server = createTcpServer({ noDelay: true, allowHalfOpen: true }, (socket) => {
      // A socket without a listener for its errors would end the process.
      socket.on("error", () => undefined)
      const leave = options.admit(socket.remoteAddress ?? "")
      if (leave === undefined) {
        socket.destroy()
        return
      }
      sockets.add(socket)
      socket.once("close", () => {
        sockets.delete(socket)
        leave()
      })
      if (secure === undefined) handle(socket)
      else secure.emit("connection", socket)
    })

    yield* Effect.addFinalizer(() =>
      Effect.gen(function*() {
        yield* Deferred.succeed(closing, undefined)
        yield* Effect.sync(() => server.close())
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
const accepted = (socket: Socket): Connection => {
  const chunks: Array<Uint8Array> = []
  socket.pause()
  socket.on("data", (chunk: Uint8Array) => {
    chunks.push(chunk)
    socket.pause()
    arrived()
  })
  const { arrived, connection } = fromSocket(socket, { take: () => chunks.shift(), demand: () => socket.resume() })
  return connection
}
