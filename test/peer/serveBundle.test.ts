/** What a server gives when several small files are asked for at once. */
import { assert, describe, it, vi } from "@effect/vitest"
import { Deferred, Effect, Exit, Option, Result, Tracer } from "effect"
import * as Frame from "../../src/peer/protocol/Frame.ts"
import * as Mac from "../../src/peer/protocol/Mac.ts"
import * as Messages from "../../src/peer/protocol/Messages.ts"
import { together } from "../../src/ports/FetchClient.ts"
import { allBytes, entryOf, type TestFile } from "./support/doubles.ts"
import { type RawClient, rawClient, secret, startServer } from "./support/nodes.ts"
import { bundleFor, bundleFrame, requestFor, requestFrame, takeAck, takeFrame } from "./support/requests.ts"

vi.setConfig({ testTimeout: 10_000 })

const small = entryOf("db/m/small", 1000)
const other = entryOf("db/m/other", 2345)
const empty = entryOf("db/m/empty", 0)
const longest = entryOf("db/m/longest", together.fileBytes)
const tooLong = entryOf("db/m/too-long", together.fileBytes + 1)

/** Asks for a bundle; gives the sizes of its signed answer and the bytes behind it. */
const ask = Effect.fnUntraced(function*(client: RawClient, request: Messages.FetchBundle) {
  yield* client.send(bundleFrame(request))
  const frame = Option.getOrThrow(yield* takeFrame(client))
  assert.strictEqual(frame.type, Frame.messageType.fetchBundleAck)
  const { hmac, server_node_id: serverNodeId, sizes } = Result.getOrThrow(Messages.decodeFetchBundleAck(frame.payload))
  assert.strictEqual(serverNodeId, "node-a")
  assert.isTrue(Mac.matches(Mac.bundleAckMac(secret, { nonce: request.nonce, serverNodeId, sizes }), hmac))
  const bytes = yield* client.take(sizes.reduce((sum, size) => sum + Math.max(0, size), 0))
  return { sizes, bytes }
})

describe("FetchServer, asked for a bundle", () => {
  it.live("says that it takes bundles to whoever keeps the connection, and gives what it holds in the order asked", () =>
    Effect.gen(function*() {
      const peer = yield* startServer({ files: [small, other, empty, longest].map((entry) => ({ entry })) })
      const client = yield* rawClient(peer)
      yield* client.send(requestFrame(requestFor(small.path, { keep_alive: true })))
      assert.isTrue((yield* takeAck(client)).bundles)
      yield* client.take(1000)
      const { bytes, sizes } = yield* ask(client, bundleFor([other, empty, longest, small]))
      assert.deepStrictEqual(sizes, [2345, 0, together.fileBytes, 1000])
      const all = [2345, together.fileBytes, 1000].map((size) => allBytes(size))
      assert.isTrue(bytes.equals(Buffer.concat(all)))
      // The connection serves on, one file or several.
      assert.deepStrictEqual((yield* ask(client, bundleFor([small]))).sizes, [1000])
      yield* client.send(requestFrame(requestFor(small.path)))
      const last = yield* takeAck(client)
      assert.deepInclude(last, { status: "ok", keep_alive: false, bundles: false })
      assert.strictEqual((yield* client.all).length, 1000)
    }))

  const out = (state: NonNullable<TestFile["state"]>): TestFile => ({ entry: entryOf(`db/m/${state}`, 500), state })
  const leftOut: ReadonlyArray<readonly [string, TestFile | string]> = [
    ["not listed", "db/m/nowhere"],
    ["outside the folder", "../etc/passwd"],
    ["no path", "db\0m"],
    ["on its way", out("coming")],
    ["not here", out("absent")],
    ["here with other bytes", out("otherBytes")],
    ["on a broken disk", out("broken")],
    ["shorter on the disk", out("short")],
    ["gone from the disk", out("vanished")],
    ["too long for a bundle", { entry: tooLong }]
  ]
  for (const [what, file] of leftOut) {
    it.live(`leaves out what is ${what}, and gives the others`, () =>
      Effect.gen(function*() {
        const files = [{ entry: small }, { entry: other }, ...(typeof file === "string" ? [] : [file])]
        const client = yield* rawClient(yield* startServer({ files }))
        const { entry, path } = typeof file === "string"
          ? { entry: small, path: file }
          : { ...file, path: file.entry.path }
        const request = bundleFor([small, entry, other], { paths: [small.path, path, other.path] })
        const { bytes, sizes } = yield* ask(client, request)
        assert.deepStrictEqual(sizes, [1000, -1, 2345])
        assert.isTrue(bytes.equals(Buffer.concat([allBytes(1000), allBytes(2345)])))
      }))
  }

  it.live("makes a span of each file that it reads, failed where it could not be read", () =>
    Effect.gen(function*() {
      const spans: Array<Tracer.Span> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          if (span.name === "serve") spans.push(span)
          return span
        }
      })
      const files = [{ entry: small }, out("broken"), { entry: other }]
      const peer = yield* Effect.provideService(startServer({ files }), Tracer.Tracer, tracer)
      assert.deepStrictEqual((yield* ask(yield* rawClient(peer), bundleFor(files.map(({ entry }) => entry)))).sizes, [
        1000,
        -1,
        2345
      ])
      const told = spans.map(({ attributes, status }) => [
        attributes.get("file.path"),
        attributes.get("peer"),
        status._tag === "Ended" && Exit.isSuccess(status.exit)
      ])
      assert.deepStrictEqual(told, [
        [small.path, "node-b", true],
        ["db/m/broken", "node-b", false],
        [other.path, "node-b", true]
      ])
      assert.strictEqual(new Set(spans.map(({ traceId }) => traceId)).size, 3)
    }))

  it.live("leaves out what has other bytes than are asked for", () =>
    Effect.gen(function*() {
      const client = yield* rawClient(yield* startServer({ files: [{ entry: small }, { entry: other }] }))
      const { sizes } = yield* ask(client, bundleFor([small, other], { sha256: [other.sha256, other.sha256] }))
      assert.deepStrictEqual(sizes, [-1, 2345])
    }))

  it.live("gives as many as fit into a bundle, and then those that are short enough", () =>
    Effect.gen(function*() {
      const files = [1, 2, 3, 4, 5].map((n) => entryOf(`db/m/${n}`, together.fileBytes - (n === 1 ? 1000 : 0)))
      const client = yield* rawClient(yield* startServer({ files: [...files, small].map((entry) => ({ entry })) }))
      const { sizes } = yield* ask(client, bundleFor([...files, small]))
      assert.deepStrictEqual(sizes, [...files.slice(0, 4).map(({ size_bytes }) => size_bytes), -1, 1000])
    }))

  it.live("gives what it has verified while the manifest is away", () =>
    Effect.gen(function*() {
      const client = yield* rawClient(yield* startServer({ files: [{ entry: small }], manifestDown: true }))
      assert.deepStrictEqual((yield* ask(client, bundleFor([small]))).sizes, [1000])
    }))

  for (
    const [what, frame] of [
      ["bodies", () => requestFrame(requestFor(small.path))],
      // Its bytes are all in memory, so none is read without a place.
      ["bundles", () => bundleFrame(bundleFor([small]))]
    ] as const
  ) {
    it.live(`reads and gives nothing while it gives as many ${what} as it may, and goes on with the connection`, () =>
      Effect.gen(function*() {
        const gate = yield* Deferred.make<void>()
        const begun = yield* Deferred.make<void>()
        const files = [{ entry: small }]
        const beforeChunk = Effect.andThen(Deferred.succeed(begun, undefined), Deferred.await(gate))
        const peer = yield* startServer({ files, beforeChunk }, { maxServes: 1 })
        const first = yield* rawClient(peer)
        yield* first.send(frame())
        yield* Deferred.await(begun)
        const client = yield* rawClient(peer)
        assert.deepStrictEqual((yield* ask(client, bundleFor([small]))).sizes, [-1])
        yield* Deferred.succeed(gate, undefined)
        yield* takeFrame(first)
        yield* first.take(1000)
        first.socket.end()
        yield* first.all
        assert.deepStrictEqual((yield* ask(client, bundleFor([small]))).sizes, [1000])
      }))
  }

  const many = Array.from({ length: together.files + 1 }, () => small)
  const refused: ReadonlyArray<readonly [string, () => Messages.FetchBundle, string]> = [
    ["signed with another secret", () => bundleFor([small], { hmac: "0".repeat(64) }), "the MAC is wrong"],
    ["signed for other paths", () => ({ ...bundleFor([small]), paths: [other.path] }), "the MAC is wrong"],
    ["signed for other digests", () => ({ ...bundleFor([small]), sha256: [other.sha256] }), "the MAC is wrong"],
    ["old", () => bundleFor([small], { timestamp: 1n }), "from this node's clock"],
    ["with a nonce of another form", () => bundleFor([small], { nonce: "x" }), "the nonce is not"],
    ["of no file", () => bundleFor([]), "not in form"],
    ["of too many files", () => bundleFor(many), "not in form"],
    ["with a digest missing", () => bundleFor([small], { sha256: [] }), "not in form"]
  ]
  for (const [what, request, reason] of refused) {
    it.live(`closes the connection without a word at a request that is ${what}, and logs it`, () =>
      Effect.gen(function*() {
        const logs: Array<string> = []
        const client = yield* rawClient(yield* startServer({ files: [{ entry: small }, { entry: other }] }, {}, logs))
        yield* client.send(bundleFrame(request()))
        assert.strictEqual((yield* client.all).length, 0)
        assert.include(logs.join("\n"), reason)
      }))
  }

  it.live("takes a request only once", () =>
    Effect.gen(function*() {
      const logs: Array<string> = []
      const peer = yield* startServer({ files: [{ entry: small }] }, {}, logs)
      const request = bundleFor([small])
      assert.deepStrictEqual((yield* ask(yield* rawClient(peer), request)).sizes, [1000])
      const again = yield* rawClient(peer)
      yield* again.send(bundleFrame(request))
      assert.strictEqual((yield* again.all).length, 0)
      assert.include(logs.join("\n"), "was made before")
    }))

  it.live("gives up on a peer that does not take the bytes, and frees its place", () =>
    Effect.gen(function*() {
      const files = [1, 2, 3, 4].map((n) => ({ entry: entryOf(`db/m/${n}`, together.fileBytes) }))
      const logs: Array<string> = []
      const peer = yield* startServer({ files }, { maxServes: 1, serveTimeoutMillis: 100 }, logs)
      const closed = yield* Deferred.make<void>()
      const client = yield* rawClient(peer)
      client.socket.on("close", () => Deferred.doneUnsafe(closed, Effect.void))
      client.socket.pause()
      const fill = () => {
        while (client.socket.write(bundleFrame(bundleFor(files.map(({ entry }) => entry)))));
        client.socket.once("drain", fill)
      }
      fill()
      yield* Deferred.await(closed)
      assert.include(logs.join("\n"), "no progress for 100 ms")
      const next = yield* rawClient(peer)
      assert.deepStrictEqual((yield* ask(next, bundleFor([files[0]?.entry ?? small]))).sizes, [together.fileBytes])
    }))
})
