/** The client asked for many small files at once, against peers that do whatever they like with a bundle. */
import { assert, describe, it, vi } from "@effect/vitest"
import { Deferred, Effect, Fiber, Option, Queue, Redacted, Result } from "effect"
import { connect, type Socket } from "node:net"
import * as Bundle from "../../src/peer/protocol/bundle.ts"
import * as Frame from "../../src/peer/protocol/Frame.ts"
import * as Mac from "../../src/peer/protocol/Mac.ts"
import * as Messages from "../../src/peer/protocol/Messages.ts"
import * as Throttle from "../../src/peer/Throttle.ts"
import { FetchClient } from "../../src/ports/FetchClient.ts"
import type { FileEntry } from "../../src/ports/FileEntry.ts"
import type { Peer } from "../../src/ports/PeerResolver.ts"
import { allBytes, entryOf } from "./support/doubles.ts"
import { collector, makeClient, rawPeer, startServer } from "./support/nodes.ts"
import { ackFrame, bundleAckFor } from "./support/requests.ts"

vi.setConfig({ testTimeout: 10_000 })

const files = Array.from({ length: 100 }, (_, n) => entryOf(`db/m/${n}`, 1000 + n))
const byPath = new Map<string, FileEntry>(files.map((file) => [file.path, file]))
const sizeOf = (path: string): number => byPath.get(path)?.size_bytes ?? 0

const bodiesOf = ({ paths }: Messages.FetchBundle): Uint8Array =>
  Buffer.concat(paths.map((path) => allBytes(sizeOf(path))))

/** The whole right answer to a request for a bundle. */
const bundleOf = (request: Messages.FetchBundle): Uint8Array =>
  Buffer.concat([bundleAckFor(request, request.paths.map(sizeOf)), bodiesOf(request)])

interface Peered {
  readonly peer: Peer
  readonly closed: Queue.Queue<void>
  /** The paths of each request, of one file or of several, in the order in which they came. */
  readonly asked: Array<ReadonlyArray<string>>
  /** The most that were asked for alone at once. */
  readonly mostAlone: () => number
}

/** A peer that gives single files, says that it takes bundles, and does with these what the test says. */
const bundlingPeer = (options: {
  readonly bundles?: boolean
  readonly onBundle?: (socket: Socket, request: Messages.FetchBundle) => void
  /** Runs before a single file is given. */
  readonly onFile?: Effect.Effect<void>
}) =>
  Effect.gen(function*() {
    const asked: Array<ReadonlyArray<string>> = []
    let alone = 0
    let most = 0
    const give = (socket: Socket, { path }: Messages.FetchFile) => {
      alone++
      most = Math.max(most, alone)
      Effect.runFork(Effect.andThen(
        options.onFile ?? Effect.void,
        Effect.sync(() => {
          alone--
          const file = byPath.get(path)
          const ack = file === undefined
            ? ackFrame({ status: "error", code: "not_found", keep_alive: true })
            : ackFrame({
              size_bytes: BigInt(file.size_bytes),
              sha256: file.sha256,
              keep_alive: true,
              bundles: options.bundles ?? true
            })
          socket.write(Buffer.concat([ack, allBytes(sizeOf(path))]))
        })
      ))
    }
    const { closed, peer } = yield* rawPeer((socket) => {
      const decoder = Frame.makeDecoder(Frame.maxLength)
      socket.on("data", (chunk: Buffer) => {
        const decoded = Result.getOrThrow(decoder.push(chunk))
        if (Option.isNone(decoded)) return
        const { payload, type } = decoded.value.frame
        if (type === Frame.messageType.fetchFile) {
          const request = Result.getOrThrow(Messages.decodeFetchFile(payload))
          asked.push([request.path])
          give(socket, request)
        } else {
          const request = Result.getOrThrow(Messages.decodeFetchBundle(payload))
          asked.push(request.paths)
          ;(options.onBundle ?? ((socket, request) => socket.write(bundleOf(request))))(socket, request)
        }
      })
    })
    return { peer, closed, asked, mostAlone: () => most } satisfies Peered
  })

type Client = FetchClient["Service"]

/** Fetches files all at once; gives what came of each. */
const fetchAll = (client: Client, peer: Peer, some: ReadonlyArray<FileEntry>) =>
  Effect.forEach(some, (file) => {
    const sink = collector()
    return Effect.as(client.fetch(peer, file, 0, sink), sink.bytes).pipe(Effect.map((bytes) => bytes()))
  }, { concurrency: "unbounded" })

const areRight = (some: ReadonlyArray<FileEntry>, bytes: ReadonlyArray<Buffer>): void => {
  assert.strictEqual(bytes.length, some.length)
  some.forEach((file, n) => assert.isTrue(bytes[n]?.equals(allBytes(file.size_bytes)), file.path))
}

const [first = entryOf("db/m/0", 1000), ...others] = files

/** Lets the client hear that the peer takes bundles. */
const introduced = Effect.fnUntraced(function*(peer: Peer, options?: Parameters<typeof makeClient>[0]) {
  const client = yield* makeClient(options)
  yield* fetchAll(client, peer, [first])
  return client
})

describe("FetchClientTcp, asked for many small files at once", () => {
  it.live("takes them from our own server, the most of them together", () =>
    Effect.gen(function*() {
      const server = yield* startServer({ files: files.map((entry) => ({ entry })) })
      // Between the two: hears which answers the server gives.
      const answers: Array<number> = []
      const { peer } = yield* rawPeer((socket) => {
        const behind = connect({ host: server.address.host, port: server.address.port })
        socket.pipe(behind)
        behind.on("data", (chunk: Buffer) => {
          // Each answer begins a piece of its own, for the next is only given to another request.
          if (chunk.readUInt32BE(0) < 65536) answers.push(chunk.readUInt8(4))
          socket.write(chunk)
        })
        behind.on("error", () => undefined)
        socket.on("close", () => behind.destroy())
      })
      const client = yield* introduced(peer)
      areRight(others, yield* fetchAll(client, peer, others))
      const bundles = answers.filter((type) => type === Frame.messageType.fetchBundleAck)
      assert.strictEqual(bundles.length, 2)
      assert.strictEqual(answers.filter((type) => type === Frame.messageType.fetchFileAck).length, 1)
    }))

  it.live("asks for as many at once as one bundle takes, and for a lone one as for any file", () =>
    Effect.gen(function*() {
      const { asked, peer } = yield* bundlingPeer({})
      const client = yield* introduced(peer)
      areRight(others, yield* fetchAll(client, peer, others))
      areRight([first], yield* fetchAll(client, peer, [first]))
      assert.deepStrictEqual(asked.map(({ length }) => length), [1, Bundle.maxFiles, 99 - Bundle.maxFiles, 1])
      assert.sameMembers(asked.slice(1, 3).flat(), others.map(({ path }) => path))
    }))

  it.live("asks for no more bytes and no longer a request than a bundle takes", () =>
    Effect.gen(function*() {
      const long = (n: number) => entryOf(`${`${n}`.padStart(200, "a")}/`.repeat(15) + n, 1000 + n)
      const large = (n: number) => entryOf(`db/large/${n}`, Bundle.maxFileBytes - n)
      for (const  of of[long, large]) {
        const some = Array.from({ length: 9 }, (_, n) => of(n))
        for (const file of some) byPath.set(file.path, file)
        const { asked, peer } = yield* bundlingPeer({})
        areRight(some, yield* fetchAll(yield* introduced(peer), peer, some))
        for (const paths of asked) {
          assert.isAtMost(paths.reduce((sum, path) => sum + sizeOf(path), 0), Bundle.maxBytes)
          assert.isAtMost(paths.join("").length, Bundle.maxPathLength)
        }
        assert.isBelow(asked.length, 9)
      }
    }))

  it.live("asks a peer that takes no bundles for each alone, for twelve at once", () =>
    Effect.gen(function*() {
      const gate = yield* Deferred.make<void>()
      const twelve = yield* Deferred.make<void>()
      let begun = 0
      const { asked, mostAlone, peer } = yield* bundlingPeer({
        bundles: false,
        onFile: Effect.suspend(() => {
          if (++begun === 12) Deferred.doneUnsafe(twelve, Effect.void)
          return Deferred.await(gate)
        })
      })
      const client = yield* makeClient()
      const fetched = yield* Effect.forkChild(fetchAll(client, peer, files))
      yield* Deferred.await(twelve)
      yield* Deferred.succeed(gate, undefined)
      areRight(files, yield* Fiber.join(fetched))
      assert.strictEqual(mostAlone(), 12)
      assert.strictEqual(asked.length, 100)
    }))

  const two = others.slice(0, 2)
  const failing: ReadonlyArray<readonly [string, (socket: Socket, request: Messages.FetchBundle) => void]> = [
    ["closes the connection at a bundle", (socket) => socket.destroy()],
    ["answers with another message", (socket) => socket.write(ackFrame({ status: "error", code: "busy" }))],
    ["signs with another secret", (socket, request) => {
      const sizes = request.paths.map(sizeOf)
      const fields = { nonce: request.nonce, serverNodeId: "node-a", sizes }
      const hmac = Mac.toHex(Mac.bundleAckMac(Redacted.make("another"), fields))
      socket.write(Buffer.concat([bundleAckFor(request, sizes, { hmac }), bodiesOf(request)]))
    }],
    ["is another node", (socket, request) => {
      const ack = bundleAckFor(request, request.paths.map(sizeOf), { server_node_id: "node-z" })
      socket.write(Buffer.concat([ack, bodiesOf(request)]))
    }],
    ["has other lengths", (socket, request) => socket.write(bundleAckFor(request, request.paths.map(() => 1)))],
    [
      "has more lengths than were asked for",
      (socket, request) => socket.write(bundleAckFor(request, [...request.paths.map(() => -1), -1]))
    ],
    [
      "sends more than it said",
      (socket, request) =>
        socket.write(Buffer.concat([bundleAckFor(request, request.paths.map(() => -1)), Buffer.from("x")]))
    ],
    ["closes in the middle of the bytes", (socket, request) => {
      socket.end(Buffer.concat([bundleAckFor(request, request.paths.map(sizeOf)), Buffer.alloc(10)]))
    }],
    ["stops in the middle of the bytes", (socket, request) => {
      socket.write(Buffer.concat([bundleAckFor(request, request.paths.map(sizeOf)), Buffer.alloc(10)]))
    }]
  ]
  for (const [what, onBundle] of failing) {
    it.live(`takes each alone from a peer that ${what}, and asks it for no bundle for a while`, () =>
      Effect.gen(function*() {
        const { asked, peer } = yield* bundlingPeer({ onBundle })
        const client = yield* introduced(peer, { ackTimeoutMillis: 100, fetchTimeoutMillis: 100 })
        areRight(two, yield* fetchAll(client, peer, two))
        const bundles = asked.filter(({ length }) => length > 1)
        areRight(two, yield* fetchAll(client, peer, two))
        assert.isAbove(bundles.length, 0)
        assert.strictEqual(asked.filter(({ length }) => length > 1).length, bundles.length)
      }))
  }

  it.live("lets nobody wait for a peer that answers no bundle: whom it asks next is better", () =>
    Effect.gen(function*() {
      const { asked, peer } = yield* bundlingPeer({ onBundle: () => undefined })
      const client = yield* introduced(peer, { ackTimeoutMillis: 100 })
      const errors = yield* Effect.forEach(others, (file) => Effect.flip(client.fetch(peer, file, 0, collector())), {
        concurrency: "unbounded"
      })
      for (const [n, error] of errors.entries()) {
        assert.strictEqual(error._tag, "PeerUnreachable")
        assert.strictEqual(error.path, others[n]?.path)
        assert.include(error.message, "no answer within 100 ms")
      }
      assert.deepStrictEqual(asked.map(({ length }) => length), [1, Bundle.maxFiles, 99 - Bundle.maxFiles])
    }))

  it.live("lets nobody wait for a peer that can't be reached", () =>
    Effect.gen(function*() {
      const { peer } = yield* Effect.scoped(bundlingPeer({}))
      const client = yield* makeClient()
      const errors = yield* Effect.forEach(files, (file) => Effect.flip(client.fetch(peer, file, 0, collector())), {
        concurrency: "unbounded"
      })
      for (const [n, error] of errors.entries()) {
        assert.strictEqual(error._tag, "PeerUnreachable")
        assert.strictEqual(error.path, files[n]?.path)
      }
    }))

  it.live("asks at once for the last byte of a file, whoever waits", () =>
    Effect.gen(function*() {
      const gate = yield* Deferred.make<void>()
      const twelve = yield* Deferred.make<void>()
      let begun = 0
      const beforeChunk = Effect.suspend(() => {
        if (++begun === 12) Deferred.doneUnsafe(twelve, Effect.void)
        return begun > 12 ? Effect.void : Deferred.await(gate)
      })
      const all = files.map((entry) => ({ entry }))
      const peer = yield* startServer({ files: all, beforeChunk }, { maxServes: 64 })
      const client = yield* makeClient()
      const waiting = yield* Effect.forkChild(fetchAll(client, peer, files))
      yield* Deferred.await(twelve)
      const sink = collector()
      yield* client.fetch(peer, first, first.size_bytes - 1, sink)
      assert.strictEqual(sink.bytes().length, 1)
      yield* Deferred.succeed(gate, undefined)
      areRight(files, yield* Fiber.join(waiting))
    }))

  for (const [whose, mine, its] of [["its own", 10 ** 9, 0], ["the peer's", 0, 10 ** 9]] as const) {
    it.live(`asks for each alone while there is a limit, ${whose}`, () =>
      Effect.gen(function*() {
        const limits = (bytes: number) => Throttle.make(bytes)
        const server = yield* startServer({ files: files.map((entry) => ({ entry })) }, { maxServes: 64 }, [], {
          pull: yield* limits(0),
          serve: yield* limits(its)
        })
        const types: Array<number> = []
        const { peer } = yield* rawPeer((socket) => {
          const behind = connect({ host: server.address.host, port: server.address.port })
          behind.pipe(socket)
          behind.on("error", () => undefined)
          socket.on("data", (chunk: Buffer) => {
            types.push(chunk.readUInt8(4))
            behind.write(chunk)
          })
          socket.on("close", () => behind.destroy())
        })
        const client = yield* makeClient({}, { pull: yield* limits(mine), serve: yield* limits(0) })
        yield* fetchAll(client, peer, [first])
        areRight(others, yield* fetchAll(client, peer, others))
        assert.deepStrictEqual(new Set(types), new Set([Frame.messageType.fetchFile]))
        assert.strictEqual(types.length, 100)
      }))
  }

  it.live("makes the request anew when the peer had closed the connection that was idle", () =>
    Effect.gen(function*() {
      let bundles = 0
      const { asked, peer } = yield* bundlingPeer({
        onBundle: (socket, request) => ++bundles === 1 ? socket.destroy() : socket.write(bundleOf(request))
      })
      const client = yield* introduced(peer)
      areRight(two, yield* fetchAll(client, peer, two))
      assert.deepStrictEqual(asked.map(({ length }) => length), [1, 2, 2])
    }))

  it.live("asks alone for what a bundle does not give, and says why that does not come", () =>
    Effect.gen(function*() {
      const missing = entryOf("db/m/missing", 500)
      const { asked, peer } = yield* bundlingPeer({
        onBundle: (socket, request) =>
          socket.write(Buffer.concat([
            bundleAckFor(request, request.paths.map((path) => byPath.has(path) ? sizeOf(path) : -1)),
            bodiesOf(request)
          ]))
      })
      const client = yield* introduced(peer)
      const [came, error] = yield* Effect.all([
        fetchAll(client, peer, two),
        Effect.flip(client.fetch(peer, missing, 0, collector()))
      ], { concurrency: "unbounded" })
      areRight(two, came)
      assert.deepInclude(error, { _tag: "FileNotOnPeer", code: "not_found", path: missing.path })
      assert.deepStrictEqual(asked.map(({ length }) => length), [1, 3, 1])
    }))

  it.live("goes on with the others when one is not wanted any more, and breaks off when none is", () =>
    Effect.gen(function*() {
      const requests = yield* Queue.unbounded<readonly [Socket, Messages.FetchBundle]>()
      const { closed, peer } = yield* bundlingPeer({
        onBundle: (socket, request) => Queue.offerUnsafe(requests, [socket, request])
      })
      const client = yield* introduced(peer)
      const begin = Effect.forEach(two, (file) => Effect.forkChild(fetchAll(client, peer, [file])))
      const [left, stays] = yield* begin
      const [socket, request] = yield* Queue.take(requests)
      if (left === undefined || stays === undefined) return assert.fail("two were begun")
      yield* Fiber.interrupt(left)
      socket.write(bundleOf(request))
      areRight(two.slice(1), yield* Fiber.join(stays))
      const again = yield* begin
      yield* Queue.take(requests)
      yield* Effect.forEach(again, Fiber.interrupt)
      yield* Queue.take(closed)
    }))

  it.live("leaves a failing sink to the one whose it is", () =>
    Effect.gen(function*() {
      const { peer } = yield* bundlingPeer({})
      const client = yield* introduced(peer)
      const [one, other] = two
      if (one === undefined || other === undefined) return assert.fail("there are two")
      const [failed, came] = yield* Effect.all([
        Effect.flip(client.fetch(peer, one, 0, { write: () => Effect.fail("the sink's") })),
        fetchAll(client, peer, [other])
      ], { concurrency: "unbounded" })
      assert.strictEqual(failed, "the sink's")
      areRight([other], came)
    }))
})
