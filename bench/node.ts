/** One node as a process: everything real, but for a latch before its first pull, so that its work can be timed. */
import { Cause, Context, Deferred, Effect, Layer, Logger, Option, Redacted, Schedule, Stream } from "effect"
import { randomBytes } from "node:crypto"
import { createReadStream, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { monitorEventLoopDelay } from "node:perf_hooks"
import * as PeerResolverOriginFirst from "../src/membership/PeerResolverOriginFirst.ts"
import { NodeId } from "../src/ports/FileEntry.ts"
import { Manifest } from "../src/ports/Manifest.ts"
import { PeerResolver } from "../src/ports/PeerResolver.ts"
import * as Replication from "../src/Replication.ts"
import { CatchUp } from "../src/replication/CatchUp.ts"
import { Puller } from "../src/replication/Puller.ts"
import { Readiness } from "../src/replication/Readiness.ts"
import { Registrar } from "../src/replication/Registrar.ts"
import * as ReplicationConfig from "../src/ReplicationConfig.ts"
import type { Command, FromNode, NodeSetup, NodeStats, ToNode } from "./protocol.ts"

const setup: NodeSetup = JSON.parse(process.argv[2] ?? "{}")
// Whoever does not listen any more is not told.
const say = (message: FromNode) => process.send?.(message, undefined, undefined, () => undefined)
const now = () => performance.timeOrigin + performance.now()
const publishers = 8

const settings = ReplicationConfig.layer({
  nodeId: Option.some(NodeId.make(setup.name)),
  role: setup.role,
  localPath: join(setup.folder, "data"),
  manifestPath: Option.some(setup.manifest),
  coordinatorAddr: "127.0.0.1:0",
  fsync: setup.fsync,
  pullWorkers: setup.workers,
  walkIntervalMillis: setup.walkIntervalMillis,
  sharedSecret: Redacted.make("the secret of the benchmarks"),
  ...(setup.tls === undefined ? {} : {
    tlsEnabled: true,
    tlsCaFile: Option.some(join(setup.tls, "ca.pem")),
    tlsCertFile: Option.some(join(setup.tls, "node.pem")),
    tlsKeyFile: Option.some(join(setup.tls, "node.key"))
  })
})

const bytesOf = (file: string) =>
  Stream.fromAsyncIterable(
    // As much at once as a node is given by its HTTP server.
    createReadStream(file, { highWaterMark: 64 * 1024 }),
    (cause) => new Cause.UnknownError(cause)
  )

const peakRss = () => Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? 0) * 1024

const program = Effect.gen(function*() {
  const delay = monitorEventLoopDelay({ resolution: 5 })
  delay.enable()
  const latch = yield* Deferred.make<void>()
  const latched = Layer.effect(
    PeerResolver,
    Effect.map(PeerResolver, (ours) => ({
      candidates: (origin: NodeId, path: Parameters<typeof ours.candidates>[1]) =>
        Effect.andThen(Deferred.await(latch), ours.candidates(origin, path))
    }))
  ).pipe(Layer.provide(PeerResolverOriginFirst.layer))
  const node = yield* Layer.build(
    Replication.layerActive.pipe(
      Layer.provideMerge(Replication.layerPorts({ peerResolver: latched })),
      Layer.provide(settings)
    )
  )
  const manifest = Context.get(node, Manifest)
  const puller = Context.get(node, Puller)
  const readiness = Context.get(node, Readiness)
  const registrar = Context.get(node, Registrar)
  const catchUp = Context.get(node, CatchUp)

  const from: Record<string, number> = {}
  const receipts = yield* puller.receipts
  yield* Effect.forkScoped(Stream.runForEach(receipts, (receipt) =>
    Effect.sync(() => {
      if (receipt._tag !== "Pulled") return
      const { file } = receipt
      const peer = Option.getOrElse(receipt.from, () => "nobody")
      from[peer] = (from[peer] ?? 0) + file.entry.size_bytes
      if (setup.tellsOfEach === true) say({ _tag: "Pulled", path: file.entry.path, at: now() })
    })))

  const stats = Effect.map(puller.stats, ({ attempts, failed, pulled }): NodeStats => ({
    peakRss: peakRss(),
    pulled,
    attempts,
    failed,
    from,
    longestBlock: delay.max / 1e6
  }))

  const untilReady = readiness.changes.pipe(Stream.filter(({ ready }) => ready), Stream.take(1), Stream.runDrain)

  /** Gives how long it took when that is not from beginning to end. */
  const carryOut = Effect.fnUntraced(function*(command: Command) {
    switch (command._tag) {
      case "PublishFolder": {
        const names = readdirSync(command.from, { recursive: true, withFileTypes: true }).filter((each) =>
          each.isFile()
        )
        yield* Effect.forEach(names, ({ name, parentPath }) => {
          const file = join(parentPath, name)
          return registrar.publish({ path: file.slice(command.from.length + 1) }, bytesOf(file))
        }, { concurrency: publishers, discard: true })
        return undefined
      }
      case "PublishOne":
        yield* registrar.publish({ path: command.path }, randomBytes(command.size))
        return undefined
      case "Pull":
        yield* Deferred.succeed(latch, undefined)
        yield* readiness.await(yield* manifest.head)
        return undefined
      case "Ready":
        yield* untilReady
        return undefined
      case "Walked": {
        yield* untilReady
        const before = yield* catchUp.status
        const after = yield* Effect.repeat(catchUp.status, {
          until: ({ completed, running }) =>
            !running && Option.isSome(completed) &&
            Option.getOrUndefined(completed) !== Option.getOrUndefined(before.completed),
          schedule: Schedule.spaced("20 millis")
        })
        return Option.getOrElse(after.completed, () => 0) - Option.getOrElse(after.started, () => 0)
      }
      case "Stats":
        return undefined
    }
  })

  const commands = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const take = ({ command, id }: ToNode) => {
        const began = now()
        const run = carryOut(command).pipe(
          Effect.flatMap((took) => {
            const ended = now()
            return Effect.map(
              stats,
              (stats) => say({ _tag: "Answer", id, answer: { millis: took ?? ended - began, began, ended, stats } })
            )
          }),
          Effect.catchCause((cause) => Effect.sync(() => say({ _tag: "Failed", id, message: Cause.pretty(cause) })))
        )
        Effect.runFork(run)
      }
      process.on("message", take)
      return take
    }),
    (take) => Effect.sync(() => process.off("message", take))
  )
  say({ _tag: "Started", millis: performance.now() })
  yield* Effect.callback<void>((resume) => void process.once("disconnect", () => resume(Effect.void)))
  return commands
}).pipe(Effect.scoped, Effect.provide(Logger.layer([])))

// Whoever started this process has gone, or has heard enough.
await Effect.runPromise(program)
