/** A whole server of ours, over a socket, against peers that send whatever they like. */
import { assert } from "@effect/vitest"
import { Effect, Result } from "effect"
import * as Frame from "../../src/peer/protocol/Frame.ts"
import * as Messages from "../../src/peer/protocol/Messages.ts"
import { allBytes, entryOf } from "../peer/support/doubles.ts"
import { heartbeatOf, signedJoin } from "../peer/support/joins.ts"
import { collector, makeClient, rawClient, startServer } from "../peer/support/nodes.ts"
import { boundRequest, bundleFor, bundleFrame, requestFor, requestFrame } from "../peer/support/requests.ts"
import { mutated } from "./mutate.ts"
import type { Random } from "./random.ts"
import { Broken, targets } from "./targets.ts"

const file = entryOf("db/m/a.parquet", 1000)
const secretFile = entryOf("absent", 1000)
const bytes = allBytes(1000)

const numbers = [0n, 1n, -1n, 999n, 1000n, 1001n, 2n ** 31n, 2n ** 53n + 1n, 2n ** 63n - 1n, -(2n ** 63n)]

/** What the server is sent, and whether it may answer with the file. */
const inputOf = (random: Random): { readonly input: Uint8Array; readonly signed: boolean } => {
  const seeds = targets.flatMap(({ name, seeds }) => name === "frame" ? seeds : [])
  if (random.int(3) > 0) {
    const right = random.int(2) === 0 ? seeds : [
      requestFrame(requestFor(file.path)),
      bundleFrame(bundleFor([file])),
      requestFrame(boundRequest(file.path, { keep_alive: true })),
      heartbeatOf(signedJoin("heartbeat", "node-b", String(random.int(2 ** 31))))
    ]
    // A fault behind a signed request leaves it signed.
    return { input: mutated(random, right), signed: right !== seeds }
  }
  const paths = targets.flatMap(({ name, seeds }) => name === "path" ? seeds : [])
  const path = random.int(2) === 0 ? file.path : mutated(random, paths).toString("utf8").toWellFormed()
  const request = boundRequest(path, {
    byte_offset: random.pick(numbers),
    byte_length: random.pick(numbers),
    node_id: random.pick(["node-b", "", "node-a", "\0", "x".repeat(3000)]),
    keep_alive: random.int(2) === 0
  })
  return { input: requestFrame(request), signed: true }
}

/** Reads answers and bodies off what the server has sent; throws at whatever it may not send. */
const checkAnswers = (received: Buffer, signed: boolean): void => {
  for (let at = 0; at < received.length;) {
    const length = received.readUInt32BE(at)
    const end = at + 4 + length
    assert.isAtMost(end, received.length, "half an answer")
    const type = received.readUInt8(at + 4)
    const payload = received.subarray(at + 5, end)
    at = end
    if (type === Frame.messageType.heartbeatAck) {
      assert.isTrue(signed)
      continue
    }
    if (type === Frame.messageType.fetchBundleAck) {
      assert.isTrue(signed)
      const { sizes } = Result.getOrThrow(Messages.decodeFetchBundleAck(payload))
      for (const size of sizes) {
        if (size === -1) continue
        assert.strictEqual(size, bytes.length)
        assert.isTrue(bytes.equals(received.subarray(at, at += size)))
      }
      continue
    }
    assert.strictEqual(type, Frame.messageType.fetchFileAck)
    const ack = Result.getOrThrow(Messages.decodeFetchFileAck(payload))
    if (ack.status === "error") {
      assert.deepInclude(ack, { size_bytes: 0n, sha256: "" })
      continue
    }
    assert.isTrue(signed)
    assert.deepInclude(ack, { status: "ok", sha256: file.sha256 })
    const from = Number(ack.byte_offset)
    const size = Number(ack.size_bytes)
    assert.isTrue(received.subarray(at, at + size).equals(bytes.subarray(from, from + size)))
    at += size
  }
}

/** Sends so many inputs, a connection each, and sees that honest peers are served all the while. */
export const fuzzServer = Effect.fnUntraced(function*(random: Random, seed: number, count: number) {
  const logs: Array<string> = []
  const peer = yield* startServer({ files: [{ entry: file }, { entry: secretFile, state: "absent" }] }, {}, logs)
  const client = yield* makeClient({ requireSignedAcks: true })
  const honest = Effect.gen(function*() {
    const sink = collector()
    yield* client.fetch(peer, file, 0, sink)
    assert.isTrue(sink.bytes().equals(bytes))
  })

  const one = Effect.fnUntraced(function*(nth: number) {
    const { input, signed } = inputOf(random)
    const raw = yield* rawClient(peer)
    raw.socket.end(input)
    const received = yield* raw.all
    yield* Effect.try({
      try: () => checkAnswers(received, signed),
      catch: (cause) => new Broken({ target: "server", seed, nth, input, cause })
    })
    if (nth % 100 === 0) yield* honest
    // What a node logs must not grow with what strangers send.
    if (logs.length > 10_000) logs.length = 0
    const failed = logs.find((line) => line.includes("handler failed"))
    if (failed !== undefined) {
      return yield* Effect.fail(new Broken({ target: "server", seed, nth, input, cause: failed }))
    }
  }, Effect.scoped)

  // Fewer than the server lets in: none has to make room.
  yield* Effect.forEach(Array.from({ length: count }, (_, nth) => nth), one, { concurrency: 32, discard: true })
  yield* honest
})
