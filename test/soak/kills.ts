/**
 * A reader that is killed with -9 again and again while it catches up. Every file must arrive, no wrong byte may ever
 * show under a final name, and what is sent twice must stay below 1 MiB a kill.
 *
 *     npm run soak:kill                   KILLS=200 FILES=500 LARGEST=4194304 WORKERS=4 SEED=… are its settings
 */
import { Console, Context, Deferred, Effect, Exit, Layer, Option, Queue, Redacted, type Scope } from "effect"
import { createHash } from "node:crypto"
import { readdirSync, readFileSync } from "node:fs"
import { connect, createServer, type Socket } from "node:net"
import { join } from "node:path"
import { FetchServer } from "../../src/peer/FetchServer.ts"
import { NodeId } from "../../src/ports/FileEntry.ts"
import * as Replication from "../../src/Replication.ts"
import { Registrar } from "../../src/replication/Registrar.ts"
import * as ReplicationConfig from "../../src/ReplicationConfig.ts"
import { type Running, start } from "../cluster/command.ts"
import { configure } from "../cluster/configure.ts"
import { temporaryFolder } from "../support/folder.ts"

export interface Plan {
  readonly kills: number
  readonly files: number
  /** Of the largest file, bytes. */
  readonly largest: number
  readonly workers: number
  readonly seed: number
}

export interface Figures {
  readonly files: number
  /** Bytes of all files. */
  readonly needed: number
  /** Bytes that the writer sent to the reader, headers included. */
  readonly served: number
  readonly kills: number
  /** Kills that came while a body was on its way. */
  readonly inBody: number
  readonly requests: number
  readonly sentTwicePerKill: number
}

const MiB = 1024 * 1024

/** Slow enough that a reader on a busy machine keeps up: what waits in the system's buffers when it dies is lost too. */
const bytesPerSecond = 8 * MiB

/** Numbers from 0 to 1 that a seed gives again. */
const makeRandom = (seed: number) => {
  let n = 0
  return () => createHash("sha256").update(`${seed} ${n++}`).digest().readUInt32BE(0) / 2 ** 32
}

/** A third is tiny, a third up to a quarter of the largest, a third up to that. */
const sizeOf = (random: () => number, largest: number): number =>
  Math.floor(random() * ([largest / 64, largest / 4, largest][Math.floor(random() * 3)] ?? 0))

const contentOf = (seed: number, n: number, size: number): Buffer =>
  Buffer.alloc(size, createHash("sha512").update(`${seed} file ${n}`).digest())

interface Proxy {
  readonly port: number
  readonly served: () => number
  readonly requests: () => number
  /** Whether a body is on its way. */
  readonly busy: () => boolean
  /** Waits until so many bytes in all have been served. */
  readonly until: (bytes: number) => Effect.Effect<void>
}

/** Stands before the writer: counts what it sends, and lets no more through than a slow link would. */
const makeProxy = (target: number): Effect.Effect<Proxy, never, Scope.Scope> =>
  Effect.gen(function*() {
    let served = 0
    let requests = 0
    let free = 0
    let open = 0
    let waiting: { readonly bytes: number; readonly reached: Deferred.Deferred<void> } | undefined
    const sockets = new Set<Socket>()
    const server = createServer((reader) => {
      requests++
      open++
      const writer = connect(target, "127.0.0.1")
      // A chunk waits for its time, and the end waits for the chunk.
      let held = false
      let ended = false
      for (const socket of [reader, writer]) {
        sockets.add(socket)
        socket.on("error", () => undefined)
        socket.on("close", () => sockets.delete(socket))
      }
      reader.on("close", () => {
        open--
        writer.destroy()
      })
      reader.on("data", (chunk: Buffer) => writer.write(chunk))
      writer.on("close", () => {
        ended = true
        if (!held) reader.end()
      })
      writer.on("data", (chunk: Buffer) => {
        writer.pause()
        held = true
        const now = performance.now()
        free = Math.max(free, now) + chunk.length / bytesPerSecond * 1000
        setTimeout(() => {
          if (reader.destroyed) return
          served += chunk.length
          held = false
          if (ended) reader.end(chunk)
          else reader.write(chunk, () => writer.resume())
          if (waiting !== undefined && served >= waiting.bytes) Deferred.doneUnsafe(waiting.reached, Effect.void)
        }, free - now)
      })
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
    return {
      port,
      served: () => served,
      requests: () => requests,
      busy: () => open > 0,
      until: (bytes) =>
        Effect.suspend(() => {
          if (served >= bytes) return Effect.void
          waiting = { bytes, reached: Deferred.makeUnsafe() }
          return Deferred.await(waiting.reached)
        })
    }
  })

const startWriter = (folder: string) =>
  Layer.build(
    Replication.layerActive.pipe(
      Layer.provideMerge(Replication.layerPorts()),
      Layer.provide(ReplicationConfig.layer({
        nodeId: Option.some(NodeId.make("writer")),
        localPath: join(folder, "writer", "data"),
        manifestPath: Option.some(join(folder, "manifest.db")),
        coordinatorAddr: "127.0.0.1:0",
        membership: Option.some("static"),
        fsync: false,
        minFreeBytes: 0,
        sharedSecret: Redacted.make("a secret of the tests")
      }))
    )
  )

const configureReader = (folder: string, port: number, workers: number) =>
  configure(
    folder,
    "reader",
    `membership = "static"\npeers = ["writer@127.0.0.1:${port}"]\nreplication_pull_workers = ${workers}`
  )

/** Waits until a node says that it holds so many files and is ready. */
const untilHolds = (running: Running, files: number) =>
  Effect.repeat(Queue.take(running.lines), {
    until: (line) => line.includes("\"ready\":true") && line.includes(`"verified":{"files":${files},`)
  })

/** Runs it. Fails as a defect, with what is wrong, when anything is. */
export const soak = Effect.fnUntraced(function*(plan: Plan) {
  const random = makeRandom(plan.seed)
  const folder = yield* temporaryFolder
  const writer = yield* startWriter(folder)
  const sizes = Array.from({ length: plan.files }, () => sizeOf(random, plan.largest))
  const published = yield* Effect.forEach(
    sizes,
    (size, n) =>
      Context.get(writer, Registrar).publish({ path: `db/m${n % 7}/${n}.bin` }, contentOf(plan.seed, n, size)),
    { concurrency: 8 }
  )
  const digests = new Map<string, string>(published.map(({ entry }) => [entry.path, entry.sha256]))
  const needed = sizes.reduce((sum, size) => sum + size, 0)
  const proxy = yield* makeProxy(Context.get(writer, FetchServer).address.port)
  const config = yield* configureReader(folder, proxy.port, plan.workers)
  const data = join(folder, "reader", "data")
  const launch = start(["node", "--supervised", "--config", config])

  const checked = new Map<string, number>()
  /** Hashes every file that shows and was not hashed yet; gives the bytes that show. */
  const check = Effect.suspend(() => {
    for (const path of digests.keys()) {
      if (checked.has(path)) continue
      let bytes: Buffer
      try {
        bytes = readFileSync(join(data, path))
      } catch {
        continue
      }
      const found = createHash("sha256").update(bytes).digest("hex")
      if (found !== digests.get(path)) return Effect.die(new Error(`${path} shows wrong bytes: ${found}`))
      checked.set(path, bytes.length)
    }
    return Effect.succeed([...checked.values()].reduce((sum, size) => sum + size, 0))
  })

  let inBody = 0
  let held = 0
  for (let kill = 0; kill < plan.kills; kill++) {
    yield* Effect.scoped(Effect.gen(function*() {
      const running = yield* launch
      const share = (needed - held) / (plan.kills - kill)
      // Most die while a body comes, some at any moment of their start.
      const moment = kill % 10 === 9
        ? Effect.sleep(random() * 1000)
        : Effect.timeoutOption(proxy.until(proxy.served() + random() * 2 * share), "4 seconds")
      yield* Effect.andThen(moment, Effect.sleep(random() * 5))
      if (proxy.busy()) inBody++
      running.child.kill("SIGKILL")
      yield* running.exit
    }))
    held = yield* check
  }
  yield* Effect.scoped(Effect.gen(function*() {
    const running = yield* launch
    yield* untilHolds(running, plan.files).pipe(
      Effect.timeoutOrElse({
        duration: `${20 + plan.files} seconds`,
        orElse: () =>
          Effect.die(
            new Error(
              `the last life does not get there:\n${running.output().stderr.slice(-1500)}\n${
                running.output().stdout.slice(-1500)
              }`
            )
          )
      })
    )
  }))
  held = yield* check
  const strangers = readdirSync(data, { recursive: true, withFileTypes: true })
    .filter((each) => each.isFile())
    .map((each) => join(each.parentPath, each.name).slice(data.length + 1))
    .filter((path) => !digests.has(path))
    // Nothing is left of what was staged.
    .filter((path) => path.includes("staging") || !path.startsWith(".replication/"))
  if (held !== needed || checked.size !== plan.files) {
    return yield* Effect.die(new Error(`${checked.size} files arrived`))
  }
  const served = proxy.served()
  const figures: Figures = {
    files: plan.files,
    needed,
    served,
    kills: plan.kills,
    inBody,
    requests: proxy.requests(),
    sentTwicePerKill: Math.round((served - needed) / plan.kills)
  }
  return { figures, strangers }
})

const setting = (name: string, fallback: number): number => Number(process.env[name] ?? fallback)

if (process.argv[1] === import.meta.filename) {
  const plan: Plan = {
    kills: setting("KILLS", 200),
    files: setting("FILES", 500),
    largest: setting("LARGEST", 4 * MiB),
    workers: setting("WORKERS", 4),
    seed: setting("SEED", process.pid)
  }
  const main = Effect.gen(function*() {
    yield* Console.log(
      `SEED=${plan.seed} KILLS=${plan.kills} FILES=${plan.files} LARGEST=${plan.largest} WORKERS=${plan.workers}`
    )
    const { figures } = yield* soak(plan)
    yield* Console.log(JSON.stringify(figures, undefined, 2))
    if (figures.sentTwicePerKill >= MiB) {
      return yield* Effect.die(new Error("1 MiB a kill or more was sent twice"))
    }
  })
  process.exitCode = Exit.isSuccess(await Effect.runPromiseExit(Effect.tapCause(Effect.scoped(main), Effect.logError)))
    ? 0
    : 1
}
