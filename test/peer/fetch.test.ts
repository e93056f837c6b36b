/** Our client against our server, over plain TCP and over mutual TLS. */
import { assert, describe, it, vi } from "@effect/vitest"
import { Effect, Exit, Queue, Redacted, Scope } from "effect"
import { TestClock } from "effect/testing"
import { connect } from "node:tls"
import * as Throttle from "../../src/peer/Throttle.ts"
import { nodeUri, type TlsIdentity } from "../../src/peer/transport/Tls.ts"
import type { NodeId } from "../../src/ports/FileEntry.ts"
import type { Peer } from "../../src/ports/PeerResolver.ts"
import { makeAuthority } from "./support/certificates.ts"
import { allBytes, entryOf, sha256Of } from "./support/doubles.ts"
import { heartbeatOf, leaveFrame, signedJoin } from "./support/joins.ts"
import { collector, makeClient, rawClient, rawPeer, secret, startServer } from "./support/nodes.ts"
import { requestFor, requestFrame } from "./support/requests.ts"

// Most faults here show as waiting for ever.
vi.setConfig({ testTimeout: 10_000 })

const MiB = 1 << 20
const file = entryOf("db/m/a.parquet", 3 * MiB + 17)
const empty = entryOf("db/m/empty.parquet", 0)

const suite = (name: string, tls: Effect.Effect<TlsIdentity | undefined, never, Scope.Scope>) =>
  describe(`fetch over ${name}`, () => {
    const setUp = Effect.fnUntraced(function*(
      server: Parameters<typeof startServer>[1] = {},
      client: Parameters<typeof makeClient>[0] = {}
    ) {
      const identity = yield* tls
      const peer = yield* startServer({ files: [{ entry: file }, { entry: empty }] }, { tls: identity, ...server })
      return { peer, client: yield* makeClient({ tls: identity, ...client }) }
    })

    it.live("brings exactly the file's bytes", () =>
      Effect.gen(function*() {
        const { client, peer } = yield* setUp({}, { requireSignedAcks: true })
        const sink = collector()
        yield* client.fetch(peer, file, 0, sink)
        assert.isTrue(sink.bytes().equals(allBytes(file.size_bytes)))
      }))

    it.live("brings the rest of the file from an offset", () =>
      Effect.gen(function*() {
        const { client, peer } = yield* setUp()
        for (const offset of [1, MiB, file.size_bytes - 1]) {
          const sink = collector()
          yield* client.fetch(peer, file, offset, sink)
          assert.isTrue(sink.bytes().equals(allBytes(file.size_bytes).subarray(offset)), `from ${offset}`)
        }
      }))

    it.live("writes nothing for an empty file and for the end of a file", () =>
      Effect.gen(function*() {
        const { client, peer } = yield* setUp()
        const sink = collector()
        yield* client.fetch(peer, empty, 0, sink)
        yield* client.fetch(peer, file, file.size_bytes, sink)
        assert.strictEqual(sink.bytes().length, 0)
      }))

    it.live("gives the place of a connection back when it has ended", () =>
      Effect.gen(function*() {
        const { client, peer } = yield* setUp({ maxConnections: 4 })
        for (let index = 0; index < 20; index++) yield* client.fetch(peer, file, file.size_bytes - 1, collector())
      }))

    it.live("fails with the sink's own error", () =>
      Effect.gen(function*() {
        const { client, peer } = yield* setUp()
        const error = yield* Effect.flip(
          client.fetch(peer, file, 0, { write: () => Effect.fail("disk full" as const) })
        )
        assert.strictEqual(error, "disk full")
      }))

    it.live("loses no byte when the sink is slow", () =>
      Effect.gen(function*() {
        const { client, peer } = yield* setUp()
        const sink = collector()
        yield* client.fetch(peer, file, 0, {
          write: (chunk) => Effect.andThen(Effect.sleep(1), sink.write(chunk))
        })
        assert.isTrue(sink.bytes().equals(allBytes(file.size_bytes)))
      }))

    it.live("brings many files at once over as many connections", () =>
      Effect.gen(function*() {
        const { client, peer } = yield* setUp()
        yield* Effect.forEach(
          Array.from({ length: 8 }, (_, index) => index * 1000),
          Effect.fnUntraced(function*(offset) {
            const sink = collector()
            yield* client.fetch(peer, file, offset, sink)
            assert.isTrue(sink.bytes().equals(allBytes(file.size_bytes).subarray(offset)))
          }),
          { concurrency: 8 }
        )
      }))

    it.live("waits a moment for a file that its writer is about to show, instead of being told that it is not there", () =>
      Effect.gen(function*() {
        const identity = yield* tls
        const peer = yield* startServer({ files: [{ entry: file, state: "coming" }] }, { tls: identity })
        const sink = collector()
        yield* (yield* makeClient({ tls: identity })).fetch(peer, file, 0, sink)
        assert.isTrue(sink.bytes().equals(allBytes(file.size_bytes)))
      }))

    it.live("is rejected with another secret or another cluster name, and says which settings to check", () =>
      Effect.gen(function*() {
        for (const client of [{ secret: Redacted.make("another") }, { clusterName: "another" }]) {
          for (const requireSignedAcks of [false, true]) {
            const { client: stranger, peer } = yield* setUp({}, { ...client, requireSignedAcks })
            const error = yield* Effect.flip(stranger.fetch(peer, file, 0, collector()))
            assert.deepInclude(error, { _tag: "PeerRejected", code: "auth" })
            assert.include(`${error}`, "check the shared secret, the cluster name and the clocks")
          }
        }
      }))

    it.live("is rejected by a server without a secret", () =>
      Effect.gen(function*() {
        const { client, peer } = yield* setUp({ secret: Redacted.make("") }, { secret: Redacted.make("") })
        const error = yield* Effect.flip(client.fetch(peer, file, 0, collector()))
        assert.deepInclude(error, { _tag: "PeerRejected", code: "auth" })
      }))

    it.live("goes on while a new secret is rolled out, in both directions", () =>
      Effect.gen(function*() {
        const next = Redacted.make("the next secret")
        const ahead = yield* setUp({ secret: next, previousSecret: secret }, { previousSecret: next })
        yield* ahead.client.fetch(ahead.peer, file, 0, collector())
        const behind = yield* setUp({ previousSecret: next }, { secret: next, previousSecret: secret })
        yield* behind.client.fetch(behind.peer, file, 0, collector())
      }))

    it.live("ends before a byte when the peer's manifest has another digest", () =>
      Effect.gen(function*() {
        const { client, peer } = yield* setUp()
        const sink = collector()
        const error = yield* Effect.flip(client.fetch(peer, { ...file, sha256: sha256Of(1) }, 0, sink))
        assert.strictEqual(error._tag, "ChecksumMismatch")
        assert.strictEqual(sink.bytes().length, 0)
      }))
  })

suite("TCP", Effect.undefined)
suite("mutual TLS", Effect.map(makeAuthority, (identity) => identity("IP:127.0.0.1")))

describe("mutual TLS", () => {
  it.live("refuses a client with a certificate of another authority, and one without TLS", () =>
    Effect.gen(function*() {
      const ours = yield* makeAuthority
      const theirs = yield* makeAuthority
      const identity = ours("IP:127.0.0.1")
      const peer = yield* startServer({ files: [{ entry: file }] }, { tls: identity })
      const stranger = theirs("IP:127.0.0.1")
      const strangers: ReadonlyArray<TlsIdentity | undefined> = [
        { ...stranger, authority: identity.authority },
        stranger,
        undefined
      ]
      for (const tls of strangers) {
        const client = yield* makeClient({ tls })
        const error = yield* Effect.flip(client.fetch(peer, file, 0, collector()))
        assert.strictEqual(error._tag, "PeerUnreachable")
      }
      const friend = yield* makeClient({ tls: identity })
      yield* friend.fetch(peer, file, 0, collector())
    }))

  it.live("refuses a client without a certificate, and one that speaks an old version", () =>
    Effect.gen(function*() {
      const identity = (yield* makeAuthority)("IP:127.0.0.1")
      const peer = yield* startServer({ files: [{ entry: file }] }, { tls: identity })
      const own = { cert: identity.certificate, key: Redacted.value(identity.key) }
      for (const options of [{}, { ...own, minVersion: "TLSv1.1", maxVersion: "TLSv1.1" } as const]) {
        const received = yield* Effect.callback<number>((resume) => {
          let bytes = 0
          const socket = connect({ ...peer.address, ca: identity.authority, ...options }, () => {
            socket.write(requestFrame(requestFor(file.path)))
          })
          socket.on("data", (chunk) => {
            bytes += chunk.length
          })
          socket.on("error", () => undefined)
          socket.on("close", () => resume(Effect.succeed(bytes)))
        })
        assert.strictEqual(received, 0)
      }
    }))

  it.live("closes on a client that does not begin a handshake in time", () =>
    Effect.gen(function*() {
      const tls = (yield* makeAuthority)("IP:127.0.0.1")
      const peer = yield* startServer({ files: [] }, { tls, requestTimeoutMillis: 50 })
      yield* (yield* rawClient(peer)).all
    }))

  it.live("gives up on a peer that takes the connection and speaks no TLS", () =>
    Effect.gen(function*() {
      const tls = (yield* makeAuthority)("IP:127.0.0.1")
      const { closed, peer } = yield* rawPeer((socket) => socket.resume())
      const client = yield* makeClient({ tls, dialTimeoutMillis: 50 })
      const error = yield* Effect.flip(client.fetch(peer, file, 0, collector()))
      assert.deepInclude(error, { _tag: "PeerUnreachable", detail: "no answer within 50 ms" })
      yield* Queue.take(closed)
    }))

  it.live("lets nobody who has not finished a handshake outlive the server", () =>
    Effect.gen(function*() {
      const tls = (yield* makeAuthority)("IP:127.0.0.1")
      const scope = yield* Scope.make()
      const peer = yield* startServer({ files: [] }, { tls, requestTimeoutMillis: 3_600_000 }).pipe(
        Scope.provide(scope)
      )
      const client = yield* rawClient(peer)
      // An answer shows that the connection was accepted before this one.
      yield* (yield* makeClient({ tls })).fetch(peer, file, 0, collector()).pipe(Effect.flip)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* client.all).length, 0)
    }))

  it.live("refuses a server of another authority, and one whose certificate names another address", () =>
    Effect.gen(function*() {
      const ours = yield* makeAuthority
      const theirs = yield* makeAuthority
      const identity = ours("IP:127.0.0.1")
      const client = yield* makeClient({ tls: identity })
      for (const tls of [theirs("IP:127.0.0.1"), ours("IP:127.0.0.2"), ours("DNS:elsewhere.example")]) {
        const peer = yield* startServer({ files: [{ entry: file }] }, { tls })
        const error = yield* Effect.flip(client.fetch(peer, file, 0, collector()))
        assert.strictEqual(error._tag, "PeerUnreachable")
      }
    }))

  it.effect("uses a certificate that was renewed, and keeps the old one while the new one can't be used", () =>
    Effect.gen(function*() {
      const ours = yield* makeAuthority
      const elsewhere = ours("IP:127.0.0.2")
      let identity = elsewhere
      const peer = yield* startServer({ files: [{ entry: file }] }, { tls: Effect.sync(() => identity) })
      const fetched = Effect.flatMap(
        makeClient({ tls: ours("IP:127.0.0.1") }),
        (client) => Effect.result(client.fetch(peer, file, 0, collector()))
      )
      assert.strictEqual((yield* fetched)._tag, "Failure")
      const renewed = ours("IP:127.0.0.1")
      // Replaced by halves: a key that does not belong to the certificate.
      identity = { ...renewed, key: elsewhere.key }
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* fetched)._tag, "Failure")
      identity = renewed
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* fetched)._tag, "Success")
    }))

  it.live("refuses a node whose certificate was made for another, on both sides", () =>
    Effect.gen(function*() {
      const ours = yield* makeAuthority
      const made = (node: string) => ours(`IP:127.0.0.1,URI:${nodeUri(node)}`)
      const logs: Array<string> = []
      const server = (tls: TlsIdentity) => startServer({ files: [{ entry: file }] }, { tls }, logs)
      const fetched = Effect.fnUntraced(function*(peer: Peer, tls: TlsIdentity) {
        return yield* Effect.result((yield* makeClient({ tls })).fetch(peer, file, 0, collector()))
      })
      // The server is node-a, the client node-b.
      const right = yield* server(made("node-a"))
      assert.strictEqual((yield* fetched(right, made("node-b")))._tag, "Success")
      assert.strictEqual((yield* fetched(right, ours("IP:127.0.0.1")))._tag, "Success")
      const thief = yield* fetched(right, made("node-c"))
      assert(thief._tag === "Failure")
      assert.deepInclude(thief.failure, { _tag: "PeerRejected", code: "auth" })
      assert.include(logs.join("\n"), "node-c's certificate")
      const wrong = yield* fetched(yield* server(made("node-c")), made("node-b"))
      assert(wrong._tag === "Failure" && wrong.failure._tag === "PeerUnreachable")
      assert.include(wrong.failure.detail, "node-c")
    }))

  it.live("takes a node's leave and its heartbeat only over its own certificate", () =>
    Effect.gen(function*() {
      const ours = yield* makeAuthority
      const made = (node: string) => ours(`IP:127.0.0.1,URI:${nodeUri(node)}`)
      const departed = yield* Queue.unbounded<NodeId>()
      const peer = yield* startServer({ files: [], departed }, { tls: made("node-a") })
      const say = Effect.fnUntraced(function*(frame: Uint8Array, tls: TlsIdentity) {
        const client = yield* rawClient(peer, tls)
        yield* client.send(frame)
        return yield* client.take(1)
      }, Effect.scoped)
      const leave = (nonce: string) => leaveFrame({ reason: "stopping", ...signedJoin("leave", "node-b", nonce) })
      const heartbeat = (nonce: string) => heartbeatOf(signedJoin("heartbeat", "node-b", nonce))
      assert.strictEqual((yield* say(heartbeat("a"), made("node-c"))).length, 0)
      assert.strictEqual((yield* say(heartbeat("b"), made("node-b"))).length, 1)
      yield* say(leave("c"), made("node-c"))
      assert.strictEqual(yield* Queue.size(departed), 0)
      yield* say(leave("d"), made("node-b"))
      assert.strictEqual(yield* Queue.take(departed), "node-b")
    }))

  it.live("says at its start that a certificate can't be used", () =>
    Effect.gen(function*() {
      const tls = { certificate: "no certificate", key: Redacted.make("no key"), authority: "nobody" }
      const server = yield* Effect.flip(startServer({ files: [] }, { tls }))
      assert.deepInclude(server, { _tag: "TlsInvalid" })
      const client = yield* Effect.flip(makeClient({ tls }))
      assert.strictEqual(client._tag, "TlsInvalid")
    }))
})

describe("a client with a limit", () => {
  it.live("takes a body in small pieces while there is a limit", () =>
    Effect.gen(function*() {
      const file = entryOf("large", 4 * MiB)
      const peer = yield* startServer({ files: [{ entry: file }] })
      const most = Effect.fnUntraced(function*(bytesPerSecond: number) {
        const limits = { pull: yield* Throttle.make(bytesPerSecond), serve: yield* Throttle.make(0) }
        const client = yield* makeClient({}, limits)
        let most = 0
        yield* client.fetch(peer, file, 0, {
          write: (chunk) => Effect.sync(() => (most = Math.max(most, chunk.length)))
        })
        return most
      })
      assert.isAtMost(yield* most(2 ** 40), 64 * 1024)
      assert.isAbove(yield* most(0), 64 * 1024)
    }))
})
