/** A proxy between two nodes that does one thing wrong, at one byte of what goes one way. */
import { Effect, type Scope } from "effect"
import { connect, createServer, type Socket } from "node:net"
import type { Address } from "../../src/ports/Membership.ts"

export const faults = ["delay", "drop", "duplicate", "truncate", "corrupt", "reset"] as const

export interface Fault {
  readonly kind: typeof faults[number]
  /** `request`: what the dialling side sends. */
  readonly way: "request" | "answer"
  /** Before, or at, which byte of a connection. */
  readonly at: number
}

export interface Proxy {
  readonly address: Address
  /** How many bytes have gone each way over the connection that was opened last. */
  readonly passed: () => { readonly request: number; readonly answer: number }
}

/** How long a delay is. */
const delayMillis = 5

export const proxyTo = (target: Address, fault?: Fault): Effect.Effect<Proxy, never, Scope.Scope> =>
  Effect.gen(function*() {
    const sockets = new Set<Socket>()
    let last = { request: 0, answer: 0 }

    const server = createServer((near) => {
      const far = connect(target)
      const passed = { request: 0, answer: 0 }
      last = passed
      for (const socket of [near, far]) {
        sockets.add(socket)
        socket.setNoDelay(true)
        socket.on("error", () => undefined)
        socket.on("close", () => {
          sockets.delete(socket)
          near.destroy()
          far.destroy()
        })
      }
      const pass = (way: Fault["way"], from: Socket, to: Socket) => {
        from.on("data", (chunk: Buffer) => {
          const at = fault?.way === way ? fault.at - passed[way] : -1
          passed[way] += chunk.length
          if (fault === undefined || at < 0 || at >= chunk.length) return void to.write(chunk)
          to.write(chunk.subarray(0, at))
          const rest = chunk.subarray(at)
          switch (fault.kind) {
            case "delay":
              from.pause()
              setTimeout(() => {
                to.write(rest)
                from.resume()
              }, delayMillis)
              return
            case "drop":
              return void to.write(rest.subarray(1))
            case "duplicate":
              return void to.write(Buffer.concat([rest.subarray(0, 1), rest]))
            case "corrupt":
              return void to.write(Buffer.concat([Buffer.from([rest.readUInt8(0) ^ 1]), rest.subarray(1)]))
            case "truncate":
              near.end()
              far.end()
              from.removeAllListeners("data")
              return void from.resume()
            case "reset":
              near.resetAndDestroy()
              far.resetAndDestroy()
          }
        })
        from.on("end", () => to.end())
      }
      pass("request", near, far)
      pass("answer", far, near)
    })
    const port = yield* Effect.acquireRelease(
      Effect.callback<number>((resume) => {
        server.listen(0, "127.0.0.1", () => {
          const address = server.address()
          resume(Effect.succeed(address !== null && typeof address === "object" ? address.port : 0))
        })
      }),
      () =>
        Effect.sync(() => {
          for (const socket of sockets) socket.destroy()
          server.close()
        })
    )
    return { address: { host: "127.0.0.1", port }, passed: () => last }
  })
