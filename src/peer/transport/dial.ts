/** Opens a connection to another node. */
import { Deferred, Effect, Schema, type Scope } from "effect"
import { connect as connectTcp, type Socket } from "node:net"
import { connect as connectTls } from "node:tls"
import { type Address, addressText } from "../../ports/Membership.ts"
import { type Connection, fromSocket } from "./Connection.ts"
import * as ReceiveBuffers from "./ReceiveBuffers.ts"
import type { Followed } from "./Tls.ts"

/** Nobody answers there, or not somebody whom we trust. */
export class DialFailed extends Schema.TaggedError<DialFailed>()("DialFailed", {
  address: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `no connection to ${this.address}: ${this.detail}`
  }
}

export interface DialOptions {
  readonly address: Address
  /** Who is expected there. */
  readonly node: string
  readonly tls: Followed | undefined
  readonly pool: ReceiveBuffers.BufferPool
  readonly timeoutMillis: number
}

/**
 * Connects; with TLS, the peer's certificate must be signed by our authority and name the address that is dialled. One
 * that names a node must name the one that is expected.
 * Closing the scope, or interrupting, destroys the connection at once.
 */
export const dial = (options: DialOptions): Effect.Effect<Connection, DialFailed, Scope.Scope> => {
  const address = addressText(options.address)
  const failed = (detail: string) => new DialFailed({ address, detail })
  return Effect.gen(function*() {
    const { connected, connection } = yield* Effect.acquireRelease(
      Effect.try({ try: () => open(options), catch: (cause) => failed(String(cause)) }),
      ({ dispose, socket }) =>
        Effect.sync(() => {
          // The memory goes back only now that nobody reads any more, and not before the system has let go of it: a
          // peer that closes behind its last byte would otherwise have that byte overwritten while it is in use.
          if (socket.closed) return dispose()
          socket.once("close", dispose)
          socket.destroy()
        })
    )
    yield* Deferred.await(connected).pipe(
      Effect.mapError(failed),
      Effect.timeoutOrElse({
        duration: options.timeoutMillis,
        orElse: () => Effect.fail(failed(`no answer within ${options.timeoutMillis} ms`))
      })
    )
    const certified = connection.certified()
    if (certified !== undefined && certified !== options.node) {
      return yield* failed(`its certificate is that of ${certified}, not of ${options.node}`)
    }
    return connection
  })
}

interface Opened {
  readonly connection: Connection
  readonly socket: Socket
  /** Done once it is connected, or fails with the reason. */
  readonly connected: Deferred.Deferred<void, string>
  readonly dispose: () => void
}

/** Begins to connect and listens for what comes of it in one step: a fiber may be held up between two. */
const open = (options: DialOptions): Opened => {
  const buffers = ReceiveBuffers.make(options.pool, () => socket.resume())
  const settings = {
    host: options.address.host,
    port: options.address.port,
    noDelay: true,
    onread: {
      // A function, because each call may continue in another place.
      buffer: buffers.room,
      callback: (bytes: number) => {
        buffers.filled(bytes)
        // May read on within this call and free memory: whether to pause is decided afterwards.
        arrived()
        return buffers.advance()
      }
    }
  }
  const socket = options.tls === undefined
    ? connectTcp(settings)
    : connectTls({ ...options.tls.current(), ...settings })
  const { arrived, connection } = fromSocket(socket, { take: buffers.take, demand: () => undefined })
  const connected = Deferred.makeUnsafe<void, string>()
  socket.once(options.tls === undefined ? "connect" : "secureConnect", () => {
    Deferred.doneUnsafe(connected, Effect.void)
  })
  socket.once("error", (error) => {
    Deferred.doneUnsafe(connected, Effect.fail(error.message))
  })
  socket.once("close", () => {
    Deferred.doneUnsafe(connected, Effect.fail("the peer closed the connection"))
  })
  return { connection, socket, connected, dispose: buffers.dispose }
}
