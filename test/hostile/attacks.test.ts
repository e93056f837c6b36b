/** Peers that want to take more than their share, or to be believed without proof. */
import { assert, describe, it, vi } from "@effect/vitest"
import { Context, Deferred, Effect, Fiber, Layer, Logger, Option, Redacted, References, Result, Tracer } from "effect"
import type { Socket } from "node:net"
import * as BackendMemory from "../../src/backend/BackendMemory.ts"
import * as Frame from "../../src/peer/protocol/Frame.ts"
import * as Messages from "../../src/peer/protocol/Messages.ts"
import { Backend } from "../../src/ports/Backend.ts"
import { type FileEntry, Sha256 } from "../../src/ports/FileEntry.ts"
import { allBytes, entryOf, sha256Of } from "../peer/support/doubles.ts"
import { collector, makeClient, rawClient, rawPeer, startServer } from "../peer/support/nodes.ts"
import { ackFrame, frame, requestFor, requestFrame, takeAck } from "../peer/support/requests.ts"

// Most faults here show as waiting for ever.
vi.setConfig({ testTimeout: 60_000 })

const MiB = 1 << 20
const small = entryOf("small", 1000)
const huge = entryOf("huge", 2 ** 40, Sha256.make("a".repeat(64)))
const files = [{ entry: small }, { entry: huge }]

/** Runs an attack; the process may not grow by more than noise explains. */
const flat = <A, E, R>(attack: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const before = process.memoryUsage.rss()
    let most = before
    const watch = Effect.sync(() => {
      most = Math.max(most, process.memoryUsage.rss())
    }).pipe(Effect.andThen(Effect.sleep(50)), Effect.forever)
    const watching = yield* Effect.forkChild(watch)
    const result = yield* attack
    yield* Fiber.interrupt(watching)
    assert.isBelow((most - before) / MiB, 200)
    return result
  })

/** A peer that answers every request with what `answer` writes. */
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

/** Sends for as long as somebody reads, at most so many bytes. */
const pour = (socket: Socket, limit: number) => {
  const chunk = Buffer.alloc(MiB)
  let sent = 0
  const more = () => {
    while (!socket.destroyed && sent < limit) {
      sent += chunk.length
      if (!socket.write(chunk)) return void socket.once("drain", more)
    }
  }
  more()
}

describe("a peer that answers", () => {
  const GiB10 = 10 * 1024 * MiB
  const right = { size_bytes: 1000n, sha256: small.sha256 }

  it.live("with 10 GiB is left behind the first byte that is too much, or before the first", () =>
    flat(Effect.gen(function*() {
      for (const size_bytes of [1000n, BigInt(GiB10)]) {
        const { peer } = yield* answering((socket) => {
          socket.write(ackFrame({ ...right, size_bytes }))
          pour(socket, GiB10)
        })
        const sink = collector()
        const error = yield* Effect.flip((yield* makeClient()).fetch(peer, small, 0, sink))
        assert.strictEqual(error._tag, "ProtocolViolation")
        assert.isAtMost(sink.bytes().length, 1000)
      }
      const { peer } = yield* answering((socket) => pour(socket, GiB10))
      assert.strictEqual(
        (yield* Effect.flip((yield* makeClient()).fetch(peer, small, 0, collector())))._tag,
        "ProtocolViolation"
      )
    })))

  it.live("with a header of 10 GiB of spaces gets no memory for it", () =>
    flat(Effect.gen(function*() {
      const { peer } = yield* answering((socket) => {
        const head = Buffer.alloc(5)
        head.writeUInt32BE(0xffff_ffff, 0)
        socket.write(head)
        pour(socket, GiB10)
      })
      const error = yield* Effect.flip((yield* makeClient()).fetch(peer, small, 0, collector()))
      assert.strictEqual(error._tag, "ProtocolViolation")
    })))

  const others: ReadonlyArray<readonly [string, Partial<Messages.FetchFileAck>, Buffer]> = [
    ["another file's bytes", right, Buffer.alloc(1000, 7)],
    ["nothing of the file", right, Buffer.alloc(0)],
    ["a valid file under a wrong name", { size_bytes: 1000n, sha256: sha256Of(999) }, allBytes(1000)],
    ["a valid file of another length", { size_bytes: 999n, sha256: sha256Of(999) }, allBytes(999)]
  ]
  for (const [what, ack, body] of others) {
    it.live(`with ${what} shows nothing under the file's name`, () =>
      Effect.gen(function*() {
        const { peer } = yield* answering((socket) => socket.end(Buffer.concat([ackFrame(ack), body])))
        const backend = Context.get(yield* Layer.build(BackendMemory.layer), Backend)
        const client = yield* makeClient()
        const tried = yield* Effect.gen(function*() {
          const staged = yield* backend.stage(small.path, small.sha256)
          yield* client.fetch(peer, small, 0, staged)
          yield* staged.commit(small.sha256)
        }).pipe(Effect.scoped, Effect.result)
        assert.strictEqual(tried._tag, "Failure")
        assert.isTrue(Option.isNone(yield* backend.stat(small.path)))
      }))
  }

  it.live("without the secret can't make us accept so much as a refusal, when we want signatures", () =>
    Effect.gen(function*() {
      const codes = ["not_found", "manifest", "busy", "crowded", "bad_offset", "backend", "raft", "invalid_path", ""]
      const client = yield* makeClient({ requireSignedAcks: true })
      for (const code of codes) {
        for (const ack_hmac of ["", "0".repeat(64)]) {
          const { peer } = yield* answering((socket) =>
            socket.end(ackFrame({
              status: "error",
              code,
              error: "file not in manifest",
              ack_hmac,
              server_node_id: "node-a",
              retry_after_ms: 300_000n
            }))
          )
          const error = yield* Effect.flip(client.fetch(peer, small, 0, collector()))
          assert.strictEqual(error._tag, "ProtocolViolation", `${code} ${ack_hmac}`)
        }
      }
    }))
})

describe("a client", () => {
  it.live("that reads a byte now and then is dropped, and others are served all the while", () =>
    Effect.gen(function*() {
      const ended = yield* Deferred.make<void>()
      const logs: Array<string> = []
      const peer = yield* startServer(
        { files, afterBody: Effect.asVoid(Deferred.succeed(ended, undefined)) },
        { maxServes: 2, serveTimeoutMillis: 300 },
        logs
      )
      const reader = yield* rawClient(peer)
      yield* reader.send(requestFrame(requestFor("huge")))
      assert.strictEqual((yield* takeAck(reader)).status, "ok")
      reader.socket.removeAllListeners("data")
      reader.socket.pause()
      const sipping = setInterval(() => reader.socket.read(1), 5)
      reader.socket.on("close", () => clearInterval(sipping))
      yield* Deferred.await(ended)
      yield* (yield* makeClient()).fetch(peer, small, 0, collector())
      assert.include(logs.join("\n"), "no progress for 300 ms")
    }))

  it.live("that holds hundreds of connections open and says next to nothing keeps nobody out", () =>
    flat(Effect.gen(function*() {
      const peer = yield* startServer({ files }, { maxConnections: 32 })
      const lorises = yield* Effect.forEach(Array.from({ length: 200 }), () => rawClient(peer), { concurrency: 20 })
      // The most that a stranger can have kept for it: a frame that was announced and never comes.
      const announced = Buffer.from([0, 1, 0, 0, 0x20, 0x7b])
      const dribble = setInterval(() => {
        for (const { socket } of lorises) if (socket.writable) socket.write(announced)
      }, 20)
      yield* Effect.addFinalizer(() => Effect.sync(() => clearInterval(dribble)))
      // One that keeps its connection, and one that comes anew each time.
      const keeping = yield* makeClient()
      for (let nth = 0; nth < 25; nth++) {
        yield* keeping.fetch(peer, small, 0, collector())
        const coming = yield* rawClient(peer)
        yield* coming.send(requestFrame(requestFor("small")))
        assert.strictEqual((yield* takeAck(coming)).status, "ok")
        assert.isTrue((yield* coming.all).equals(allBytes(1000)))
        yield* rawClient(peer)
      }
    })))

  it.live("that guesses is told the same whatever is wrong, and never sooner than a right one would wait", () =>
    Effect.gen(function*() {
      const right = requestFor("small")
      const wrong: ReadonlyArray<Messages.FetchFile> = [
        { ...right, hmac: "0".repeat(64) },
        requestFor("small", { timestamp: 1n }),
        requestFor("small", { nonce: "A".repeat(64) }),
        requestFor("small", {}, { secret: Redacted.make("another") }),
        { ...requestFor("small"), path: "huge" }
      ]
      const answers = new Set<string>()
      for (const request of wrong) {
        // A server each: its first offence waits for the shortest time.
        const peer = yield* startServer({ files })
        const client = yield* rawClient(peer)
        const before = performance.now()
        yield* client.send(requestFrame(request))
        const { ack_hmac: _, ...answer } = yield* takeAck(client)
        assert.isAtLeast(performance.now() - before, 99)
        answers.add(JSON.stringify(answer, (_, value: unknown) => typeof value === "bigint" ? `${value}` : value))
      }
      // A nonce of another form is not signed for; else all are the same.
      assert.isAtMost(answers.size, 2)
    }))

  it.live("that sends garbage, a thousand times, costs nothing that stays", () =>
    flat(Effect.gen(function*() {
      const logs: Array<string> = []
      const peer = yield* startServer({ files }, {}, logs)
      const garbage = [
        frame(0x20, "nonsense"),
        frame(0x7f, "{}"),
        Buffer.from("GET / HTTP/1.1\r\n\r\n"),
        Buffer.alloc(9)
      ]
      yield* Effect.forEach(Array.from({ length: 1000 }, (_, nth) => garbage[nth % 4] ?? garbage[0]), (sent) =>
        Effect.scoped(Effect.gen(function*() {
          const client = yield* rawClient(peer)
          if (sent !== undefined) {
            yield* client.send(sent)
          }
          assert.strictEqual((yield* client.all).length, 0)
        })), { concurrency: 16, discard: true })
      // One line now; the next in a minute, with a count.
      assert.isAtMost(logs.length, 2)
      yield* (yield* makeClient()).fetch(peer, small, 0, collector())
    })))
})

describe("the secret", () => {
  it.live("is in no log, no error, no trace and no byte that is sent, whatever goes wrong", () =>
    Effect.gen(function*() {
      const current = "current-secret-of-these-tests"
      const previous = "previous-secret-of-these-tests"
      const said: Array<string> = []
      const say = (value: unknown) =>
        said.push(
          String(value),
          JSON.stringify(value, (_, inner: unknown) => typeof inner === "bigint" ? `${inner}` : inner) ?? "",
          value instanceof Error ? `${value.stack} ${JSON.stringify({ ...value })}` : ""
        )
      const listening = Layer.mergeAll(
        Logger.layer([Logger.make((options) => {
          say(options.message)
          say(options.cause)
        })]),
        Layer.succeed(References.MinimumLogLevel, "All"),
        Layer.succeed(
          Tracer.Tracer,
          Tracer.make({
            span: (options) => {
              const span = new Tracer.NativeSpan(options)
              return Object.assign(span, {
                attribute: (key: string, value: unknown) => {
                  say(key)
                  say(value)
                }
              })
            }
          })
        )
      )
      const secrets = { secret: Redacted.make(current), previousSecret: Redacted.make(previous) }
      yield* Effect.gen(function*() {
        const logs: Array<string> = []
        const peer = yield* startServer({ files }, secrets, logs)
        const tries: ReadonlyArray<readonly [Parameters<typeof makeClient>[0], FileEntry]> = [
          [{ ...secrets }, small],
          [{ secret: Redacted.make("another") }, small],
          [{ ...secrets, clusterName: "another" }, small],
          [secrets, entryOf("nowhere", 10)],
          [secrets, { ...small, size_bytes: 7 }]
        ]
        for (const [options, entry] of tries) {
          const client = yield* makeClient(options)
          say(yield* Effect.exit(client.fetch(peer, entry, 0, collector())))
        }
        const seen: Array<Buffer> = []
        const { peer: listener } = yield* rawPeer((socket) => {
          socket.on("data", (chunk: Buffer) => {
            seen.push(chunk)
            socket.end()
          })
        })
        say(yield* Effect.exit((yield* makeClient(secrets)).fetch(listener, small, 0, collector())))
        say(Buffer.concat(seen).toString("latin1"))
        say(secrets)
        assert.isAbove(logs.length, 0)
        say(logs)
      }).pipe(Effect.provide(listening))
      assert.isAbove(said.length, 20)
      const all = said.join("\n")
      const keys = [current, previous].flatMap((
        key
      ) => [key, Buffer.from(key).toString("hex"), Buffer.from(key).toString("base64")])
      for (const key of keys) assert.isFalse(all.includes(key))
    }))
})
