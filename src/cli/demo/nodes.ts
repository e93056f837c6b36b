/** The demo's nodes: real processes, talked to as `Supervision.ts` says, gone when their scope closes. */
import { Deferred, Effect, FileSystem, Queue, Schema, Stream, SubscriptionRef } from "effect"
import { ChildProcess } from "effect/process"
import { randomBytes } from "node:crypto"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import type { Role } from "../../ports/Membership.ts"
import { type Command, decodeReport, encodeCommand, type Progress, type Report } from "../Supervision.ts"

/** A node's process ended, or refused a command. */
export class NodeFailed extends Schema.TaggedError<NodeFailed>()("NodeFailed", {
  node: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `node ${this.node}: ${this.detail}`
  }
}

type Unnumbered<C> = C extends unknown ? Omit<C, "id"> : never
type Done = Extract<Report, { _tag: "Done" }>

export interface Node {
  readonly name: string
  readonly role: Role
  /** Its data folder. */
  readonly data: string
  readonly pid: number
  readonly progress: SubscriptionRef.SubscriptionRef<Progress>
  /** Has the node carry out a command, and waits for the outcome. */
  readonly ask: (command: Unnumbered<Command>) => Effect.Effect<Done, NodeFailed>
  /** Fails when the process ends. */
  readonly end: Effect.Effect<never, NodeFailed>
}

const nothing: Progress = {
  _tag: "Progress",
  ready: false,
  reason: "starting",
  verified: { files: 0, bytes: 0 },
  owed: { files: 0, bytes: 0 },
  pulled: 0,
  bytes: 0,
  skippedSelf: 0,
  failed: 0,
  attempts: 0
}

const extension = import.meta.filename.endsWith(".ts") ? ".ts" : ".js"
const main = fileURLToPath(new URL(`../../main${extension}`, import.meta.url))

/** What the nodes of one demo share. */
export const makeSecret = Effect.sync(() => randomBytes(32).toString("hex"))

export const startNode = Effect.fn("startNode")(function*(options: {
  readonly folder: string
  readonly name: string
  readonly role: Role
  readonly secret: string
  /** Where etcd's members are reached; none: the manifest is a SQLite file. */
  readonly etcd: ReadonlyArray<string>
}) {
  const { folder, name, role } = options
  const fs = yield* FileSystem.FileSystem
  const home = join(folder, name)
  const data = join(home, "data")
  yield* fs.makeDirectory(home, { recursive: true })
  const config = join(home, "node.toml")
  const text = [
    "[cluster]",
    "enabled = true",
    "replication_enabled = true",
    `node_id = ${JSON.stringify(name)}`,
    `role = ${JSON.stringify(role)}`,
    `cluster_name = "demo"`,
    `coordinator_addr = "127.0.0.1:0"`,
    `shared_secret = ${JSON.stringify(options.secret)}`,
    ...(options.etcd.length === 0
      ? [`manifest_path = ${JSON.stringify(join(folder, "manifest.db"))}`]
      : [`manifest = "etcd"`, `etcd_endpoints = ${JSON.stringify(options.etcd)}`]),
    "[storage]",
    `local_path = ${JSON.stringify(data)}`,
    "min_free_bytes = 0",
    "[server]",
    "enabled = false",
    ""
  ].join("\n")
  yield* fs.writeFileString(config, text, { mode: 0o600 })

  const commands = yield* Queue.unbounded<string>()
  const process_ = yield* ChildProcess.make(
    process.execPath,
    [
      "--disable-warning=ExperimentalWarning",
      // As the units of `deploy` have it.
      "--max-semi-space-size=4",
      main,
      "node",
      "--config",
      config,
      "--supervised",
      "--log-level",
      "warn",
      "--log-format",
      "text"
    ],
    {
      env: { PATH: process.env["PATH"] },
      extendEnv: false,
      stdin: Stream.encodeText(Stream.fromQueue(commands)),
      stdout: "pipe",
      stderr: "inherit",
      forceKillAfter: "10 seconds"
    }
  )

  const progress = yield* SubscriptionRef.make(nothing)
  const started = yield* Deferred.make<void>()
  const ended = yield* Deferred.make<never, NodeFailed>()
  const waiting = new Map<number, Deferred.Deferred<Done, NodeFailed>>()
  let nextId = 0

  const take = (report: Report) => {
    switch (report._tag) {
      case "Started":
        return Deferred.succeed(started, undefined)
      case "Progress":
        return SubscriptionRef.set(progress, report)
      case "Done":
      case "Failed": {
        const asked = waiting.get(report.id)
        waiting.delete(report.id)
        if (asked === undefined) return Effect.void
        return report._tag === "Done"
          ? Deferred.succeed(asked, report)
          : Deferred.fail(asked, new NodeFailed({ node: name, detail: report.message }))
      }
    }
  }
  yield* process_.stdout.pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.mapEffect((line) => decodeReport(line)),
    Stream.runForEach(take),
    Effect.andThen(process_.exitCode),
    Effect.matchEffect({
      onSuccess: (code) => Deferred.fail(ended, new NodeFailed({ node: name, detail: `its process ended (${code})` })),
      onFailure: (error) => Deferred.fail(ended, new NodeFailed({ node: name, detail: error.message }))
    }),
    Effect.forkScoped
  )
  const end = Deferred.await(ended)
  const node: Node = {
    name,
    role,
    data,
    pid: process_.pid,
    progress,
    end,
    ask: (command) =>
      Effect.suspend(() => {
        const id = nextId++
        const done = Deferred.makeUnsafe<Done, NodeFailed>()
        waiting.set(id, done)
        return Queue.offer(commands, `${encodeCommand({ ...command, id })}\n`).pipe(
          Effect.andThen(Effect.raceFirst(Deferred.await(done), end))
        )
      })
  }
  yield* Effect.raceFirst(Deferred.await(started), end)
  return node
})
