/**
 * Asks one peer for several small files at once. It blames nobody and tells no reasons: what does not come, whatever
 * happens, is asked for alone, and that tells.
 */
import { Clock, Effect, Option, type Redacted, Schema } from "effect"
import type { FileEntry } from "../ports/FileEntry.ts"
import type { Peer } from "../ports/PeerResolver.ts"
import type { Connections } from "./Connections.ts"
import { makeFrameReader } from "./frames.ts"
import * as Frame from "./protocol/Frame.ts"
import * as Mac from "./protocol/Mac.ts"
import * as Messages from "./protocol/Messages.ts"
import type { Connection } from "./transport/Connection.ts"

/** The bundle did not come, or not whole. `silent`: nothing came at all, so nobody else need wait for this peer. */
export class NoBundle extends Schema.TaggedError<NoBundle>()("NoBundle", {
  detail: Schema.String,
  silent: Schema.Boolean
}) {
  override get message(): string {
    return this.detail
  }
}

export interface Options {
  readonly nodeId: string
  readonly clusterName: string
  readonly secret: Redacted.Redacted<string>
  /** Those that a peer may sign with. */
  readonly secrets: ReadonlyArray<Redacted.Redacted<string>>
  readonly freshNonce: () => string
  readonly connections: Connections
  /** How long a peer may take to answer, and then for the bytes. */
  readonly millis: number
}

export type Entries = readonly [FileEntry, ...ReadonlyArray<FileEntry>]

/** Bytes of each file, in their order; nothing of those that the peer does not give. They may be kept. */
export type FetchBundle = (
  peer: Peer,
  entries: Entries
) => Effect.Effect<ReadonlyArray<Uint8Array | undefined>, NoBundle>

export const make = (options: Options): FetchBundle => {
  const { connections, millis, secrets } = options

  const requestFor = Effect.fnUntraced(function*(entries: ReadonlyArray<FileEntry>) {
    const { clusterName, nodeId } = options
    const nonce = options.freshNonce()
    const timestamp = BigInt(Math.floor((yield* Clock.currentTimeMillis) / 1000))
    const paths = entries.map(({ path }) => path)
    const sha256 = entries.map((entry) => entry.sha256)
    const mac = Mac.bundleMac(options.secret, { nonce, nodeId, clusterName, timestamp, paths, sha256 })
    return { paths, sha256, node_id: nodeId, nonce, timestamp, hmac: Mac.toHex(mac) }
  })

  /** What follows the answer; fails unless it was signed by the peer that was asked, and each file is whole or missing. */
  const sizesIn = (peer: Peer, entries: ReadonlyArray<FileEntry>, nonce: string, ack: Messages.FetchBundleAck) => {
    const { server_node_id: serverNodeId, sizes } = ack
    if (serverNodeId !== peer.id) {
      return Effect.fail(new NoBundle({ silent: false, detail: "another node answers at its address" }))
    }
    if (!secrets.some((secret) => Mac.matches(Mac.bundleAckMac(secret, { nonce, serverNodeId, sizes }), ack.hmac))) {
      return Effect.fail(new NoBundle({ silent: false, detail: "its answer is not signed with the shared secret" }))
    }
    const inForm = sizes.length === entries.length
      && entries.every(({ size_bytes }, n) => sizes[n] === -1 || sizes[n] === size_bytes)
    return inForm
      ? Effect.succeed(sizes)
      : Effect.fail(new NoBundle({ silent: false, detail: "it has other lengths to send than the manifest says" }))
  }

  const receive = Effect.fnUntraced(function*(connection: Connection, first: Uint8Array, length: number) {
    const bytes = Buffer.allocUnsafeSlow(length)
    let received = 0
    let chunk = first
    while (true) {
      if (received + chunk.length > length) {
        return yield* new NoBundle({ silent: false, detail: "it sends more than it said" })
      }
      bytes.set(chunk, received)
      received += chunk.length
      if (received === length) return bytes
      const next = yield* connection.read()
      if (Option.isNone(next)) {
        return yield* new NoBundle({ silent: false, detail: `it closed after ${received} of ${length} bytes` })
      }
      chunk = next.value
    }
  })

  const exchange = Effect.fnUntraced(
    function*(peer: Peer, entries: Entries, fresh: boolean) {
      const lease = yield* connections.lease(peer, fresh).pipe(
        Effect.mapError(({ detail }) => new NoBundle({ silent: true, detail }))
      )
      const { connection } = lease
      const request = yield* requestFor(entries)
      const frames = makeFrameReader(connection, Frame.maxUntrustedLength)
      const answer = yield* connection.write(yield* Effect.fromResult(Messages.encodeFetchBundle(request))).pipe(
        Effect.andThen(frames.next),
        Effect.timeoutOrElse({
          duration: millis,
          orElse: () => Effect.fail(new NoBundle({ silent: true, detail: `no answer within ${millis} ms` }))
        }),
        Effect.catchTag("ConnectionLost", () => Effect.succeedNone)
      )
      if (Option.isNone(answer)) {
        // It may have closed the connection while that was idle.
        if (lease.reused) return undefined
        return yield* new NoBundle({ silent: false, detail: "it closed the connection without an answer" })
      }
      const { payload, type } = answer.value
      if (type !== Frame.messageType.fetchBundleAck) {
        return yield* new NoBundle({ silent: false, detail: `it answers with message type ${type}` })
      }
      const sizes = yield* sizesIn(
        peer,
        entries,
        request.nonce,
        yield* Effect.fromResult(Messages.decodeFetchBundleAck(payload))
      )
      const length = sizes.reduce((sum, size) => sum + Math.max(0, size), 0)
      // Each of them alone has longer: what is so slow is no better together.
      const bytes = yield* receive(connection, frames.rest(), length).pipe(
        Effect.timeoutOrElse({
          duration: millis,
          orElse: () => Effect.fail(new NoBundle({ silent: false, detail: `not whole within ${millis} ms` }))
        })
      )
      lease.keep()
      let at = 0
      return sizes.map((size) => size === -1 ? undefined : bytes.subarray(at, at += size))
    },
    Effect.scoped,
    Effect.mapError((error) =>
      error._tag === "NoBundle" ? error : new NoBundle({ silent: false, detail: error.message })
    )
  )

  return Effect.fnUntraced(function*(peer, entries) {
    const files = yield* exchange(peer, entries, false)
    if (files !== undefined) return files
    yield* connections.drop(peer)
    return (yield* exchange(peer, entries, true)) ?? []
  })
}
