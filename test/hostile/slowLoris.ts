/**
 * Honest peers pull while thousands of connections are held open by somebody who says nothing. Prints what they get
 * each second without and with the attack, by turns, and the part that is lost.
 *
 *     npm run bench:slow-loris                   CONNECTIONS=2000 FILES=400 ROUNDS=5 REOPEN_MS=10000 are its settings
 *
 * The server is a process of its own; the attackers are another, so that their work is not the puller's.
 */
import { Console, Effect } from "effect"
import { type ChildProcess, fork } from "node:child_process"
import { connect, type Socket } from "node:net"
import { entryOf } from "../peer/support/doubles.ts"
import { makeClient, nodeA, startServer } from "../peer/support/nodes.ts"

const setting = (name: string, fallback: number): number => Number(process.env[name] ?? fallback)
const connections = setting("CONNECTIONS", 2000)
const files = setting("FILES", 400)
const rounds = setting("ROUNDS", 5)
/** How soon an attacker comes back when the server has closed on it. */
const reopenMillis = setting("REOPEN_MS", 10_000)
const size = 1 << 20
const puller = 4

const { sha256 } = entryOf("any", size)
const entries = Array.from({ length: files }, (_, nth) => entryOf(`db/m/${nth}.parquet`, size, sha256))

const part = (name: string, ...args: ReadonlyArray<string>): ChildProcess =>
  fork(import.meta.filename, [name, ...args], { execArgv: ["--disable-warning=ExperimentalWarning"] })

const said = (child: ChildProcess) =>
  Effect.callback<number>((resume) => {
    child.once("message", (message) => resume(Effect.succeed(Number(message))))
  })

const ended = (child: ChildProcess) =>
  Effect.callback<void>((resume) => {
    child.once("exit", () => resume(Effect.void))
    child.disconnect()
  })

const server = Effect.gen(function*() {
  const peer = yield* startServer({ files: entries.map((entry) => ({ entry })) }, {
    maxConnections: 256,
    maxServes: 32
  })
  process.send?.(peer.address.port)
  // Asked for anything, it tells how much processor time it has used, milliseconds.
  process.on("message", () => {
    const { system, user } = process.cpuUsage()
    process.send?.(Math.round((system + user) / 1000))
  })
  return yield* Effect.never
})

/** Holds so many connections, opens each anew when the server ends it, and says a byte now and then. */
const attack = (port: number) => {
  let opened = 0
  const open = () => {
    const socket: Socket = connect({ host: "127.0.0.1", port })
    socket.on("error", () => undefined)
    socket.on("connect", () => {
      if (++opened === connections) process.send?.(opened)
    })
    const dribble = setInterval(() => socket.writable && socket.write("\0"), 3000)
    socket.on("close", () => {
      clearInterval(dribble)
      setTimeout(open, reopenMillis)
    })
  }
  for (let nth = 0; nth < connections; nth++) open()
}

const pull = Effect.gen(function*() {
  const port = Number(process.argv[3])
  const client = yield* makeClient({ requireSignedAcks: true })
  const before = performance.now()
  yield* Effect.forEach(
    entries,
    (entry) =>
      client.fetch({ id: nodeA, address: { host: "127.0.0.1", port } }, entry, 0, { write: () => Effect.void }),
    { concurrency: puller, discard: true }
  )
  return Math.round((files * size) / (1 << 20) / ((performance.now() - before) / 1000))
})

const pulled = (port: number) =>
  Effect.suspend(() => {
    const child = part("pull", String(port))
    return Effect.tap(said(child), () => ended(child))
  })

/** What the server needs meanwhile, processor milliseconds: a figure that other work on the machine does not touch. */
const costOf = <A>(serving: ChildProcess, effect: Effect.Effect<A>) =>
  Effect.gen(function*() {
    const asked = Effect.suspend(() => {
      serving.send("cpu")
      return said(serving)
    })
    const before = yield* asked
    const result = yield* effect
    return { result, millis: (yield* asked) - before }
  })

const median = (values: ReadonlyArray<number>): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0

const main = Effect.gen(function*() {
  const serving = part("server")
  const port = yield* said(serving)
  yield* pulled(port)
  const calm: Array<number> = []
  const attacked: Array<number> = []
  for (let round = 0; round < rounds; round++) {
    const alone = yield* costOf(serving, pulled(port))
    const attacking = part("attack", String(port))
    yield* said(attacking)
    const among = yield* costOf(serving, pulled(port))
    yield* ended(attacking)
    calm.push(alone.result)
    attacked.push(among.result)
    yield* Console.log(
      `round ${round + 1}: ${alone.result} MiB/s, ${alone.millis} ms of the server's processor; `
        + `with ${connections} attackers ${among.result} MiB/s, ${among.millis} ms`
    )
  }
  const lost = 1 - median(attacked) / median(calm)
  yield* Console.log(
    `medians ${median(calm)} and ${median(attacked)} MiB/s; ${Math.round(lost * 100)} % lost, every file pulled`
  )
  yield* ended(serving)
})

process.on("disconnect", () => process.exit(0))
switch (process.argv[2]) {
  case "server":
    Effect.runFork(Effect.scoped(server))
    break
  case "attack":
    attack(Number(process.argv[3]))
    break
  case "pull":
    process.send?.(await Effect.runPromise(Effect.scoped(pull)))
    break
  default:
    await Effect.runPromise(main)
}
