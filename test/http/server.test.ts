import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { HttpServer, HttpServerRequest, HttpServerResponse } from "effect/http"
import { connect, type Socket } from "node:net"
import * as Server from "../../src/http/server.ts"
import { version } from "../../src/version.ts"

const listen = Layer.build(Server.layer({ host: "127.0.0.1", port: 0 }))

describe("the HTTP server", () => {
  it.live("cuts whoever is still connected when its scope closes", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const context = yield* Scope.provide(listen, scope)
      const { port } = new URL(HttpServer.formatAddress(Context.get(context, HttpServer.HttpServer).address))
      const connected = yield* Deferred.make<void>()
      const closed = yield* Deferred.make<void>()
      const socket = connect(Number(port), "127.0.0.1", () => {
        socket.write("GET /rea")
        Deferred.doneUnsafe(connected, Effect.void)
      })
      socket.on("error", () => undefined).on("close", () => Deferred.doneUnsafe(closed, Effect.void))
      yield* Deferred.await(connected)
      yield* Scope.close(scope, Exit.void)
      yield* Deferred.await(closed)
    }), 5000)

  it.live(
    "answers while others hold more connections than there may be, and cuts nobody it serves",
    () =>
      Effect.gen(function*() {
        const context = yield* listen
        const began = yield* Deferred.make<void>()
        const gate = yield* Deferred.make<void>()
        const slow = Effect.andThen(Deferred.succeed(began, undefined), Deferred.await(gate))
        yield* HttpServerRequest.HttpServerRequest.pipe(
          Effect.flatMap(({ url }) => url === "/slow" ? slow : Effect.void),
          Effect.as(HttpServerResponse.text("answered")),
          HttpServer.serveEffect(),
          Effect.provide(context)
        )
        const { hostname, port } = new URL(
          HttpServer.formatAddress(Context.get(context, HttpServer.HttpServer).address)
        )
        const whole = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        const open = (said: string) =>
          Effect.acquireRelease(
            Effect.callback<Socket>((resume) => {
              const opened = () => resume(Effect.succeed(socket))
              const socket = connect(Number(port), hostname, () => {
                socket.write(said)
                if (said !== whole) opened()
              })
              socket.on("error", () => undefined).once("data", opened).once("close", opened)
            }),
            (socket) => Effect.sync(() => socket.destroy())
          )
        const get = (path: string) =>
          Effect.promise((signal) => fetch(`http://${hostname}:${port}${path}`, { signal }).then((each) => each.text()))
        // On a connection that has rested before.
        yield* get("/")
        const first = yield* Effect.forkChild(get("/slow"))
        yield* Deferred.await(began)
        // Some say nothing, some begin a request, some have had their answer.
        for (const said of ["", "GET /", whole]) {
          yield* Effect.forEach(Array.from({ length: 150 }), () => open(said), { concurrency: 16 })
          assert.strictEqual(yield* get("/"), "answered")
        }
        yield* Deferred.succeed(gate, undefined)
        assert.strictEqual(yield* Fiber.join(first), "answered")
      }),
    30_000
  )

  it.live(
    "refuses what is asked before anything serves but whether it lives, and cuts who is connected when that ends",
    () =>
      Effect.gen(function*() {
        const context = yield* listen
        const { hostname, port } = new URL(
          HttpServer.formatAddress(Context.get(context, HttpServer.HttpServer).address)
        )
        const getFrom = (path: string) =>
          Effect.promise(() =>
            fetch(`http://${hostname}:${port}${path}`).then(async (each) => [each.status, await each.text()] as const)
          )
        const get = getFrom("/")
        assert.deepStrictEqual(yield* getFrom("/health"), [200, JSON.stringify({ status: "starting", version })])
        assert.strictEqual((yield* getFrom("/ready"))[0], 503)
        assert.deepStrictEqual(yield* get, [
          503,
          "{\"error\":{\"code\":\"Unavailable\",\"message\":\"the node is starting; ask again\"}}"
        ])
        const serving = yield* Scope.make()
        yield* Effect.succeed(HttpServerResponse.text("answered")).pipe(
          HttpServer.serveEffect(),
          Effect.provide(context),
          Scope.provide(serving)
        )
        assert.deepStrictEqual(yield* get, [200, "answered"])
        assert.deepStrictEqual(yield* getFrom("/health"), [200, "answered"])
        const connected = yield* Deferred.make<void>()
        const closed = yield* Deferred.make<void>()
        const socket = connect(Number(port), hostname, () => {
          socket.write("GET /")
          Deferred.doneUnsafe(connected, Effect.void)
        })
        socket.on("error", () => undefined).on("close", () => Deferred.doneUnsafe(closed, Effect.void))
        yield* Deferred.await(connected)
        yield* Scope.close(serving, Exit.void)
        yield* Deferred.await(closed)
      }),
    5000
  )

  it.live(
    "breaks off what a client asked for that ends its side of the connection",
    () =>
      Effect.gen(function*() {
        const context = yield* listen
        const { hostname, port } = new URL(
          HttpServer.formatAddress(Context.get(context, HttpServer.HttpServer).address)
        )
        const began = yield* Deferred.make<void>()
        const interrupted = yield* Deferred.make<void>()
        const closed = yield* Deferred.make<string>()
        yield* Deferred.succeed(began, undefined).pipe(
          Effect.andThen(Effect.never),
          Effect.onInterrupt(() => Deferred.succeed(interrupted, undefined)),
          // As every route is.
          Effect.interruptible,
          HttpServer.serveEffect(),
          Effect.provide(context)
        )
        let said = ""
        const socket = connect({ port: Number(port), host: hostname, allowHalfOpen: true })
        socket.on("data", (chunk) => (said += chunk.toString()))
        socket.on("error", () => undefined).on("close", () => Deferred.doneUnsafe(closed, Effect.succeed(said)))
        socket.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield* Deferred.await(began)
        socket.end()
        yield* Deferred.await(interrupted)
        assert.strictEqual(yield* Deferred.await(closed), "")
      }),
    5000
  )

  it.live("names host, port and settings when it can't listen", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Layer.build(Server.layer({ host: "198.51.100.7", port: 8123 })))
      assert.match(
        error.message,
        /can't serve HTTP on 198\.51\.100\.7 port 8123: this machine has no such address; .*server\.host/
      )
    }))
})
