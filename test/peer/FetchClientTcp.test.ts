/** The client against raw peers that answer whatever they like. */
import { assert, describe, it, vi } from "@effect/vitest"
import { Deferred, Effect, Fiber, Option, Queue, Redacted, Result } from "effect"
import type { Socket } from "node:net"
import * as Frame from "../../src/peer/protocol/Frame.ts"
import * as Mac from "../../src/peer/protocol/Mac.ts"
import * as Messages from "../../src/peer/protocol/Messages.ts"
import type { Elsewhere } from "../../src/ports/FetchClient.ts"
import { allBytes, entryOf, sha256Of } from "./support/doubles.ts"
import { collector, makeClient, nodeA, rawPeer, secret } from "./support/nodes.ts"
import { ackFrame, frame } from "./support/requests.ts"

const entry = entryOf("db/m/a.parquet", 100_000)
const bytes = allBytes(100_000)
const right: Partial<Messages.FetchFileAck> = { status: "ok", size_bytes: 100_000n, sha256: entry.sha256 }

/** A peer that reads one request and then does what the test says. */
const answering = (answer: (socket: Socket, request: Messages.FetchFile) => void) =>
  rawPeer((socket) => {
    const decoder = Frame.makeDecoder(Frame.maxLength)
    socket.on("data", (chunk: Buffer) => {
      const decoded = Result.getOrThrow(decoder.push(chunk))
      if (Option.isSome(decoded)) {
        answer(socket, Result.getOrThrow(Messages.decodeFetchFile(decoded.value.frame.payload)))
      }
    })
  })

const fetchFrom = Effect.fnUntraced(function*(
  answer: (socket: Socket, request: Messages.FetchFile) => void,
  options: Parameters<typeof makeClient>[0] & { readonly offset?: number } = {}
) {
  const { closed, peer } = yield* answering(answer)
  const client = yield* makeClient(options)
  const sink = collector()
  const error = yield* Effect.flip(client.fetch(peer, entry, options.offset ?? 0, sink))
  // However it ended, the connection is gone.
  yield* Queue.take(closed)
  return { error, received: sink.bytes() }
}, Effect.scoped)

const signed = (
  request: Messages.FetchFile,
  ack: Messages.FetchFileAck,
  key = secret,
  server = "node-a"
): Messages.FetchFileAck => ({
  ...ack,
  server_node_id: server,
  ack_hmac: Mac.toHex(Mac.ackMac(key, {
    nonce: request.nonce,
    serverNodeId: server,
    status: ack.status,
    code: ack.code,
    sizeBytes: ack.size_bytes,
    sha256: ack.sha256,
    byteOffset: ack.byte_offset
  }))
})
const full = (ack: Partial<Messages.FetchFileAck>): Messages.FetchFileAck => ({
  ...Messages.emptyFetchFileAck,
  status: "ok",
  ...ack
})

// Most faults here show as waiting for ever.
vi.setConfig({ testTimeout: 10_000 })

describe("FetchClientTcp", () => {
  it.live("takes a file from a peer that knows no extensions and writes in three pieces", () =>
    Effect.gen(function*() {
      const { peer } = yield* answering((socket) => {
        const ack = ackFrame(right)
        socket.setNoDelay(true)
        socket.write(ack.subarray(0, 4))
        setImmediate(() => {
          socket.write(ack.subarray(4, 5))
          setImmediate(() => socket.end(Buffer.concat([ack.subarray(5), bytes])))
        })
      })
      const sink = collector()
      yield* (yield* makeClient()).fetch(peer, entry, 0, sink)
      assert.isTrue(sink.bytes().equals(bytes))
    }))

  it.live("takes a file from a peer that signs and keeps the connection open", () =>
    Effect.gen(function*() {
      const { closed, peer } = yield* answering((socket, request) => {
        socket.write(ackFrame(signed(request, full(right))))
        socket.write(bytes)
      })
      const sink = collector()
      yield* (yield* makeClient({ requireSignedAcks: true })).fetch(peer, entry, 0, sink)
      yield* Queue.take(closed)
      assert.isTrue(sink.bytes().equals(bytes))
    }))

  it.live("signs each request anew and asks for the offset", () =>
    Effect.gen(function*() {
      const requests: Array<Messages.FetchFile> = []
      for (const offset of [0, 7]) {
        yield* fetchFrom((socket, request) => {
          requests.push(request)
          socket.destroy()
        }, { offset })
      }
      const [first, second] = requests
      assert.match(first?.nonce ?? "", /^[0-9a-f]{64}$/)
      assert.notStrictEqual(first?.nonce, second?.nonce)
      assert.deepInclude(first, { byte_offset: 0n, byte_length: 0n, range_hmac: "" })
      assert.match(second?.range_hmac ?? "", /^[0-9a-f]{64}$/)
      assert.deepInclude(second, { path: entry.path, node_id: "node-b", byte_offset: 7n, keep_alive: true })
    }))

  it.live("says that it can wait for large files only, and only when it is told to", () =>
    Effect.gen(function*() {
      const asked: Array<Pick<Messages.FetchFile, "can_wait" | "not_at">> = []
      const { peer } = yield* answering((socket, { can_wait, not_at }) => {
        asked.push({ can_wait, not_at })
        socket.end(ackFrame({ status: "error", code: "crowded", holders: ["node-c", "no id", "node-d"] }))
      })
      const client = yield* makeClient()
      const large = { ...entry, size_bytes: 1 << 20 }
      const fetch = (file: typeof entry, elsewhere?: Elsewhere) =>
        Effect.flip(client.fetch(peer, file, 0, collector(), elsewhere))
      yield* fetch(large)
      yield* fetch({ ...entry, size_bytes: (1 << 20) - 1 }, { notAt: [nodeA] })
      const error = yield* fetch(large, { notAt: [nodeA] })
      assert.deepStrictEqual(asked, [
        { can_wait: false, not_at: [] },
        { can_wait: false, not_at: [] },
        { can_wait: true, not_at: ["node-a"] }
      ])
      assert.deepInclude(error, { _tag: "Crowded", retryAfterMillis: 0 })
      assert.deepStrictEqual("holders" in error ? error.holders.map(String) : [], ["node-c", "node-d"])
    }))

  const refusals: ReadonlyArray<readonly [Partial<Messages.FetchFileAck>, object]> = [
    [{ code: "not_found" }, { _tag: "FileNotOnPeer", code: "not_found" }],
    [{ code: "manifest" }, { _tag: "FileNotOnPeer", code: "manifest" }],
    [{ code: "auth" }, { _tag: "PeerRejected", code: "auth" }],
    [{ code: "backend" }, { _tag: "PeerRejected", code: "backend" }],
    [{ code: "raft" }, { _tag: "PeerRejected", code: "raft" }],
    [{ code: "invalid_path" }, { _tag: "PeerRejected", code: "invalid_path" }],
    [{ code: "bad_offset" }, { _tag: "BadOffset", offset: 0 }],
    [{ code: "busy", retry_after_ms: 1500n }, { _tag: "PeerRejected", code: "busy", retryAfterMillis: 1500 }],
    [{ code: "busy", retry_after_ms: 2n ** 62n }, { _tag: "PeerRejected", code: "busy", retryAfterMillis: 300_000 }],
    [{ code: "busy", retry_after_ms: -5n }, { _tag: "PeerRejected", code: "busy" }],
    // Nobody said that we could wait.
    [{ code: "crowded", holders: ["node-c"] }, { _tag: "PeerRejected", code: "unknown" }],
    [{ code: "tomorrow" }, { _tag: "PeerRejected", code: "unknown" }],
    [{ code: "tomorrow", error: "file not in manifest" }, { _tag: "PeerRejected", code: "unknown" }],
    [{ error: "file not in manifest" }, { _tag: "FileNotOnPeer", code: "manifest" }],
    [{ error: "file not found on local backend" }, { _tag: "FileNotOnPeer", code: "not_found" }],
    [{ error: "file not in manifest " }, { _tag: "PeerRejected", code: "unknown" }],
    [{ error: "File not in manifest" }, { _tag: "PeerRejected", code: "unknown" }],
    [{ error: "authentication failed" }, { _tag: "PeerRejected", code: "unknown" }],
    [{}, { _tag: "PeerRejected", code: "unknown" }]
  ]
  for (const [ack, expected] of refusals) {
    it.live(`reads the refusal ${JSON.stringify(ack, (_, value) => typeof value === "bigint" ? `${value}` : value)}`, () =>
      Effect.gen(function*() {
        const { error, received } = yield* fetchFrom((socket) => socket.end(ackFrame({ ...ack, status: "error" })))
        assert.deepInclude(error, { peer: nodeA, path: entry.path, ...expected })
        assert.strictEqual(received.length, 0)
      }))
  }

  const violations: ReadonlyArray<readonly [string, Uint8Array, string]> = [
    ["another digest", ackFrame({ ...right, sha256: sha256Of(1) }), "ChecksumMismatch"],
    ["no digest", ackFrame({ ...right, sha256: "" }), "ChecksumMismatch"],
    ["the digest in upper case", ackFrame({ ...right, sha256: entry.sha256.toUpperCase() }), "ChecksumMismatch"],
    ["a smaller size", ackFrame({ ...right, size_bytes: 99_999n }), "ProtocolViolation"],
    ["a larger size", ackFrame({ ...right, size_bytes: 100_001n }), "ProtocolViolation"],
    ["a negative size", ackFrame({ ...right, size_bytes: -1n }), "ProtocolViolation"],
    ["the largest size there is", ackFrame({ ...right, size_bytes: 2n ** 63n - 1n }), "ProtocolViolation"],
    ["another offset", ackFrame({ ...right, byte_offset: 1n }), "ProtocolViolation"],
    ["an unknown status", ackFrame({ ...right, status: "maybe" }), "ProtocolViolation"],
    ["a request", frame(0x20, "{}"), "ProtocolViolation"],
    ["no JSON", frame(0x21, "nonsense"), "ProtocolViolation"],
    ["a length of 0", Buffer.from([0, 0, 0, 0]), "ProtocolViolation"],
    ["a frame that is too long", Buffer.from([0, 16, 0, 0]), "ProtocolViolation"],
    [
      "a signature that is no hex",
      ackFrame({ ...right, ack_hmac: "yes", server_node_id: "node-a" }),
      "ProtocolViolation"
    ],
    ["the end of the connection", new Uint8Array(0), "PeerUnreachable"],
    ["a part of an answer", ackFrame(right).subarray(0, 20), "PeerUnreachable"]
  ]
  for (const [what, answer, tag] of violations) {
    it.live(`refuses a peer that answers with ${what}, and takes no byte`, () =>
      Effect.gen(function*() {
        const { error, received } = yield* fetchFrom((socket) => socket.end(answer))
        assert.strictEqual(error._tag, tag)
        assert.strictEqual(received.length, 0)
      }))
  }

  it.live("refuses a right answer that is signed with another secret, or for another request", () =>
    Effect.gen(function*() {
      const other = yield* fetchFrom((socket, request) =>
        socket.end(ackFrame(signed(request, full(right), Redacted.make("another"))))
      )
      assert.strictEqual(other.error._tag, "ProtocolViolation")
      const replayed = yield* fetchFrom((socket, request) =>
        socket.end(ackFrame(signed({ ...request, nonce: "0".repeat(64) }, full(right))))
      )
      assert.strictEqual(replayed.error._tag, "ProtocolViolation")
      const altered = yield* fetchFrom((socket, request) =>
        socket.end(ackFrame({ ...signed(request, full({ status: "error", code: "not_found" })), code: "manifest" }))
      )
      assert.strictEqual(altered.error._tag, "ProtocolViolation")
    }))

  it.live("refuses an answer or a refusal that another node has signed for this very request", () =>
    Effect.gen(function*() {
      for (const ack of [right, { status: "error", code: "not_found" }, { status: "error", code: "auth" }]) {
        const { error, received } = yield* fetchFrom((socket, request) =>
          socket.end(Buffer.concat([ackFrame(signed(request, full(ack), secret, "node-c")), bytes]))
        )
        assert.deepInclude(error, { _tag: "ProtocolViolation", detail: "another node answers at its address" })
        assert.strictEqual(received.length, 0)
      }
    }))

  it.live("refuses answers and refusals that are not signed, when told to", () =>
    Effect.gen(function*() {
      for (const ack of [right, { status: "error", code: "not_found" }]) {
        const { error } = yield* fetchFrom((socket) => socket.end(ackFrame(ack)), { requireSignedAcks: true })
        assert.strictEqual(error._tag, "ProtocolViolation")
      }
    }))

  it.live("says how much came of a body that ended too early, and has passed it on", () =>
    Effect.gen(function*() {
      const { error, received } = yield* fetchFrom((socket) =>
        socket.end(Buffer.concat([ackFrame(right), bytes.subarray(0, 60_000)]))
      )
      assert.deepInclude(error, { _tag: "ShortBody", expected: 100_000, received: 60_000 })
      assert.isTrue(received.equals(bytes.subarray(0, 60_000)))
    }))

  it.live("refuses a peer that sends more than it said", () =>
    Effect.gen(function*() {
      const { error } = yield* fetchFrom((socket) => socket.write(Buffer.concat([ackFrame(right), bytes, bytes])))
      assert.strictEqual(error._tag, "ProtocolViolation")
    }))

  it.live("gives up on a peer that never answers, and on one that stops in the middle", () =>
    Effect.gen(function*() {
      const silent = yield* fetchFrom(() => undefined, { ackTimeoutMillis: 50 })
      assert.deepInclude(silent.error, { _tag: "Stalled", phase: "ack", millis: 50 })
      const stopped = yield* fetchFrom(
        (socket) => socket.write(Buffer.concat([ackFrame(right), bytes.subarray(0, 70_000)])),
        { fetchTimeoutMillis: 50 }
      )
      assert.deepInclude(stopped.error, { _tag: "Stalled", phase: "body", millis: 50 })
      assert.strictEqual(stopped.received.length, 70_000)
    }))

  it.live("gives up on a peer that sends a few bytes now and then", () =>
    Effect.gen(function*() {
      const { error } = yield* fetchFrom((socket) => {
        socket.write(ackFrame(right))
        let at = 0
        const timer = setInterval(() => socket.write(bytes.subarray(at, ++at)), 5)
        socket.on("close", () => clearInterval(timer))
      }, { fetchTimeoutMillis: 100 })
      assert.deepInclude(error, { _tag: "Stalled", phase: "body" })
    }))

  it.live("does not blame the peer for a slow sink", () =>
    Effect.gen(function*() {
      const large = entryOf("db/m/large.parquet", 1_200_000)
      const body = allBytes(large.size_bytes)
      const part = 300_000
      let sendNext = () => {}
      const { peer } = yield* answering((socket) => {
        let at = 0
        sendNext = () => {
          socket.write(body.subarray(at, at + part))
          at += part
        }
        socket.write(ackFrame({ size_bytes: BigInt(large.size_bytes), sha256: large.sha256 }))
        sendNext()
      })
      const client = yield* makeClient({ fetchTimeoutMillis: 200 })
      const sink = collector()
      let received = 0
      yield* client.fetch(peer, large, 0, {
        write: (chunk) =>
          Effect.gen(function*() {
            received += chunk.length
            yield* sink.write(chunk)
            if (received % part !== 0) return
            yield* Effect.sleep(300)
            // Only after this the client waits for the peer, and the peer sends only then.
            setImmediate(sendNext)
          })
      })
      assert.isTrue(sink.bytes().equals(body))
    }))

  it.live("says that nobody answers at an address", () =>
    Effect.gen(function*() {
      const { peer } = yield* Effect.scoped(rawPeer(() => undefined))
      const client = yield* makeClient()
      const error = yield* Effect.flip(client.fetch(peer, entry, 0, collector()))
      assert.strictEqual(error._tag, "PeerUnreachable")
      const nowhere = { id: nodeA, address: { host: "no-such-host.invalid", port: 1 } }
      assert.strictEqual((yield* Effect.flip(client.fetch(nowhere, entry, 0, collector())))._tag, "PeerUnreachable")
    }))

  for (const phase of ["ack", "body"] as const) {
    it.live(`closes the connection at once when it is interrupted while it waits for the ${phase}`, () =>
      Effect.gen(function*() {
        const asked = yield* Deferred.make<void>()
        const { closed, peer } = yield* answering((socket) => {
          if (phase === "body") socket.write(Buffer.concat([ackFrame(right), bytes.subarray(0, 10)]))
          else Deferred.doneUnsafe(asked, Effect.void)
        })
        const client = yield* makeClient()
        const sink = { write: () => Effect.asVoid(Deferred.succeed(asked, undefined)) }
        const fiber = yield* Effect.forkChild(client.fetch(peer, entry, 0, sink))
        yield* Deferred.await(asked)
        yield* Fiber.interrupt(fiber)
        yield* Queue.take(closed)
      }))
  }

  it.live("leaves bytes alone while a sink has them, whatever the peer and other fetches do meanwhile", () =>
    Effect.gen(function*() {
      const size = 100_000
      let connections = 0
      const { closed, peer } = yield* rawPeer((socket) => {
        const fill = ++connections
        socket.once("data", () => {
          socket.write(ackFrame({ size_bytes: BigInt(size), sha256: sha256Of(size) }))
          // As peers do that keep no connection: closed right behind the last byte.
          socket.end(Buffer.alloc(size, fill))
        })
      })
      const client = yield* makeClient()
      const entry = entryOf("db/m/a.parquet", size)
      const ignore = { write: () => Effect.void }
      let checked = 0
      yield* client.fetch(peer, entry, 0, {
        write: (chunk) =>
          Effect.gen(function*() {
            const before = Buffer.from(chunk)
            if (checked === 0) {
              yield* Queue.take(closed)
              yield* client.fetch(peer, entry, 0, ignore)
              yield* client.fetch(peer, entry, 0, ignore)
            }
            checked += chunk.length
            assert.isTrue(before.equals(chunk))
          })
      })
      assert.strictEqual(checked, size)
    }))
})
