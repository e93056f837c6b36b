/**
 * Asks one peer for several small files at once, where it has said that it takes that. It blames nobody and tells no
 * reasons: what does not come, whatever happens, is asked for alone, and that tells.
 */
import { Clock, Effect, Option, type Redacted, Schema } from "effect"
import { setWithin } from "../internal/boundedMap.ts"
import { peerRest } from "../internal/rests.ts"
import { type Entries, type FetchTogether, PeerUnreachable, together } from "../ports/FetchClient.ts"
import type { FileEntry } from "../ports/FileEntry.ts"
import { keyOf, type Peer } from "../ports/PeerResolver.ts"
import type { Connections } from "./Connections.ts"
import { makeFrameReader } from "./frames.ts"
import * as Frame from "./protocol/Frame.ts"
import * as Mac from "./protocol/Mac.ts"
import * as Messages from "./protocol/Messages.ts"
import type { Connection } from "./transport/Connection.ts"

/** The bundle did not come, or not whole. `silent`: nothing came at all, so nobody else need wait for this peer. */
class NoBundle extends Schema.TaggedError<NoBundle>()("NoBundle", {
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
  /** Whether anything may be asked for together now. */
  readonly allowed: () => boolean
}

/** What is done with what came. */
type Use = Parameters<FetchTogether>[1]

export interface Bundles {
  /**
   * How to ask a peer for several files at once; `none`: it takes no such requests, or failed one, for which it rests
   * for longer each time until one comes.
   */
  readonly together: (peer: Peer) => Option.Option<FetchTogether>
  /** The peer has said whether it takes bundles. */
  readonly heard: (peer: Peer, takesBundles: boolean) => void
}

/**
 * After so many milliseconds what has come whole is used, although more is to come: a node that is killed loses what was
 * not, and the first file of a slow peer does not wait for the last.
 */
const slowMillis = 50

/** Memory of so many bundles is kept between them. */
const manySpare = 4
/** More peers than any cluster has; the oldest are forgotten beyond. */
const manyPeers = 4096

export const make = Effect.fnUntraced(function*(options: Options) {
  const { connections, millis, secrets } = options
  const clock = yield* Clock.Clock
  /** What peers have said, and from when on those that failed may be asked for the next, milliseconds. */
  const known = new Map<string, { takes: boolean; rest: number; restsUntil: number }>()

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

  const receive = Effect.fnUntraced(function*(
    connection: Connection,
    first: Uint8Array,
    length: number,
    bytes: Uint8Array,
    useWhole: (received: number) => Effect.Effect<void>
  ) {
    let received = 0
    let since = clock.currentTimeMillisUnsafe()
    let chunk = first
    while (true) {
      if (received + chunk.length > length) {
        return yield* new NoBundle({ silent: false, detail: "it sends more than it said" })
      }
      bytes.set(chunk, received)
      received += chunk.length
      if (received === length) return
      if (clock.currentTimeMillisUnsafe() - since >= slowMillis) {
        yield* useWhole(received)
        since = clock.currentTimeMillisUnsafe()
      }
      const next = yield* connection.read()
      if (Option.isNone(next)) {
        return yield* new NoBundle({ silent: false, detail: `it closed after ${received} of ${length} bytes` })
      }
      chunk = next.value
    }
  })

  const exchange = Effect.fnUntraced(
    function*(peer: Peer, entries: Entries, memory: Uint8Array, use: Use, fresh: boolean) {
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
        if (lease.reused) return Option.none()
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
      if (length > memory.length) {
        return yield* new NoBundle({ silent: false, detail: "it is more than a bundle takes" })
      }
      let used = 0
      let at = 0
      const bodyOf = (size: number) => size === -1 ? undefined : memory.subarray(at, at += size)
      /** Uses those of which all is here. */
      const useWhole = (received: number) =>
        Effect.suspend(() => {
          const from = used
          for (let end = at; used < sizes.length; used++) {
            end += Math.max(0, sizes[used] ?? 0)
            if (end > received) break
          }
          return from === used ? Effect.void : use(sizes.slice(from, used).map(bodyOf), from)
        })
      // Each of them alone has longer: what is so slow is no better together.
      yield* receive(connection, frames.rest(), length, memory, useWhole).pipe(
        Effect.timeoutOrElse({
          duration: millis,
          orElse: () => Effect.fail(new NoBundle({ silent: false, detail: `not whole within ${millis} ms` }))
        })
      )
      lease.keep()
      // With the connection free for the next.
      return Option.some(useWhole(length))
    },
    Effect.scoped,
    Effect.mapError((error) =>
      error._tag === "NoBundle" ? error : new NoBundle({ silent: false, detail: error.message })
    )
  )

  const fetch = Effect.fnUntraced(
    function*(peer: Peer, entries: Entries, memory: Uint8Array, use: Use) {
      let rest = yield* exchange(peer, entries, memory, use, false)
      if (Option.isNone(rest)) {
        yield* connections.drop(peer)
        rest = yield* exchange(peer, entries, memory, use, true)
      }
      const about = known.get(keyOf(peer))
      if (about !== undefined) about.rest = 0
      return Option.getOrElse(rest, () => Effect.void)
    },
    (effect, peer, [{ path }]) =>
      effect.pipe(Effect.catchTag(
        "NoBundle",
        Effect.fnUntraced(function*({ message, silent }): Effect.fn.Return<
          Effect.Effect<void>,
          PeerUnreachable
        > {
          const about = known.get(keyOf(peer))
          const now = clock.currentTimeMillisUnsafe()
          // Several may have been on their way: it has failed once.
          if (about !== undefined && about.restsUntil <= now) {
            about.rest = peerRest(about.rest)
            about.restsUntil = now + about.rest
          }
          if (silent) return yield* new PeerUnreachable({ peer: peer.id, path, detail: message })
          yield* Effect.logDebug(`no bundle from ${peer.id}, so files are asked for one by one: ${message}`)
          return Effect.void
        })
      ))
  )

  // Shared with the threads that write to the disk, which spares a copy. Whoever asks bounds how many there are.
  const spare: Array<Uint8Array> = []
  const memory = Effect.acquireRelease(
    Effect.sync(() => spare.pop() ?? new Uint8Array(new SharedArrayBuffer(together.bytes))),
    (memory) => Effect.sync(() => void (spare.length < manySpare && spare.push(memory)))
  )

  const ask = (peer: Peer): FetchTogether => (entries, use) =>
    memory.pipe(
      Effect.flatMap((memory) => fetch(peer, entries, memory, use)),
      Effect.flatten,
      Effect.scoped
    )

  const bundles: Bundles = {
    together: (peer) => {
      const about = known.get(keyOf(peer))
      const may = about?.takes === true && about.restsUntil <= clock.currentTimeMillisUnsafe() && options.allowed()
      return may ? Option.some(ask(peer)) : Option.none()
    },
    heard: (peer, takes) => {
      const key = keyOf(peer)
      const about = known.get(key)
      // Whatever it says now, it rests as long as it has to.
      if (about !== undefined) return void (about.takes = takes)
      setWithin(known, key, { takes, rest: 0, restsUntil: 0 }, manyPeers)
    }
  }
  return bundles
})
