/** The server against raw sockets that send whatever they like. */
import { assert, describe, it, vi } from "@effect/vitest"
import { Deferred, Effect, Queue } from "effect"
import type { NodeId } from "../../src/ports/FileEntry.ts"
import { allBytes, entryOf } from "./support/doubles.ts"
import { heartbeatAckOf, heartbeatOf, leaveFrame, signedJoin } from "./support/joins.ts"
import { rawClient, startServer } from "./support/nodes.ts"
import { boundRequest, frame, isSigned, requestFor, requestFrame, takeAck, takeFrame } from "./support/requests.ts"
import { ask, bytes, empty, entry, files, server } from "./support/served.ts"

// Most faults here show as waiting for ever.
vi.setConfig({ testTimeout: 10_000 })

describe("FetchServer", () => {
  it.live("serves a file, from an offset too, with a signed answer", () =>
    Effect.gen(function*() {
      const peer = yield* server
      for (const offset of [0, 1, 999]) {
        const request = requestFor(entry.path, { byte_offset: BigInt(offset) })
        const { ack, body } = yield* ask(peer, request)
        assert.deepInclude(ack, {
          status: "ok",
          size_bytes: BigInt(1000 - offset),
          byte_offset: BigInt(offset),
          sha256: entry.sha256,
          keep_alive: false
        })
        assert.isTrue(isSigned(request, ack))
        assert.isTrue(body.equals(bytes.subarray(offset)))
      }
    }))

  it.live("serves only the part that is asked for, when a MAC binds it", () =>
    Effect.gen(function*() {
      const peer = yield* server
      for (const [offset, length] of [[0, 1], [0, 1000], [10, 90], [999, 1]] as const) {
        const request = boundRequest(entry.path, { byte_offset: BigInt(offset), byte_length: BigInt(length) })
        const { ack, body } = yield* ask(peer, request)
        assert.deepInclude(ack, {
          status: "ok",
          size_bytes: BigInt(length),
          byte_offset: BigInt(offset),
          sha256: entry.sha256
        })
        assert.isTrue(isSigned(request, ack))
        assert.isTrue(body.equals(bytes.subarray(offset, offset + length)))
      }
    }))

  it.live("serves an empty file at offset 0", () =>
    Effect.gen(function*() {
      const { ack, body } = yield* ask(yield* server, requestFor(empty.path))
      assert.deepInclude(ack, { status: "ok", size_bytes: 0n, sha256: empty.sha256 })
      assert.strictEqual(body.length, 0)
    }))

  it.live("goes on with what it has verified while the manifest is unavailable, and answers raft to the rest", () =>
    Effect.gen(function*() {
      const peer = yield* startServer({ files, manifestDown: true })
      // More often than the manifest is asked.
      for (let n = 0; n < 3; n++) {
        const { ack, body } = yield* ask(peer, requestFor(entry.path))
        assert.strictEqual(ack.status, "ok")
        assert.strictEqual(body.length, entry.size_bytes)
        assert.strictEqual((yield* ask(peer, requestFor("absent"))).ack.code, "raft")
      }
      assert.strictEqual((yield* ask(peer, requestFor("other"))).ack.code, "not_found")
    }))

  it.live("closes in the middle of a body that the disk cuts short", () =>
    Effect.gen(function*() {
      const { ack, body } = yield* ask(yield* server, requestFor("short"))
      assert.strictEqual(ack.size_bytes, 10n)
      assert.strictEqual(body.length, 5)
    }))

  it.live("closes the one connection whose handler has a defect, and goes on", () =>
    Effect.gen(function*() {
      const logs: Array<string> = []
      const peer = yield* startServer({ files }, {}, logs)
      const kept = yield* rawClient(peer)
      yield* kept.send(requestFrame(requestFor("absent", { keep_alive: true })))
      assert.strictEqual((yield* takeAck(kept)).code, "not_found")
      const client = yield* rawClient(peer)
      yield* client.send(requestFrame(requestFor("defect")))
      assert.strictEqual((yield* client.all).length, 0)
      assert.include(logs.join("\n"), "a connection's handler failed")
      yield* kept.send(requestFrame(requestFor(entry.path)))
      assert.strictEqual((yield* takeAck(kept)).status, "ok")
    }))

  it.live("closes a connection that takes too long over its first request", () =>
    Effect.gen(function*() {
      const peer = yield* startServer({ files }, { requestTimeoutMillis: 50 })
      for (const sent of [new Uint8Array(0), requestFrame(requestFor(entry.path)).subarray(0, 100)]) {
        const client = yield* rawClient(peer)
        yield* client.send(sent)
        assert.strictEqual((yield* client.all).length, 0)
      }
    }))

  const garbage: ReadonlyArray<readonly [string, Uint8Array]> = [
    ["a length of 0", Buffer.from([0, 0, 0, 0])],
    ["a frame that is too long", Buffer.from([0, 1, 0, 1, 0x20])],
    ["the longest length there is", Buffer.from([255, 255, 255, 255, 0x20])],
    ["HTTP", Buffer.from("GET / HTTP/1.1\r\n\r\n")],
    ["no JSON", frame(0x20, "nonsense")],
    ["an array", frame(0x20, "[]")],
    ["trailing garbage", frame(0x20, "{} x")],
    ["an integer with a fraction", frame(0x20, `{"timestamp":5.0}`)],
    ["an unknown type", frame(0x7f, "{}")],
    ["an answer instead of a request", frame(0x21, "{}")]
  ]
  for (const [what, sent] of garbage) {
    it.live(`closes without a word on ${what}, and goes on`, () =>
      Effect.gen(function*() {
        const peer = yield* server
        const client = yield* rawClient(peer)
        yield* client.send(sent)
        assert.strictEqual((yield* client.all).length, 0)
        assert.strictEqual((yield* ask(peer, requestFor(entry.path))).ack.status, "ok")
      }))
  }

  it.live("reads a request that comes byte by byte", () =>
    Effect.gen(function*() {
      const client = yield* rawClient(yield* server)
      for (const byte of requestFrame(requestFor(entry.path))) yield* client.send(Uint8Array.of(byte))
      assert.strictEqual((yield* takeAck(client)).status, "ok")
      assert.isTrue((yield* client.all).equals(bytes))
    }))

  it.live("sends the whole body although another request lies behind the first", () =>
    Effect.gen(function*() {
      const client = yield* rawClient(yield* server)
      const request = () => requestFrame(requestFor(entry.path))
      yield* client.send(Buffer.concat([request(), request(), Buffer.alloc(100_000)]))
      assert.strictEqual((yield* takeAck(client)).status, "ok")
      assert.isTrue((yield* client.all).equals(bytes))
    }))

  it.live("loses no part of a body that the client reads late, whatever it has sent meanwhile", () =>
    Effect.gen(function*() {
      const large = entryOf("large", 600_000)
      const sent = yield* Deferred.make<void>()
      const peer = yield* startServer({
        files: [{ entry: large }],
        afterBody: Effect.asVoid(Deferred.succeed(sent, undefined))
      })
      const client = yield* rawClient(peer)
      client.socket.pause()
      yield* client.send(Buffer.concat([requestFrame(requestFor("large")), Buffer.alloc(300_000)]))
      yield* Deferred.await(sent)
      // One more round of the event loop: the server has ended its side by now.
      yield* Effect.callback<void>((resume) => {
        setImmediate(() => setImmediate(() => resume(Effect.void)))
      })
      client.socket.resume()
      yield* takeAck(client)
      assert.isTrue((yield* client.all).equals(allBytes(600_000)))
    }))

  it.live("serves a client that has ended its own side", () =>
    Effect.gen(function*() {
      const client = yield* rawClient(yield* server)
      client.socket.end(requestFrame(requestFor(entry.path)))
      assert.strictEqual((yield* takeAck(client)).status, "ok")
      assert.isTrue((yield* client.all).equals(bytes))
    }))

  it.live("serves one request after another on a connection that is kept alive", () =>
    Effect.gen(function*() {
      const client = yield* rawClient(yield* server)
      const kept = (path: string) => requestFrame(requestFor(path, { keep_alive: true }))
      yield* client.send(Buffer.concat([kept(entry.path), kept("absent")]))
      assert.deepInclude(yield* takeAck(client), { status: "ok", keep_alive: true })
      assert.isTrue((yield* client.take(1000)).equals(bytes))
      assert.deepInclude(yield* takeAck(client), { code: "not_found", keep_alive: true })
      yield* client.send(requestFrame(requestFor(entry.path)))
      assert.deepInclude(yield* takeAck(client), { status: "ok", keep_alive: false })
      assert.isTrue((yield* client.all).equals(bytes))
    }))

  it.live("keeps no connection alive for somebody without the secret", () =>
    Effect.gen(function*() {
      const client = yield* rawClient(yield* server)
      yield* client.send(requestFrame(requestFor(entry.path, { keep_alive: true, hmac: "" })))
      assert.deepInclude(yield* takeAck(client), { code: "auth", keep_alive: false })
      assert.strictEqual((yield* client.all).length, 0)
    }))

  it.live("answers a heartbeat that is signed, and closes on one that is not", () =>
    Effect.gen(function*() {
      const peer = yield* server
      const client = yield* rawClient(peer)
      for (const nonce of ["a", "b"]) {
        yield* client.send(heartbeatOf(signedJoin("heartbeat", "node-b", nonce)))
        assert.strictEqual(heartbeatAckOf(yield* takeFrame(client)).node_id, "node-a")
      }
      const stranger = yield* rawClient(peer)
      yield* stranger.send(heartbeatOf(signedJoin("heartbeat", "node-b", "c", "leave")))
      assert.strictEqual((yield* stranger.all).length, 0)
    }))

  it.live("closes on a heartbeat that it has heard before: somebody else may have overheard it", () =>
    Effect.gen(function*() {
      const peer = yield* server
      const overheard = heartbeatOf(signedJoin("heartbeat", "node-b", "a"))
      const client = yield* rawClient(peer)
      yield* client.send(Buffer.concat([overheard, overheard, heartbeatOf(signedJoin("heartbeat", "node-b", "b"))]))
      heartbeatAckOf(yield* takeFrame(client))
      assert.strictEqual((yield* client.all).length, 0)
    }))

  it.live("takes a node's word that it leaves once, and nobody else's", () =>
    Effect.gen(function*() {
      const departed = yield* Queue.unbounded<NodeId>()
      const peer = yield* startServer({ files, departed })
      const say = Effect.fnUntraced(function*(fields: ReturnType<typeof signedJoin>) {
        const client = yield* rawClient(peer)
        yield* client.send(leaveFrame({ reason: "stopping", ...fields }))
        yield* client.all
        return yield* Queue.size(departed)
      }, Effect.scoped)

      assert.strictEqual(yield* say(signedJoin("leave", "node-b", "a", "heartbeat")), 0)
      assert.strictEqual(yield* say(signedJoin("leave", "node-a", "b")), 0)
      const leave = signedJoin("leave", "node-b", "c")
      assert.strictEqual(yield* say(leave), 1)
      assert.strictEqual(yield* Queue.take(departed), "node-b")
      assert.strictEqual(yield* say(leave), 0)
    }))

  it.live("names the address and the port that it can't listen on", () =>
    Effect.gen(function*() {
      const peer = yield* server
      const error = yield* Effect.flip(startServer({ files }, { port: peer.address.port }))
      assert.deepInclude(error, { _tag: "ListenFailed", reason: "AddressInUse" })
      assert.include(`${error}`, `127.0.0.1:${peer.address.port}`)
    }))
})
