/**
 * One connection to one member, by gRPC: a call with one answer, and a call in both directions. The only module that
 * touches the gRPC library, which is loaded when the first connection is made and not before.
 */
import type { ChannelCredentials, ClientDuplexStream, Metadata } from "@grpc/grpc-js"
import { Cause, Clock, Duration, Effect, Queue, Redacted, type Scope } from "effect"
import { errorOf, type EtcdError } from "./EtcdError.ts"

/** What is shown to a member and whom of them to trust, as PEM text. */
export interface Tls {
  /** The authority that signed the members' certificates; the system's own authorities when it is absent. */
  readonly authority?: string
  readonly certificate?: string
  readonly key?: Redacted.Redacted
}

/** A method of the API: its path, and how an answer is read. */
export interface Method<A> {
  readonly path: string
  readonly read: (bytes: Uint8Array) => A
}

export interface Call<A> {
  readonly send: (request: Uint8Array) => void
  /** The next answer. Not reading stops the other side after a few. */
  readonly next: Effect.Effect<A, EtcdError>
}

export interface Channel {
  readonly endpoint: string
  readonly unary: <A>(
    method: Method<A>,
    request: Uint8Array,
    token: string | undefined,
    deadline: Duration.Input
  ) => Effect.Effect<A, EtcdError>
  /** Open until the scope closes. */
  readonly duplex: <A>(method: Method<A>, token: string | undefined) => Effect.Effect<Call<A>, EtcdError, Scope.Scope>
}

/** Answers that wait for their reader before the other side is told to pause. */
const highWater = 4

const options = {
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 3_500,
  // Pinging while nothing is asked is answered by GOAWAY.
  "grpc.keepalive_permit_without_calls": 0,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000,
  // Pages and fragments are bounded by what is asked for.
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
  "grpc.use_local_subchannel_pool": 1,
  "grpc.service_config_disable_resolution": 1,
  "grpc.enable_http_proxy": 0
}

const asIs = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)

/** Connects when it is first asked, and again by itself. */
export const open = Effect.fnUntraced(function*(
  endpoint: string,
  tls: Tls | undefined
): Effect.fn.Return<Channel, EtcdError, Scope.Scope> {
  const grpc = yield* Effect.promise(() => import("@grpc/grpc-js"))

  const failed = (operation: string, failure: unknown): EtcdError => {
    const isStatus = failure instanceof Error && "code" in failure && typeof failure.code === "number"
    const details = isStatus && "details" in failure ? String(failure.details) : String(failure)
    return errorOf(operation, endpoint, { code: isStatus ? Number(failure.code) : grpc.status.UNKNOWN, details })
  }

  const credentials: ChannelCredentials = yield* Effect.try({
    try: () =>
      tls === undefined ? grpc.credentials.createInsecure() : grpc.credentials.createSsl(
        bufferOf(tls.authority),
        bufferOf(tls.key === undefined ? undefined : Redacted.value(tls.key)),
        bufferOf(tls.certificate)
      ),
    catch: (cause) => failed("connect", cause)
  })
  let closed = false
  const open = new Set<{ readonly cancel: () => void }>()
  const client = yield* Effect.acquireRelease(
    Effect.try({
      try: () => new grpc.Client(endpoint, credentials, options),
      catch: (cause) => failed("connect", cause)
    }),
    (client) =>
      Effect.sync(() => {
        closed = true
        for (const call of open) call.cancel()
        client.close()
      })
  )
  /** Fails once the scope is closed: the library would throw. */
  const whileOpen = Effect.suspend(() => closed ? Effect.fail(failed("connect", new Closed())) : Effect.void)

  const metadata = (token: string | undefined): Metadata => {
    const metadata = new grpc.Metadata()
    // Without it a member that has lost its quorum says nothing.
    metadata.set("hasleader", "true")
    if (token !== undefined) metadata.set("token", token)
    return metadata
  }

  return {
    endpoint,
    unary: (method, request, token, deadline) =>
      Effect.flatMap(Effect.andThen(whileOpen, Clock.currentTimeMillis), (now) =>
        Effect.callback((resume) => {
          const call = client.makeUnaryRequest(
            method.path,
            asIs,
            method.read,
            request,
            metadata(token),
            { deadline: now + Duration.toMillis(deadline) },
            (failure, answer) => {
              open.delete(call)
              if (failure !== null) resume(Effect.fail(failed(nameOf(method.path), failure)))
              else if (answer === undefined) resume(Effect.fail(failed(nameOf(method.path), "an empty answer")))
              else resume(Effect.succeed(answer))
            }
          )
          open.add(call)
          return Effect.sync(() => call.cancel())
        })),
    duplex: Effect.fnUntraced(function*<A>(method: Method<A>, token: string | undefined) {
      yield* whileOpen
      const queue = yield* Queue.unbounded<A, EtcdError>()
      const call: ClientDuplexStream<Uint8Array, A> = yield* Effect.acquireRelease(
        Effect.sync(() => {
          const call = client.makeBidiStreamRequest(method.path, asIs, method.read, metadata(token))
          open.add(call)
          return call
        }),
        (call) =>
          Effect.sync(() => {
            open.delete(call)
            call.on("error", () => {})
            call.cancel()
          })
      )
      const fail = (failure: unknown) => Queue.failCauseUnsafe(queue, Cause.fail(failed(nameOf(method.path), failure)))
      let paused = false
      call.on("data", (answer: A) => {
        Queue.offerUnsafe(queue, answer)
        if (paused || Queue.sizeUnsafe(queue) < highWater) return
        paused = true
        call.pause()
      })
      call.on("error", fail)
      call.on("end", () => fail(new Ended()))
      return {
        send: (request: Uint8Array) => {
          call.write(request)
        },
        next: Effect.tap(Queue.take(queue), () =>
          Effect.sync(() => {
            if (!paused || Queue.sizeUnsafe(queue) > 0) return
            paused = false
            call.resume()
          }))
      }
    })
  }
})

/** The other side has closed a call that should stay open. */
class Ended extends Error {
  readonly code = 14
  readonly details = "the member has closed the connection"
}

class Closed extends Error {
  readonly code = 9
  readonly details = "this client was closed"
}

const bufferOf = (text: string | undefined): Buffer | null => (text === undefined ? null : Buffer.from(text))

/** `/etcdserverpb.KV/Txn` is `Txn`. */
const nameOf = (path: string): string => path.slice(path.lastIndexOf("/") + 1)
