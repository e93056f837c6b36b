/** A server and a client as tests want them, and raw sockets that do whatever they like. */
import { Deferred, Effect, Layer, Logger, Queue, Redacted, type Scope } from "effect"
import { connect, createServer, type Socket } from "node:net"
import { connect as connectTls } from "node:tls"
import * as FetchClientTcp from "../../../src/peer/FetchClientTcp.ts"
import * as FetchServer from "../../../src/peer/FetchServer.ts"
import * as RateLimits from "../../../src/peer/RateLimits.ts"
import type { ReadIdentity, TlsIdentity } from "../../../src/peer/transport/Tls.ts"
import type { ByteSink } from "../../../src/ports/ByteSink.ts"
import { FetchClient } from "../../../src/ports/FetchClient.ts"
import { NodeId } from "../../../src/ports/FileEntry.ts"
import type { Peer } from "../../../src/ports/PeerResolver.ts"
import { ports } from "./doubles.ts"

export const secret = Redacted.make("a secret of the tests")
export const clusterName = "test-cluster"
export const nodeA = NodeId.make("node-a")

/** TLS with one identity for ever, or one that is read again. */
export interface TlsOption {
  readonly tls?: TlsIdentity | ReadIdentity | undefined
}

const reading = ({ tls }: TlsOption): ReadIdentity | undefined =>
  tls === undefined || Effect.isEffect(tls) ? tls : Effect.succeed(tls)

const noLimits = RateLimits.layer({ pullBytesPerSecond: 0, serveBytesPerSecond: 0 })
const layerLimits = (limits: RateLimits.RateLimits["Service"] | undefined) =>
  limits === undefined ? noLimits : Layer.succeed(RateLimits.RateLimits, limits)

/** Starts a server on a free port of this machine. What it logs goes to `logs`. */
export const startServer = (
  doubles: Parameters<typeof ports>[0],
  options: Omit<Partial<FetchServer.Options>, "tls"> & TlsOption = {},
  logs: Array<string> = [],
  limits?: RateLimits.RateLimits["Service"]
) =>
  Layer.build(
    FetchServer.layer({
      host: "127.0.0.1",
      port: 0,
      clusterName,
      secret,
      serveTimeoutMillis: 5000,
      maxConnections: 64,
      maxServes: 8,
      ...options,
      tls: reading(options)
    }).pipe(
      Layer.provide(ports(doubles)),
      Layer.provide(layerLimits(limits)),
      Layer.provide(Logger.layer([Logger.make(({ message }) => logs.push(String(message)))]))
    )
  ).pipe(
    Effect.flatMap((context) => FetchServer.FetchServer.pipe(Effect.provide(context))),
    Effect.map(({ address }): Peer => ({ id: nodeA, address }))
  )

export const makeClient = (
  options: Omit<Partial<FetchClientTcp.Options>, "tls"> & TlsOption = {},
  limits?: RateLimits.RateLimits["Service"]
) =>
  Layer.build(
    FetchClientTcp.layer({
      nodeId: NodeId.make("node-b"),
      clusterName,
      secret,
      fetchTimeoutMillis: 5000,
      requireSignedAcks: false,
      ...options,
      tls: reading(options)
    }).pipe(Layer.provide(layerLimits(limits)))
  ).pipe(Effect.flatMap((context) => FetchClient.pipe(Effect.provide(context))))

/** A sink that keeps everything. */
export const collector = (): ByteSink<never> & { readonly bytes: () => Buffer } => {
  const chunks: Array<Buffer> = []
  return {
    write: (chunk) =>
      Effect.sync(() => {
        chunks.push(Buffer.from(chunk))
      }),
    bytes: () => Buffer.concat(chunks)
  }
}

/** A peer that does with each connection what the test says. `closed` gets one message for each that has ended. */
export const rawPeer = (
  onConnection: (socket: Socket) => void
): Effect.Effect<{ readonly peer: Peer; readonly closed: Queue.Queue<void> }, never, Scope.Scope> =>
  Effect.gen(function*() {
    const closed = yield* Queue.unbounded<void>()
    const sockets = new Set<Socket>()
    const server = createServer((socket) => {
      sockets.add(socket)
      socket.on("error", () => undefined)
      socket.on("close", () => {
        Queue.offerUnsafe(closed, undefined)
      })
      onConnection(socket)
    })
    const port = yield* Effect.acquireRelease(
      Effect.callback<number>((resume) => {
        server.listen(0, "127.0.0.1", () => {
          const address = server.address()
          resume(Effect.succeed(address !== null && typeof address === "object" ? address.port : 0))
        })
      }),
      () =>
        Effect.sync(() => {
          for (const socket of sockets) socket.destroy()
          server.close()
        })
    )
    return { peer: { id: nodeA, address: { host: "127.0.0.1", port } }, closed }
  })

/** A raw connection to a server, over TLS where an identity is given. */
export interface RawClient {
  readonly socket: Socket
  readonly send: (bytes: Uint8Array) => Effect.Effect<void>
  /** Everything that came until the server closed. */
  readonly all: Effect.Effect<Buffer>
  /** Exactly so many bytes, fewer when the server closed before. */
  readonly take: (count: number) => Effect.Effect<Buffer>
}

export const rawClient = (peer: Peer, tls?: TlsIdentity): Effect.Effect<RawClient, never, Scope.Scope> =>
  Effect.gen(function*() {
    const opened = yield* Deferred.make<void>()
    const closed = yield* Deferred.make<void>()
    const socket = yield* Effect.acquireRelease(
      Effect.sync((): Socket =>
        tls === undefined
          ? connect(peer.address)
          : connectTls({ ...peer.address, cert: tls.certificate, key: Redacted.value(tls.key), ca: tls.authority })
      ),
      (socket) => Effect.sync(() => socket.destroy())
    )
    let received = Buffer.alloc(0)
    let wanted: { readonly count: number; readonly done: () => void } | undefined
    const check = () => {
      if (wanted !== undefined && received.length >= wanted.count) wanted.done()
    }
    socket.on("error", () => undefined)
    socket.on("connect", () => Deferred.doneUnsafe(opened, Effect.void))
    socket.on("close", () => {
      Deferred.doneUnsafe(opened, Effect.void)
      Deferred.doneUnsafe(closed, Effect.void)
      wanted?.done()
    })
    socket.on("data", (chunk: Buffer) => {
      received = Buffer.concat([received, chunk])
      check()
    })
    yield* Deferred.await(opened)
    const takeNow = (count: number) => {
      const bytes = received.subarray(0, count)
      received = received.subarray(bytes.length)
      return bytes
    }
    return {
      socket,
      send: (bytes) => Effect.sync(() => socket.write(bytes)),
      all: Effect.map(Deferred.await(closed), () => takeNow(received.length)),
      take: (count) =>
        Effect.callback<Buffer>((resume) => {
          const done = () => {
            wanted = undefined
            resume(Effect.sync(() => takeNow(count)))
          }
          if (received.length >= count || socket.closed) return done()
          wanted = { count, done }
        })
    }
  })
