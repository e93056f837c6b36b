/** The client asked for several small files together, against peers that do whatever they like with a bundle. */
import { assert, describe, it, vi } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Option, Queue, Redacted, Result } from "effect"
import { connect, type Socket } from "node:net"
import * as Frame from "../../src/peer/protocol/Frame.ts"
import * as Mac from "../../src/peer/protocol/Mac.ts"
import * as Messages from "../../src/peer/protocol/Messages.ts"
import * as Throttle from "../../src/peer/Throttle.ts"
import { type Entries, type FetchClient, type FetchTogether, together } from "../../src/ports/FetchClient.ts"
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
}

/** A peer that gives single files, says that it takes bundles, and does with these what the test says. */
const bundlingPeer = (options: {
  readonly bundles?: boolean
  readonly onBundle?: (socket: Socket, request: Messages.FetchBundle) => void
}) =>
  Effect.gen(function*() {
    const asked: Array<ReadonlyArray<string>> = []
    const give = (socket: Socket, { path }: Messages.FetchFile) => {
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
    return { peer, closed, asked } satisfies Peered
  })

type Client = FetchClient["Service"]

/** How the client asks a peer for several at once, if it does. */
const wayTo = (client: Client, peer: Peer): Option.Option<FetchTogether> => client.together?.(peer) ?? Option.none()

/** Asks for several at once; gives a copy of what came of each. */
const ask = (client: Client, peer: Peer, [first, ...others]: ReadonlyArray<FileEntry>) =>
  Effect.gen(function*() {
    const fetchTogether = yield* Effect.fromOption(wayTo(client, peer))
    const came: Array<Buffer | undefined> = []
    if (first === undefined) return came
    const entries: Entries = [first, ...others]
    yield* fetchTogether(entries, (bodies, from) =>
      Effect.sync(() => {
        assert.strictEqual(from, came.length)
        came.push(...bodies.map((body) => body === undefined ? undefined : Buffer.from(body)))
      }))
    return came
  })

const areRight = (some: ReadonlyArray<FileEntry>, bytes: ReadonlyArray<Uint8Array | undefined>): void => {
  assert.strictEqual(bytes.length, some.length)
  some.forEach((file, n) => assert.isTrue(allBytes(file.size_bytes).equals(bytes[n] ?? Buffer.alloc(0)), file.path))
}

const [first = entryOf("db/m/0", 1000), ...others] = files
const many = others.slice(0, together.files)
const two = others.slice(0, 2)

/** A client that has heard what the peer says of bundles. */
const introduced = Effect.fnUntraced(function*(
  peer: Peer,
  options?: Parameters<typeof makeClient>[0],
  limits?: Parameters<typeof makeClient>[1]
) {
  const client = yield* makeClient(options, limits)
  yield* client.fetch(peer, first, 0, collector())
  return client
})

describe("FetchClientTcp, asked for several small files together", () => {
  it.live("takes them from our own server in one answer", () =>
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
      areRight(many, yield* ask(client, peer, many))
      assert.deepStrictEqual(answers, [Frame.messageType.fetchFileAck, Frame.messageType.fetchBundleAck])
    }))

  it.live("lends each their own memory, whoever asks at the same time", () =>
    Effect.gen(function*() {
      const { asked, peer } = yield* bundlingPeer({})
      const client = yield* introduced(peer)
      const parts = [others.slice(0, 20), others.slice(20, 40), others.slice(40, 60)]
      for (let round = 0; round < 2; round++) {
        const came = yield* Effect.forEach(parts, (part) => ask(client, peer, part), { concurrency: "unbounded" })
        parts.forEach((part, n) => areRight(part, came[n] ?? []))
      }
      assert.deepStrictEqual(asked.map(({ length }) => length), [1, 20, 20, 20, 20, 20, 20])
      // While one is in use, too.
      const fetchTogether = yield* Effect.fromOption(wayTo(client, peer))
      const [one, ...rest] = parts[0] ?? []
      if (one === undefined) return assert.fail("there are some")
      yield* fetchTogether([one, ...rest], (bodies) =>
        Effect.gen(function*() {
          areRight(parts[1] ?? [], yield* ask(client, peer, parts[1] ?? []))
          areRight([one, ...rest], bodies)
        }).pipe(Effect.orDie))
    }))

  it.live("asks no peer together that has not said that it takes that, or says that it does not any more", () =>
    Effect.gen(function*() {
      const bundles = { now: false }
      const { peer } = yield* bundlingPeer({
        get bundles() {
          return bundles.now
        }
      })
      const client = yield* makeClient()
      for (const takes of [false, true, false]) {
        bundles.now = takes
        yield* client.fetch(peer, first, 0, collector())
        assert.strictEqual(Option.isSome(wayTo(client, peer)), takes)
      }
    }))

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
    it.live(`gets none from a peer that ${what}, and asks it for none for a minute`, () =>
      Effect.gen(function*() {
        const { asked, peer } = yield* bundlingPeer({ onBundle })
        const clock = yield* Clock.Clock
        let later = 0
        const shifted: Clock.Clock = Object.create(clock, {
          currentTimeMillisUnsafe: { value: () => clock.currentTimeMillisUnsafe() + later }
        })
        const client = yield* introduced(peer, { ackTimeoutMillis: 100, fetchTimeoutMillis: 100 }).pipe(
          Effect.provideService(Clock.Clock, shifted)
        )
        areRight([], (yield* ask(client, peer, two)).filter((bytes) => bytes !== undefined))
        assert.isAbove(asked.filter(({ length }) => length > 1).length, 0)
        assert.isTrue(Option.isNone(wayTo(client, peer)))
        later = 50_000
        assert.isTrue(Option.isNone(wayTo(client, peer)))
        // Whatever it says of itself meanwhile.
        yield* client.fetch(peer, first, 0, collector())
        assert.isTrue(Option.isNone(wayTo(client, peer)))
        later = 61_000
        assert.isTrue(Option.isSome(wayTo(client, peer)))
        // Twice as long the next time.
        areRight([], (yield* ask(client, peer, two)).filter((bytes) => bytes !== undefined))
        later += 110_000
        assert.isTrue(Option.isNone(wayTo(client, peer)))
        later += 11_000
        assert.isTrue(Option.isSome(wayTo(client, peer)))
      }))
  }

  it.live("says that a peer can't be reached that answers nothing", () =>
    Effect.gen(function*() {
      const { peer } = yield* bundlingPeer({ onBundle: () => undefined })
      const client = yield* introduced(peer, { ackTimeoutMillis: 100 })
      const error = yield* Effect.flip(ask(client, peer, two))
      assert.strictEqual(error._tag, "PeerUnreachable")
      assert.include(error.message, "no answer within 100 ms")
      assert.isTrue(Option.isNone(wayTo(client, peer)))
    }))

  it.live("says so of one to which there is no connection", () =>
    Effect.gen(function*() {
      const client = yield* makeClient()
      // Heard of it, then it is gone.
      const peer = yield* Effect.scoped(Effect.gen(function*() {
        const { peer } = yield* bundlingPeer({})
        yield* client.fetch(peer, first, 0, collector())
        return peer
      }))
      const error = yield* Effect.flip(ask(client, peer, two))
      assert.strictEqual(error._tag, "PeerUnreachable")
    }))

  for (const [whose, mine, its] of [["its own", 10 ** 9, 0], ["the peer's", 0, 10 ** 9]] as const) {
    it.live(`asks for nothing together while there is a limit, ${whose}`, () =>
      Effect.gen(function*() {
        const server = yield* startServer({ files: files.map((entry) => ({ entry })) }, {}, [], {
          pull: yield* Throttle.make(0),
          serve: yield* Throttle.make(its)
        })
        const client = yield* introduced(server, {}, {
          pull: yield* Throttle.make(mine),
          serve: yield* Throttle.make(0)
        })
        assert.isTrue(Option.isNone(wayTo(client, server)))
      }))
  }

  it.live("makes the request anew when the peer had closed the connection that was idle", () =>
    Effect.gen(function*() {
      let bundles = 0
      const { asked, peer } = yield* bundlingPeer({
        onBundle: (socket, request) => ++bundles === 1 ? socket.destroy() : socket.write(bundleOf(request))
      })
      const client = yield* introduced(peer)
      areRight(two, yield* ask(client, peer, two))
      assert.deepStrictEqual(asked.map(({ length }) => length), [1, 2, 2])
    }))

  it.live("gives nothing of what the bundle leaves out", () =>
    Effect.gen(function*() {
      const missing = entryOf("db/m/missing", 500)
      const { peer } = yield* bundlingPeer({
        onBundle: (socket, request) =>
          socket.write(Buffer.concat([
            bundleAckFor(request, request.paths.map((path) => byPath.has(path) ? sizeOf(path) : -1)),
            bodiesOf(request)
          ]))
      })
      const client = yield* introduced(peer)
      const [one, none, other] = yield* ask(client, peer, [...two.slice(0, 1), missing, ...two.slice(1)])
      areRight(two, [one, other])
      assert.isUndefined(none)
    }))

  it.live("breaks off at once when nobody wants them any more", () =>
    Effect.gen(function*() {
      const requests = yield* Queue.unbounded<void>()
      const { closed, peer } = yield* bundlingPeer({ onBundle: () => void Queue.offerUnsafe(requests, undefined) })
      const client = yield* introduced(peer)
      const asking = yield* Effect.forkChild(ask(client, peer, two))
      yield* Queue.take(requests)
      yield* Fiber.interrupt(asking)
      yield* Queue.take(closed)
    }))

  it.live("gives what has come whole while the rest comes slowly, and keeps it when that does not come", () =>
    Effect.gen(function*() {
      const [one = first, two = first, three = first] = others
      const body = ({ size_bytes: size }: FileEntry) => allBytes(size)
      let rest: (bytes: Uint8Array) => void = () => undefined
      const { peer } = yield* bundlingPeer({
        onBundle: (socket, request) => {
          rest = (bytes) => socket.end(bytes)
          const ack = bundleAckFor(request, request.paths.map((path) => path === first.path ? -1 : sizeOf(path)))
          socket.write(Buffer.concat([ack, body(one), body(two).subarray(0, 1)]))
        }
      })
      const clock = yield* Clock.Clock
      // It passes with each look at it.
      let looks = 0
      const slow: Clock.Clock = Object.create(clock, {
        currentTimeMillisUnsafe: { value: () => clock.currentTimeMillisUnsafe() + ++looks * 100 }
      })
      const client = yield* introduced(peer).pipe(Effect.provideService(Clock.Clock, slow))
      for (const whole of [true, false]) {
        const fetchTogether = yield* Effect.fromOption(wayTo(client, peer))
        const came: Array<readonly [number, ReadonlyArray<string | undefined>]> = []
        yield* fetchTogether([one, first, two, three], (bodies, from) =>
          Effect.sync(() => {
            came.push([from, bodies.map((bytes) => bytes && Buffer.from(bytes).toString("hex"))])
            if (from === 0) rest(whole ? Buffer.concat([body(two).subarray(1), body(three)]) : Buffer.from("x"))
          }))
        const hex = (file: FileEntry) => body(file).toString("hex")
        const early = [0, [hex(one), undefined]] as const
        assert.deepStrictEqual(came, whole ? [early, [2, [hex(two), hex(three)]]] : [early])
      }
    }))

  it.live("leaves a defect of whoever uses the bytes as it is", () =>
    Effect.gen(function*() {
      const { peer } = yield* bundlingPeer({})
      const client = yield* introduced(peer)
      const fetchTogether = yield* Effect.fromOption(wayTo(client, peer))
      const exit = yield* Effect.exit(fetchTogether([first], () => Effect.die("the user's")))
      assert.deepStrictEqual(exit, Exit.die("the user's"))
      assert.isTrue(Option.isSome(wayTo(client, peer)))
    }))
})
