/**
 * Serves this node's verified files to its peers, over TCP or mutual TLS.
 *
 * A request is checked in this order: secret, MAC and time, nonce, path, manifest, a verified copy here that agrees with
 * the manifest, offset. While the manifest is away, what this node has verified counts as listed. Then the answer, then
 * the body. Whoever can't show the secret learns nothing but that.
 *
 * The layer's scope stops it: no new connections at once, bodies in flight get two seconds, then every socket is
 * destroyed.
 */
import { Clock, Context, DateTime, Effect, Layer, Option, type Redacted, Schema } from "effect"
import type { Backend } from "../ports/Backend.ts"
import { NodeId } from "../ports/FileEntry.ts"
import type { Inventory } from "../ports/Inventory.ts"
import type { Manifest } from "../ports/Manifest.ts"
import { Membership } from "../ports/Membership.ts"
import * as Metrics from "../telemetry/Metrics.ts"
import * as Traces from "../telemetry/Traces.ts"
import * as Admission from "./Admission.ts"
import { keepsAlive, refusal, Refused, type Signer } from "./answers.ts"
import {
  asCertified,
  authenticateBundle,
  authenticateFetch,
  authenticateJoin,
  configuredSecrets,
  type Credentials,
  type Verdict,
  windowSeconds
} from "./authenticate.ts"
import { makeFrameReader } from "./frames.ts"
import * as Grants from "./grants.ts"
import * as Frame from "./protocol/Frame.ts"
import * as Messages from "./protocol/Messages.ts"
import * as NonceCache from "./protocol/NonceCache.ts"
import { RateLimits } from "./RateLimits.ts"
import * as Bundles from "./serveBundle.ts"
import * as Files from "./serveFile.ts"
import * as Strikes from "./Strikes.ts"
import * as Takers from "./Takers.ts"
import type { Connection } from "./transport/Connection.ts"
import { type Accepted, type Bound, listen, type ListenFailed } from "./transport/listen.ts"
import { follow, type ReadIdentity, type TlsInvalid } from "./transport/Tls.ts"

export class FetchServer extends Context.Service<FetchServer, {
  /** Where it listens, in numbers: what `Membership.announce` tells the others unless they reach us under another. */
  readonly address: Bound
}>()("file-replication/FetchServer") {}

export interface Options {
  /** The address to listen on, `""` for all. */
  readonly host: string
  /** 0 takes a free port. */
  readonly port: number
  readonly clusterName: string
  /** Without one (`""`) every request is refused. */
  readonly secret: Redacted.Redacted<string>
  /** Still accepted from peers, never used to sign. */
  readonly previousSecret?: Redacted.Redacted<string> | undefined
  /** Peers must then show a certificate of the same authority. */
  readonly tls?: ReadIdentity | undefined
  /** A body ends when so many milliseconds pass in which the peer takes less than 64 KiB. */
  readonly serveTimeoutMillis: number
  /** How long a new connection may take to send its first request, and a TLS handshake; 10 000 unless told. */
  readonly requestTimeoutMillis?: number | undefined
  /** How long a peer may take to accept an answer without a body, 10 000 unless told. */
  readonly answerTimeoutMillis?: number | undefined
  /** How long a connection that both sides keep alive may be idle, 60 000 unless told. */
  readonly idleTimeoutMillis?: number | undefined
  /** Connections beyond are closed at once. */
  readonly maxConnections: number
  /** Bodies sent at once; beyond, a request is answered with `busy`. */
  readonly maxServes: number
}

export const layer = (
  options: Options
): Layer.Layer<FetchServer, ListenFailed | TlsInvalid, Manifest | Inventory | Backend | Membership | RateLimits> =>
  Layer.effect(FetchServer)(Effect.gen(function*() {
    const { maxConnections, maxServes } = options
    const admission = Admission.make({ maxConnections, maxServes })
    const strikes = yield* Strikes.make
    const serve = yield* makeHandler(options, admission, strikes)
    const address = yield* listen({
      host: options.host,
      port: options.port,
      tls: options.tls === undefined ? undefined : yield* follow(options.tls),
      graceMillis: 2000,
      patienceMillis: options.requestTimeoutMillis ?? defaultRequestTimeoutMillis,
      admit: admission.connect,
      serve,
      handshakeFailed: ({ address }, detail) => strikes.note(address, `a TLS handshake failed: ${detail}`)
    })
    return { address }
  }))

const defaultRequestTimeoutMillis = 10_000
/** How long we wait, behind our last byte, for the peer to close first. */
const lingerMillis = 2000
/** What we still take from it meanwhile, bytes. */
const lingerBytes = 1 << 20
/** Nonces remembered, about 20 bytes each: 6000 requests a second, for as long as their timestamps are accepted. */
const maxNonces = 3_600_000

/** Whether another request may follow on the connection. */
type Next = "goOn" | "close"

/** One connection, as its handler sees it. */
interface Session {
  readonly connection: Connection
  readonly place: Admission.Place
  /** Ends as soon as the server begins to close. */
  readonly closing: Effect.Effect<void>
}

const makeHandler = Effect.fnUntraced(function*(
  options: Options,
  admission: Admission.Admission,
  strikes: Strikes.Strikes
) {
  const grants = yield* Grants.make
  const membership = yield* Membership
  const limits = yield* RateLimits
  const takers = Takers.make()
  const nonces = NonceCache.make({ windowSeconds, limit: maxNonces })
  const secrets = configuredSecrets(options.secret, options.previousSecret)
  const credentials: Credentials = { clusterName: options.clusterName, secrets }
  const signer: Signer = {
    nodeId: membership.self.id,
    secret: configuredSecrets(options.secret, undefined)[0]
  }
  const { serveTimeoutMillis } = options
  const reply = Files.replying(options.answerTimeoutMillis ?? 10_000)
  const files = yield* Files.make({ signer, serveTimeoutMillis, reply })
  const bundles = yield* Bundles.make({ signer, grants, serveTimeoutMillis })
  const idleMillis = options.idleTimeoutMillis ?? 60_000
  const nowSeconds = Effect.map(Clock.currentTimeMillis, (millis) => Math.floor(millis / 1000))

  const offend = ({ place }: Session, what: string) => strikes.note(place.address, `closed a connection: ${what}`)

  // -------------------------------------------------------------------------------------------------------------------
  // Fetch: the checks, then one body or a bundle
  // -------------------------------------------------------------------------------------------------------------------

  /** Runs the sending of a body when there is a place for it. */
  const withPlace = <E>(sending: Effect.Effect<void, E>) =>
    Effect.acquireUseRelease(
      Effect.suspend(() => {
        const free = admission.serve()
        return free === undefined
          ? Effect.fail(new Refused({ code: "busy", reason: "too many bodies are being sent" }))
          : Effect.succeed(free)
      }),
      () => Metrics.whileServing(sending),
      (free) => Effect.sync(free)
    )

  /** Takes a request as one of a node of this cluster. */
  const trust = Effect.fnUntraced(function*(
    { connection, place }: Session,
    request: Messages.FetchFile | Messages.FetchBundle,
    signed: Verdict
  ) {
    const verdict = asCertified(signed, request.node_id, connection.certified())
    if (verdict._tag === "Refused") {
      if (verdict.code === "auth") yield* Metrics.authRejected(verdict.cause)
      return yield* new Refused({ code: verdict.code, reason: verdict.reason })
    }
    place.trust()
  })

  const serveWithin = Effect.fnUntraced(function*(session: Session, request: Messages.FetchFile) {
    yield* trust(session, request, authenticateFetch(credentials, nonces, yield* nowSeconds, request))
    const granted = yield* grants.one(request)
    yield* Takers.whileTaking(takers, request, granted, (onSent) =>
      withPlace(
        files.serve(session.connection, request, granted, onSent).pipe(
          Traces.serving([granted.entry], membership.self.id, request.node_id, granted.offset)
        )
      ))
  })

  /** Tells of a refusal. Whoever has not shown the secret waits for it, the same time whatever the reason. */
  const tell = Effect.fnUntraced(function*({ closing, place }: Session, { code, reason }: Refused) {
    const what = `refused a fetch (${code}): ${reason}`
    if (code === "manifest" || code === "not_found" || code === "crowded") return yield* Effect.logDebug(what)
    if (code !== "auth") return yield* Effect.logWarning(what)
    yield* strikes.note(place.address, what)
    yield* Effect.raceFirst(Effect.sleep(strikes.pause(place.address)), closing)
  })

  const fetch = Effect.fnUntraced(function*(session: Session, payload: Uint8Array) {
    const request = yield* Effect.fromResult(Messages.decodeFetchFile(payload))
    return yield* serveWithin(session, request).pipe(
      Effect.tap(() => Metrics.served("sent")),
      Effect.tapErrorTag(["BackendError", "ConnectionLost", "NoProgress"], () => Metrics.served("cut")),
      Effect.as<Next>(request.keep_alive ? "goOn" : "close"),
      Effect.catchTag("Refused", (refused) =>
        Effect.gen(function*() {
          const { code } = refused
          yield* Metrics.served(code)
          yield* tell(session, refused)
          yield* reply(session.connection, Messages.encodeFetchFileAck(refusal(signer, request, refused)))
          return keepsAlive(request, code) ? "goOn" : "close"
        }))
    )
  })

  const bundle = Effect.fnUntraced(function*(session: Session, payload: Uint8Array) {
    const request = yield* Effect.fromResult(Messages.decodeFetchBundle(payload))
    if (!Bundles.isInForm(request)) {
      return yield* Effect.as(offend(session, "a bundle that is not in form"), "close" as const)
    }
    return yield* trust(session, request, authenticateBundle(credentials, nonces, yield* nowSeconds, request)).pipe(
      Effect.andThen(
        // With a limit each file goes in its own lane, and pays for itself.
        limits.serve.bytesPerSecond() > 0
          ? bundles.giveNothing(session.connection, request)
          : withPlace(bundles.serve(session.connection, request))
      ),
      Effect.as<Next>("goOn"),
      Effect.tapErrorTag(["ConnectionLost", "NoProgress"], () => Metrics.served("cut")),
      Effect.catchTag("Refused", (refused) =>
        Effect.gen(function*() {
          yield* Metrics.served(refused.code)
          yield* tell(session, refused)
          // Each of them asked for alone hears the same, in an answer that says so.
          if (refused.code !== "busy") return "close"
          yield* bundles.giveNothing(session.connection, request)
          return "goOn"
        }))
    )
  })

  // -------------------------------------------------------------------------------------------------------------------
  // Heartbeat and leave
  // -------------------------------------------------------------------------------------------------------------------

  const joining = (
    { connection }: Session,
    label: "heartbeat" | "leave",
    message: Messages.Heartbeat | Messages.LeaveNotify
  ) =>
    Effect.map(nowSeconds, (now) =>
      asCertified(
        authenticateJoin(credentials, nonces, now, label, message),
        message.node_id,
        connection.certified()
      ))

  const refusedJoin = ({ place }: Session, what: string, verdict: Extract<Verdict, { _tag: "Refused" }>) =>
    (verdict.code === "auth" ? Metrics.authRejected(verdict.cause) : Effect.void).pipe(
      Effect.andThen(strikes.note(place.address, `refused a ${what}: ${verdict.reason}`)),
      Effect.as("close" as const)
    )

  const heartbeat = Effect.fnUntraced(function*(session: Session, payload: Uint8Array) {
    const message = yield* Effect.fromResult(Messages.decodeHeartbeat(payload))
    const verdict = yield* joining(session, "heartbeat", message)
    if (verdict._tag === "Refused") return yield* refusedJoin(session, "heartbeat", verdict)
    session.place.trust()
    const timestamp = DateTime.formatIso(yield* DateTime.now)
    yield* reply(session.connection, Messages.encodeHeartbeatAck({ node_id: membership.self.id, timestamp }))
    return "goOn" as const
  })

  const leave = Effect.fnUntraced(function*(session: Session, payload: Uint8Array) {
    const message = yield* Effect.fromResult(Messages.decodeLeaveNotify(payload))
    const verdict = yield* joining(session, "leave", message)
    if (verdict._tag === "Refused") return yield* refusedJoin(session, "leave", verdict)
    const id = Schema.decodeOption(NodeId)(message.node_id)
    if (Option.isNone(id) || id.value === membership.self.id) {
      yield* Effect.logWarning("ignored a leave that names this node or no valid node id")
      return "close" as const
    }
    yield* membership.departed(id.value).pipe(
      Effect.catchTag("MembershipError", (error) => Effect.logWarning(`a leave was not recorded: ${error.message}`))
    )
    return "close" as const
  })

  // -------------------------------------------------------------------------------------------------------------------
  // One connection
  // -------------------------------------------------------------------------------------------------------------------

  const answer = (session: Session, frame: Frame.Frame) => {
    switch (frame.type) {
      case Frame.messageType.fetchFile:
        return fetch(session, frame.payload)
      case Frame.messageType.fetchBundle:
        return bundle(session, frame.payload)
      case Frame.messageType.heartbeat:
        return heartbeat(session, frame.payload)
      case Frame.messageType.leaveNotify:
        return leave(session, frame.payload)
      default:
        return Effect.as(offend(session, `unknown message type ${frame.type}`), "close" as const)
    }
  }

  const converse = Effect.fnUntraced(function*({ closing, connection, place }: Session, openedAt: number) {
    const frames = makeFrameReader(connection, Frame.maxUntrustedLength)
    const closed = Effect.as(closing, Option.none<Frame.Frame>())
    let next: Next = "goOn"
    // What it took over its first bytes is gone.
    const sinceOpened = (yield* Clock.currentTimeMillis) - openedAt
    let patience = Math.max(0, (options.requestTimeoutMillis ?? defaultRequestTimeoutMillis) - sinceOpened)
    while (next === "goOn") {
      const frame = yield* frames.next.pipe(
        Effect.timeoutOrElse({ duration: patience, orElse: () => Effect.succeed(Option.none<Frame.Frame>()) }),
        Effect.raceFirst(closed)
      )
      if (Option.isNone(frame)) return
      place.serves(true)
      next = yield* answer({ closing, connection, place }, frame.value)
      place.serves(false)
      patience = idleMillis
    }
    yield* farewell(connection).pipe(Effect.raceFirst(closing))
  })

  return (
    { admitted, at, connection }: Accepted<Admission.Place>,
    closing: Effect.Effect<void>
  ): Effect.Effect<void> => {
    const session: Session = { connection, closing, place: admitted }
    return converse(session, at).pipe(
      Effect.catchTags({
        ConnectionLost: (error) => Effect.logDebug(error.message),
        NoProgress: (error) => Effect.logWarning(`gave up on a body: ${error.message}`),
        BackendError: (error) => Effect.logError(`a body was cut short: ${error.message}`),
        FrameEmpty: (error) => offend(session, error.message),
        FrameTooLong: (error) => offend(session, error.message),
        NotAMessage: (error) => offend(session, error.message)
      })
    )
  }
})

/**
 * Ends our side and waits for the peer to end its own. A socket that is closed with bytes unread, such as a second
 * request that came too early, is reset, and a reset may overtake the end of the body.
 */
const farewell = Effect.fnUntraced(function*(connection: Connection) {
  yield* connection.end
  const drain = Effect.gen(function*() {
    let taken = 0
    while (taken < lingerBytes) {
      const chunk = yield* connection.read()
      if (Option.isNone(chunk)) return
      taken += chunk.value.length
    }
  })
  yield* drain.pipe(Effect.ignore, Effect.timeoutOption(lingerMillis))
})
