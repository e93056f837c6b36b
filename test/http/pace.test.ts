/** Whoever is too slow is cut, and whoever waits for the manifest is told. Real sockets, with limits of the tests. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Logger, Schedule } from "effect"
import { readdirSync } from "node:fs"
import { request } from "node:http"
import { connect } from "node:net"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Manifest, Unavailable } from "../../src/ports/Manifest.ts"
import { temporaryFolder } from "../support/folder.ts"
import { publish, start, stateOf } from "../support/realNode.ts"
import { face } from "./face.ts"
import { ask, Node, put, refused } from "./node.ts"

const size = 48 * 1024 * 1024

/** Far below what a client takes that reads, and above what is sent to one that does not. */
const pace = { bytesPerSecond: 16 * 1024 * 1024, lenientMillis: 1000 }
const paces = { upload: pace, download: pace }

const addressOf = Effect.map(Node, ({ url }) => {
  const { hostname: host, port } = new URL(url)
  return { host, port: Number(port) }
})

describe("the pace of files over HTTP", () => {
  it.live("cuts a reader that stops to read, and none that reads", () =>
    Effect.gen(function*() {
      const node = yield* start(yield* temporaryFolder, "node")
      yield* publish(node, "db/large", new Uint8Array(size))
      const cut = yield* Deferred.make<string>()
      const tell = Logger.make(({ message }) => {
        if (String(message).includes("cut short")) Deferred.doneUnsafe(cut, Effect.succeed(String(message)))
      })
      const served = yield* face(node, { paces }).pipe(Effect.provide(Logger.layer([tell])))
      yield* Effect.gen(function*() {
        const { host, port } = yield* addressOf
        const closed = yield* Deferred.make<void>()
        let received = 0
        const socket = yield* Effect.acquireRelease(
          Effect.sync(() =>
            connect({ host, port }, () => {
              socket.write("GET /api/v1/files/db/large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            })
          ),
          (socket) => Effect.sync(() => socket.destroy())
        )
        socket.on("data", (chunk) => (received += chunk.length))
        socket.once("data", () => socket.pause())
        socket.on("error", () => undefined).on("close", () => Deferred.doneUnsafe(closed, Effect.void))
        assert.strictEqual(
          yield* Deferred.await(cut),
          "a download was cut short: db/large was taken at less than 16384 KiB a second"
        )
        socket.resume()
        yield* Deferred.await(closed)
        assert.isAbove(received, 0)
        assert.isBelow(received, size)
        const whole = yield* ask("GET", "/api/v1/files/db/large")
        assert.strictEqual(whole.bytes.length, size)
      }).pipe(Effect.provide(served), Effect.scoped)
    }), 30_000)

  it.live(
    "refuses a body that comes too slowly, keeps nothing of it, and takes one that comes",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const node = yield* start(folder, "node")
        yield* Effect.gen(function*() {
          const { host, port } = yield* addressOf
          const answer = yield* Effect.callback<string>((resume) => {
            const outgoing = request({ host, port, method: "PUT", path: "/api/v1/files/db/slow" }, (response) => {
              response.setEncoding("utf8").once(
                "data",
                (text) => resume(Effect.succeed(`${response.statusCode} ${text}`))
              )
            })
            outgoing.on("error", () => undefined)
            const drip = setInterval(() => outgoing.write("x"), 50)
            outgoing.on("close", () => clearInterval(drip))
            return Effect.sync(() => {
              clearInterval(drip)
              outgoing.destroy()
            })
          })
          assert.match(answer, /^408 .*"TooSlow"/)
          const staging = join(stateOf(folder, "node"), "staging")
          const staged = Effect.sync(() =>
            readdirSync(staging, { recursive: true, withFileTypes: true }).filter((each) => each.isFile())
          )
          yield* Effect.repeat(staged, { until: (files) => files.length === 0, schedule: Schedule.spaced("10 millis") })
          assert.strictEqual((yield* put("db/whole", Buffer.alloc(size))).status, 201)
        }).pipe(Effect.provide(yield* face(node, { paces })))
      }),
    30_000
  )
})

describe("a manifest that does not answer", () => {
  it.live(
    "lets PUT say that the file is safe and not registered, and registers it once it answers",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const node = yield* start(folder, "node", { reconcileIntervalMillis: 100 })
        const inventory = Context.get(node, Inventory)
        yield* Effect.gen(function*() {
          const database = new DatabaseSync(join(folder, "manifest.db"))
          yield* Effect.addFinalizer(() => Effect.sync(() => database.close()))
          database.exec("BEGIN IMMEDIATE")
          const message = yield* refused(yield* put("db/late", "bytes"), 503, "NotRegistered")
          assert.match(message, /^db\/late is safe on this node's disk.*without being sent again$/)
          const early = yield* ask("GET", "/api/v1/files/db/late")
          assert.match(yield* refused(early, 503, "NotVerified"), /is being published/)
          database.exec("ROLLBACK")
          yield* Effect.repeat(ask("GET", "/api/v1/files/db/late"), {
            until: ({ text }) => text === "bytes",
            schedule: Schedule.spaced("50 millis")
          })
          assert.lengthOf(yield* inventory.pendings, 0)
        }).pipe(Effect.provide(yield* face(node, { patienceMillis: 300 })), Effect.scoped)
      }),
    60_000
  )

  it.live(
    "lets PUT take a file that is not to be compared with what stands, and no other",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const node = yield* start(folder, "node")
        yield* publish(node, "db/stands", "bytes")
        const inner = Context.get(node, Manifest)
        const away = Effect.fail(new Unavailable({ operation: "get", detail: "away" }))
        const answers = yield* Effect.forEach([away, Effect.never], (answer, n) =>
          Effect.gen(function*() {
            const unseen = Context.add(node, Manifest, { ...inner, get: () => answer })
            return yield* Effect.gen(function*() {
              const headers = { "if-none-match": "*" }
              const conditional = answer === away
                ? [ask("PUT", "/api/v1/files/db/if", { headers, body: "bytes" })]
                : []
              const asked = [
                put(`db/new-${n}`, "bytes"),
                put("db/stands", "bytes"),
                put("db/stands", "other"),
                ...conditional
              ]
              return (yield* Effect.all(asked, { concurrency: 4 })).map(({ status }) => status)
            }).pipe(Effect.provide(yield* face(unseen)))
          }), { concurrency: 2 })
        assert.deepStrictEqual(answers, [[201, 200, 409, 503], [201, 200, 409]])
      }),
    30_000
  )
})
