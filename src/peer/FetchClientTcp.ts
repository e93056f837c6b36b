/**
 * Fetches files from peers over TCP or mutual TLS, over connections that are kept where the peer agrees.
 *
 * What a peer answers is believed only as far as it agrees with the manifest entry; the bytes are checked by whoever
 * stages them.
 */
import { Clock, Effect, Layer, Option, type Redacted, Schema } from "effect"
import { makeRandomHex } from "../internal/randomHex.ts"
import type { ByteSink } from "../ports/ByteSink.ts"
import {
  BadOffset,
  ChecksumMismatch,
  type Elsewhere,
  FetchClient,
  type FetchError,
  PeerUnreachable,
  ProtocolViolation,
  ShortBody,
  Stalled
} from "../ports/FetchClient.ts"
import type { FileEntry, NodeId } from "../ports/FileEntry.ts"
import { isGiant } from "../ports/giant.ts"
import type { Peer } from "../ports/PeerResolver.ts"
import * as Traces from "../telemetry/Traces.ts"
import { configuredSecrets } from "./authenticate.ts"
import { throttled } from "./bodies.ts"
import * as Connections from "./Connections.ts"
import { make as makeBundles } from "./fetchBundle.ts"
import { makeFrameReader } from "./frames.ts"
import * as Frame from "./protocol/Frame.ts"
import * as Mac from "./protocol/Mac.ts"
import * as Messages from "./protocol/Messages.ts"
import { laneOf, RateLimits } from "./RateLimits.ts"
import { refusalOf } from "./refusals.ts"
import { sharedBytes } from "./Takers.ts"
import { type Connection, makeProgress } from "./transport/Connection.ts"
import * as ReceiveBuffers from "./transport/ReceiveBuffers.ts"
import { follow, type ReadIdentity, type TlsInvalid } from "./transport/Tls.ts"
import * as Turns from "./Turns.ts"

export interface Options {
  /** Who asks. */
  readonly nodeId: NodeId
  readonly clusterName: string
  /** Signs requests. */
  readonly secret: Redacted.Redacted<string>
  /** A peer may still sign its answers with it. */
  readonly previousSecret?: Redacted.Redacted<string> | undefined
  /** Peers must then show a certificate of the same authority that names their address. */
  readonly tls?: ReadIdentity | undefined
  /** A body ends when so many milliseconds pass in which less than 64 KiB of it arrives. */
  readonly fetchTimeoutMillis: number
  /** Refuses answers that are not signed. */
  readonly requireSignedAcks: boolean
  /** 5000 unless told. */
  readonly dialTimeoutMillis?: number | undefined
  /** How long a peer may take to answer, 10 000 unless told. */
  readonly ackTimeoutMillis?: number | undefined
  /** Files, giants aside, that one peer is asked for at once, each alone; 12 unless told. */
  readonly fetchesAtOnce?: number | undefined
  /** How long a connection may be kept for the next fetch, 30 000 unless told. */
  readonly idleTimeoutMillis?: number | undefined
}

export const layer = (options: Options): Layer.Layer<FetchClient, TlsInvalid, RateLimits> =>
  Layer.effect(FetchClient)(make(options))

/** What a fetch is about, for its errors. */
interface Asked {
  readonly peer: NodeId
  readonly path: FileEntry["path"]
}

/** A connection that has served before was closed by the peer meanwhile: nothing is wrong, another one is dialled. */
class Outlived extends Schema.TaggedError<Outlived>()("Outlived", {}) {
  override get message(): string {
    return "the peer has closed a connection that was idle"
  }
}

/** 16 MiB: enough that small files, fetched one after another by a few workers, allocate nothing. */
const pooledBuffers = 16

const make = Effect.fnUntraced(function*(options: Options) {
  const { pull } = yield* RateLimits
  const tls = options.tls === undefined ? undefined : yield* follow(options.tls)
  const secrets = configuredSecrets(options.secret, options.previousSecret)
  const ackTimeoutMillis = options.ackTimeoutMillis ?? 10_000
  const freshNonce = makeRandomHex(32)
  const connections = yield* Connections.make({
    tls,
    pool: ReceiveBuffers.makePool(pooledBuffers),
    timeoutMillis: options.dialTimeoutMillis ?? 5000,
    idleMillis: options.idleTimeoutMillis ?? 30_000
  })

  const { clusterName, nodeId, secret } = options
  const bundles = yield* makeBundles({
    nodeId,
    clusterName,
    secret,
    secrets,
    freshNonce,
    connections,
    millis: ackTimeoutMillis,
    // With a limit each file goes in its own lane.
    allowed: () => pull.bytesPerSecond() === 0
  })
  const turns = yield* Turns.make(options.fetchesAtOnce ?? 12)

  const requestFor = Effect.fnUntraced(function*(entry: FileEntry, offset: number, elsewhere: Elsewhere | undefined) {
    const nonce = freshNonce()
    const timestamp = BigInt(Math.floor((yield* Clock.currentTimeMillis) / 1000))
    const signed = { nonce, nodeId, clusterName, path: entry.path, timestamp }
    const byteOffset = BigInt(offset)
    const request: Messages.FetchFile = {
      path: entry.path,
      node_id: nodeId,
      nonce,
      timestamp,
      hmac: Mac.toHex(Mac.fetchMac(secret, signed)),
      byte_offset: byteOffset,
      keep_alive: true,
      byte_length: 0n,
      // The first MAC says nothing of the offset, for older peers know it so.
      range_hmac: offset === 0
        ? ""
        : Mac.toHex(Mac.rangeMac(secret, { ...signed, offset: byteOffset, length: 0n })),
      can_wait: elsewhere !== undefined,
      not_at: elsewhere?.notAt ?? []
    }
    return request
  })

  const isSignedBy = (request: Messages.FetchFile, ack: Messages.FetchFileAck) => (secret: Redacted.Redacted<string>) =>
    Mac.matches(
      Mac.ackMac(secret, {
        nonce: request.nonce,
        serverNodeId: ack.server_node_id,
        status: ack.status,
        code: ack.code,
        sizeBytes: ack.size_bytes,
        sha256: ack.sha256,
        byteOffset: ack.byte_offset
      }),
      ack.ack_hmac
    )

  const checkSignature = (asked: Asked, request: Messages.FetchFile, ack: Messages.FetchFileAck) => {
    const violation = (detail: string) => Effect.fail(new ProtocolViolation({ ...asked, detail }))
    if (ack.ack_hmac === "") {
      return options.requireSignedAcks ? violation("its answer is not signed") : Effect.void
    }
    if (secrets.some(isSignedBy(request, ack))) {
      // Right, but not from whom we asked: an address that has passed to another node, or somebody who relays.
      return ack.server_node_id === asked.peer ? Effect.void : violation("another node answers at its address")
    }
    // A peer with another secret says so in the only way it can. It gains nothing by it that closing would not give.
    return ack.status === "error" && ack.code === "auth"
      ? Effect.fail(refusalOf(asked, Number(request.byte_offset), ack, false))
      : violation("its answer is signed with another secret")
  }

  const checkAnswer = (asked: Asked, entry: FileEntry, request: Messages.FetchFile, ack: Messages.FetchFileAck) => {
    const violation = (detail: string) => Effect.fail(new ProtocolViolation({ ...asked, detail }))
    const offset = Number(request.byte_offset)
    if (ack.status === "error") return Effect.fail(refusalOf(asked, offset, ack, request.can_wait))
    if (ack.status !== "ok") return violation("its answer is neither ok nor an error")
    if (ack.sha256 !== entry.sha256) {
      return Effect.fail(new ChecksumMismatch({ ...asked, detail: "its manifest has another sha256" }))
    }
    if (ack.byte_offset !== BigInt(offset)) return violation(`it answers for offset ${ack.byte_offset}, not ${offset}`)
    const length = entry.size_bytes - offset
    if (ack.size_bytes !== BigInt(length)) return violation(`it has ${ack.size_bytes} bytes to send, not ${length}`)
    return Effect.void
  }

  const readAck = (asked: Asked, { reused }: Connections.Lease, next: ReturnType<typeof makeFrameReader>["next"]) => {
    const lost = (detail: string) => reused ? new Outlived() : new PeerUnreachable({ ...asked, detail })
    return Effect.gen(function*() {
      const frame = yield* next
      if (Option.isNone(frame)) return yield* lost("it closed the connection without an answer")
      if (frame.value.type !== Frame.messageType.fetchFileAck) {
        return yield* new ProtocolViolation({ ...asked, detail: `it answers with message type ${frame.value.type}` })
      }
      return yield* Effect.fromResult(Messages.decodeFetchFileAck(frame.value.payload))
    }).pipe(
      Effect.catchTags({
        ConnectionLost: (error) => Effect.fail(lost(error.detail)),
        FrameEmpty: (error) => Effect.fail(new ProtocolViolation({ ...asked, detail: error.message })),
        FrameTooLong: (error) => Effect.fail(new ProtocolViolation({ ...asked, detail: error.message })),
        NotAMessage: (error) => Effect.fail(new ProtocolViolation({ ...asked, detail: error.message }))
      }),
      Effect.timeoutOrElse({
        duration: ackTimeoutMillis,
        orElse: () => Effect.fail(new Stalled({ ...asked, phase: "ack", millis: ackTimeoutMillis }))
      })
    )
  }

  const receive = <E>(
    asked: Asked,
    entry: FileEntry,
    connection: Connection,
    first: Uint8Array,
    length: number,
    sink: ByteSink<E>
  ) =>
    Effect.gen(function*() {
      const progress = yield* makeProgress(options.fetchTimeoutMillis)
      const write = throttled(pull, yield* laneOf(entry), sink.write)
      let received = 0

      const body = Effect.gen(function*() {
        let chunk = Option.some(first)
        while (Option.isSome(chunk)) {
          const bytes = chunk.value
          if (received + bytes.length > length) {
            return yield* new ProtocolViolation({ ...asked, detail: `it sends more than the ${length} bytes it said` })
          }
          // What is not read yet holds the peer back.
          if (bytes.length > 0) yield* write(bytes)
          received += bytes.length
          if (received === length) return
          chunk = yield* connection.read(progress).pipe(
            Effect.catchTag("ConnectionLost", () => Effect.succeed(Option.none<Uint8Array>()))
          )
        }
        return yield* new ShortBody({ ...asked, expected: length, received })
      })

      // All of it came behind the answer: there is nothing to wait for.
      if (first.length === length) return yield* body
      return yield* Effect.raceFirst(
        body,
        progress.watch.pipe(
          Effect.catchTag(
            "NoProgress",
            ({ millis }): Effect.Effect<never, Stalled> => Effect.fail(new Stalled({ ...asked, phase: "body", millis }))
          )
        )
      )
    })

  /** One request and what comes of it. Gives `false` when the connection was an idle one that the peer had closed. */
  const exchange = Effect.fnUntraced(
    function*<E>(
      asked: Asked,
      peer: Peer,
      entry: FileEntry,
      offset: number,
      sink: ByteSink<E>,
      elsewhere: Elsewhere | undefined,
      fresh: boolean
    ) {
      const lease = yield* connections.lease(peer, fresh).pipe(
        Effect.mapError(({ detail }) => new PeerUnreachable({ ...asked, detail })),
        Effect.withSpan("dial", { attributes: { peer: peer.id } }, Traces.withoutStack)
      )
      const { connection, reused } = lease
      const request = yield* requestFor(entry, offset, elsewhere)
      const frame = yield* Effect.fromResult(Messages.encodeFetchFile(request)).pipe(
        Effect.mapError((error) => new ProtocolViolation({ ...asked, detail: error.message }))
      )
      yield* connection.write(frame).pipe(
        Effect.mapError(({ detail }) => reused ? new Outlived() : new PeerUnreachable({ ...asked, detail }))
      )
      const frames = makeFrameReader(connection, Frame.maxUntrustedLength)
      const ack = yield* readAck(asked, lease, frames.next)
      yield* checkSignature(asked, request, ack)
      if (ack.keep_alive && ack.status === "error" && frames.rest().length === 0) lease.keep()
      yield* checkAnswer(asked, entry, request, ack)
      bundles.heard(peer, ack.bundles)
      yield* receive(asked, entry, connection, frames.rest(), entry.size_bytes - offset, sink).pipe(
        Effect.withSpan(
          "transfer",
          { attributes: { peer: peer.id, offset, bytes: entry.size_bytes - offset } },
          Traces.withoutStack
        )
      )
      if (ack.keep_alive) lease.keep()
      return true
    },
    Effect.catchIf((error) => error instanceof Outlived, () => Effect.succeed(false)),
    Effect.scoped
  )

  const fetch = Effect.fnUntraced(
    function*<E>(
      peer: Peer,
      entry: FileEntry,
      offset: number,
      sink: ByteSink<E>,
      elsewhere?: Elsewhere
    ): Effect.fn.Return<void, FetchError | E> {
      const asked: Asked = { peer: peer.id, path: entry.path }
      // Nothing to ask for; and some peers refuse every offset of an empty file.
      if (entry.size_bytes === offset) return
      if (entry.size_bytes < offset) return yield* new BadOffset({ ...asked, offset })

      const shared = entry.size_bytes < sharedBytes ? undefined : elsewhere
      const alone = Effect.gen(function*() {
        let fresh = false
        while (!(yield* exchange(asked, peer, entry, offset, sink, shared, fresh))) {
          yield* connections.drop(peer)
          fresh = true
        }
      })
      const rest = entry.size_bytes - offset
      // Giants are few. And the last byte alone is a question whether the peer has the file, which keeps nobody waiting.
      if (isGiant(entry.size_bytes) || rest === 1) return yield* alone
      return yield* turns.take(peer, entry, alone)
    }
  )

  return FetchClient.of({ fetch, together: bundles.together })
})
