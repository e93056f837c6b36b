import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Layer, Scope } from "effect"
import { HttpServer } from "effect/http"
import { connect } from "node:net"
import * as Server from "../../src/http/server.ts"

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

  it.live("names host, port and settings when it can't listen", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Layer.build(Server.layer({ host: "198.51.100.7", port: 8123 })))
      assert.match(
        error.message,
        /can't serve HTTP on 198\.51\.100\.7 port 8123: this machine has no such address; .*server\.host/
      )
    }))
})
