/** The processes of a benchmark: nodes, the raw ceiling, and `rsync`. Each is gone when its scope closes. */
import { Data, Deferred, Effect, Schedule, type Scope } from "effect"
import { type ChildProcess, execFileSync, fork, spawn } from "node:child_process"
import { mkdirSync, rmSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import { join } from "node:path"
import type { Answer, Command, FromNode, NodeSetup } from "./protocol.ts"

/** A process ended early, or said that it failed. */
export class ProcessFailed
  extends Data.TaggedError("ProcessFailed")<{ readonly what: string; readonly detail: string }>
{
  override get message(): string {
    return `${this.what}: ${this.detail}`
  }
}

/** Where each process leaves its CPU profile; none is taken without it. */
const profiles = process.env["PROFILE"]
const flags = [
  "--disable-warning=ExperimentalWarning",
  ...profiles === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${profiles}`]
]

/**
 * A node runs as an installed one does: with the heap that the units of `deploy` give it, and without what strips
 * types, which would be a fifth of its memory. Modules are taken from the cache, which the first node fills.
 */
const nodeFlags = [...flags, "--max-semi-space-size=4"]
const nodeEnv = {
  ...process.env,
  NODE_COMPILE_CACHE: join(import.meta.dirname, "../node_modules/.cache/file-replication")
}

const stop = (child: ChildProcess, signal: NodeJS.Signals) =>
  Effect.callback<void>((resume) => {
    if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
    child.once("exit", () => resume(Effect.void))
    child.kill(signal)
  })

/** Leaves when its channel closes; killed when it does not. */
const leave = (child: ChildProcess) =>
  Effect.callback<void>((resume) => {
    if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
    child.once("exit", () => resume(Effect.void))
    if (child.connected) child.disconnect()
  }).pipe(Effect.timeoutOrElse({ duration: "20 seconds", orElse: () => stop(child, "SIGKILL") }))

const module = (name: string) => join(import.meta.dirname, name)

export interface Node {
  readonly name: string
  readonly pid: number
  /** How long it took from the start of the process until the graph stood, milliseconds. */
  readonly startMillis: number
  readonly ask: (command: Command) => Effect.Effect<Answer, ProcessFailed>
  /** When each path became verified here, milliseconds since 1970 with fractions. */
  readonly verifiedAt: ReadonlyMap<string, number>
}

export const startNode = (setup: NodeSetup): Effect.Effect<Node, ProcessFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const what = `node ${setup.name}`
    const started = yield* Deferred.make<number, ProcessFailed>()
    const ended = yield* Deferred.make<never, ProcessFailed>()
    const waiting = new Map<number, Deferred.Deferred<Answer, ProcessFailed>>()
    const verifiedAt = new Map<string, number>()
    mkdirSync(setup.folder, { recursive: true })
    const child = yield* Effect.acquireRelease(
      Effect.sync(() => fork(module("node.ts"), [JSON.stringify(setup)], { execArgv: nodeFlags, env: nodeEnv })),
      leave
    )
    child.on("message", (message: FromNode) => {
      switch (message._tag) {
        case "Started":
          return Deferred.doneUnsafe(started, Effect.succeed(message.millis))
        case "Pulled":
          return verifiedAt.set(message.path, message.at)
        case "Answer":
        case "Failed": {
          const asked = waiting.get(message.id)
          waiting.delete(message.id)
          if (asked === undefined) return undefined
          return Deferred.doneUnsafe(
            asked,
            message._tag === "Answer"
              ? Effect.succeed(message.answer)
              : Effect.fail(new ProcessFailed({ what, detail: message.message }))
          )
        }
      }
    })
    child.on("exit", (code, signal) =>
      Deferred.doneUnsafe(ended, Effect.fail(new ProcessFailed({ what, detail: `ended (${code ?? signal})` }))))
    const end = Deferred.await(ended)
    const startMillis = yield* Effect.raceFirst(Deferred.await(started), end)
    let nextId = 0
    return {
      name: setup.name,
      pid: child.pid ?? 0,
      startMillis,
      verifiedAt,
      ask: (command) =>
        Effect.suspend(() => {
          const id = nextId++
          const answer = Deferred.makeUnsafe<Answer, ProcessFailed>()
          waiting.set(id, answer)
          child.send({ id, command })
          return Effect.raceFirst(Deferred.await(answer), end)
        })
    }
  })

/** Waits for the first message of a child, which is a number. */
const numberFrom = (what: string, child: ChildProcess): Effect.Effect<number, ProcessFailed> =>
  Effect.callback((resume) => {
    child.once("message", (message) => resume(Effect.succeed(Number(message))))
    child.once("exit", (code) => resume(Effect.fail(new ProcessFailed({ what, detail: `ended (${code})` }))))
  })

export interface RawWork {
  readonly files: ReadonlyArray<string>
  readonly sizes: ReadonlyArray<number>
  readonly fsync: boolean
  /** How many files at once. */
  readonly lanes: number
}

/** Gives an effect that runs the raw ceiling once into a folder; milliseconds. */
export const rawCeiling = (
  work: RawWork
): Effect.Effect<(into: string) => Effect.Effect<number, ProcessFailed>, ProcessFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const sender = yield* Effect.acquireRelease(
      Effect.sync(() => fork(module("raw.ts"), ["send", ...work.files], { execArgv: flags })),
      leave
    )
    const port = yield* numberFrom("the raw sender", sender)
    return (into) =>
      Effect.scoped(Effect.gen(function*() {
        mkdirSync(into, { recursive: true })
        const args = ["receive", port, into, work.fsync ? 1 : 0, work.lanes, ...work.sizes].map(String)
        const receiver = yield* Effect.acquireRelease(
          Effect.sync(() => fork(module("raw.ts"), args, { execArgv: flags })),
          leave
        )
        return yield* numberFrom("the raw receiver", receiver)
      }))
  })

const freePort: Effect.Effect<number> = Effect.callback((resume) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const address = server.address()
    server.close(() => resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : 0)))
  })
})

export const rsyncVersion = (): string | undefined => {
  try {
    return /version (\S+)/.exec(execFileSync("rsync", ["--version"], { encoding: "utf8" }))?.[1]
  } catch {
    return undefined
  }
}

/** An `rsync` daemon on a folder. Gives an effect that copies all of it once into another; milliseconds. */
export const rsyncDaemon = (
  from: string,
  scratch: string
): Effect.Effect<
  (into: string, options: { readonly fsync: boolean }) => Effect.Effect<number, ProcessFailed>,
  ProcessFailed,
  Scope.Scope
> =>
  Effect.gen(function*() {
    const port = yield* freePort
    const config = join(scratch, `rsyncd-${port}.conf`)
    writeFileSync(
      config,
      `use chroot = no\nuid = root\ngid = root\nlock file = ${config}.lock\n[files]\npath = ${from}\nread only = yes\n`
    )
    const daemon = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn("rsync", ["--daemon", "--no-detach", `--port=${port}`, "--address=127.0.0.1", `--config=${config}`], {
          stdio: "ignore"
        })
      ),
      (child) => stop(child, "SIGKILL")
    )
    if (daemon.pid === undefined) return yield* new ProcessFailed({ what: "rsync", detail: "did not start" })
    const url = `rsync://127.0.0.1:${port}/files/`
    const copy = (args: ReadonlyArray<string>) =>
      Effect.callback<number, ProcessFailed>((resume) => {
        const began = performance.now()
        const child = spawn("rsync", args, { stdio: ["ignore", "ignore", "pipe"] })
        let said = ""
        child.stderr.on("data", (text: Buffer) => (said += text.toString()))
        child.once("close", (code) =>
          resume(
            code === 0
              ? Effect.succeed(performance.now() - began)
              : Effect.fail(new ProcessFailed({ what: "rsync", detail: said }))
          ))
      })
    // It listens a moment after it was started.
    yield* copy(["--list-only", url]).pipe(
      Effect.retry(Schedule.max([Schedule.spaced("100 millis"), Schedule.recurs(50)]))
    )
    return (into, { fsync }) =>
      Effect.suspend(() => {
        mkdirSync(into, { recursive: true })
        return copy(["-a", "-W", ...(fsync ? ["--fsync"] : []), url, into])
      })
  })

/** Removes what a run has left, so that the next one begins with the same disk. */
export const clean = (folder: string): Effect.Effect<void> =>
  Effect.sync(() => {
    rmSync(folder, { recursive: true, force: true })
    execFileSync("sync")
  })
