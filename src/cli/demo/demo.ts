/** `file-replication demo`: a writer and its readers on this machine, real files, and the proof that they agree. */
import {
  Clock,
  Console,
  Effect,
  Fiber,
  FileSystem,
  Option,
  Ref,
  Runtime,
  Schema,
  Stream,
  SubscriptionRef
} from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { json } from "../flags.ts"
import { showProgress, size, table } from "./display.ts"
import { planMembers, startMember } from "./etcd.ts"
import { makeSecret, type Node, NodeFailed, startNode } from "./nodes.ts"
import { prove } from "./proof.ts"
import { fromFolder, generate, generatedFiles, type SourceFile } from "./source.ts"

/** The nodes don't agree. */
export class DemoFailed extends Schema.TaggedError<DemoFailed>()("DemoFailed", {
  differences: Schema.Array(Schema.String)
}) {
  override readonly [Runtime.errorExitCode] = 1
  override get message(): string {
    const shown = this.differences.slice(0, 50).map((difference) => `  - ${difference}`)
    const more = this.differences.length > shown.length ? [`  and ${this.differences.length - shown.length} more`] : []
    return ["the nodes do not hold the same:", ...shown, ...more].join("\n")
  }
}

export interface DemoOptions {
  /** Publish the files of this folder instead of generated Parquet. */
  readonly folder: Option.Option<string>
  readonly nodes: number
  /** Where the manifest is: in a SQLite file, or on a cluster of etcd that the demo starts. */
  readonly manifest: "sqlite" | "etcd"
  /** Leave the nodes' folders where they are. */
  readonly keep: boolean
  readonly json: boolean
}

const names = (count: number): ReadonlyArray<string> => [
  "writer",
  ...Array.from({ length: count - 1 }, (_, index) => `reader-${index + 1}`)
]

export const demo = Effect.fn("demo")(function*(options: DemoOptions) {
  // With JSON on standard output, people read the other.
  const say = options.json ? Console.error : Console.log
  const fs = yield* FileSystem.FileSystem
  const began = yield* Clock.currentTimeMillis
  const given = Option.isSome(options.folder) ? Option.some(yield* fromFolder(options.folder.value)) : Option.none()
  const folder = yield* fs.makeTempDirectory({ directory: tmpdir(), prefix: "file-replication-demo-" })
  if (!options.keep) yield* Effect.addFinalizer(() => Effect.ignore(fs.remove(folder, { recursive: true })))

  const files = Option.match(given, { onNone: () => generatedFiles, onSome: ({ length }) => length })
  const what = Option.match(options.folder, {
    onNone: () => `${files} Parquet files, written by DuckDB`,
    onSome: (from) => `${files} files of ${from}`
  })
  yield* say(`Replicating ${what}, from one writer to ${options.nodes - 1} readers.`)
  yield* say(`Each node is a process with a folder of its own under ${folder}\n`)

  const etcd = options.manifest === "etcd" ? yield* startEtcd(join(folder, "etcd"), say) : []
  const secret = yield* makeSecret
  const nodes = yield* Effect.forEach(
    names(options.nodes),
    (name, index) => startNode({ folder, name, role: index === 0 ? "writer" : "reader", secret, etcd }),
    { concurrency: "unbounded" }
  )
  const [writer] = nodes
  if (writer === undefined) return yield* new NodeFailed({ node: "writer", detail: "was not started" })

  const source = Option.match(given, {
    onNone: () => generate(join(folder, "source")),
    onSome: (files) => Stream.fromIterable<SourceFile>(files)
  })
  const display = yield* Effect.forkScoped(showProgress(nodes, files, options.json))
  const paths = yield* Ref.make<ReadonlyArray<string>>([])
  yield* source.pipe(
    Stream.flatMap(({ as, file }) =>
      Stream.fromEffectDrain(
        writer.ask({ _tag: "Publish", file, as }).pipe(
          Effect.andThen(Ref.update(paths, (known) => [...known, as]))
        )
      ), { concurrency: 4, bufferSize: 1 }),
    Stream.runDrain,
    Effect.scoped
  )
  const { at } = yield* writer.ask({ _tag: "Head" })
  if (at === undefined) return yield* new NodeFailed({ node: "writer", detail: "did not say where the manifest ends" })
  const ready = yield* Effect.forEach(nodes, (node) =>
    node.ask({ _tag: "Await", at }).pipe(
      Effect.andThen(Clock.currentTimeMillis),
      Effect.map((now) => [node.name, now - began] as const)
    ), { concurrency: "unbounded" })
  yield* Fiber.interrupt(display)

  yield* say("\nEvery node is ready. Comparing what they hold ...")
  const proof = yield* prove(nodes, yield* Ref.get(paths), folder)
  yield* Effect.forEach(proof.equal, (sentence) => say(`  equal: ${sentence}`), { discard: true })
  const rows = yield* summary(nodes, new Map(ready))
  yield* say(`\n${table([head, ...rows.map(cells)])}`)
  if (options.keep) yield* say(`\nThe nodes' folders stay in ${folder}`)
  if (options.json) {
    const { differences, equal } = proof
    yield* Console.log(JSON.stringify({ nodes: rows, equal, differences, folder: options.keep ? folder : null }))
  }
  if (proof.differences.length > 0) return yield* new DemoFailed({ differences: proof.differences })
}, Effect.scoped)

/** A cluster of three; gives where its members are reached. */
const startEtcd = Effect.fn("startEtcd")(function*(folder: string, say: (line: string) => Effect.Effect<void>) {
  const plans = yield* planMembers({ folder, count: 3 })
  const members = yield* Effect.forEach(plans, startMember)
  yield* Effect.forEach(members, ({ serving }) => serving, { concurrency: "unbounded", discard: true })
  const endpoints = plans.map(({ endpoint }) => endpoint)
  yield* say(`The manifest is on etcd: three members, at ${endpoints.join(", ")}\n`)
  return endpoints
})

const summary = (nodes: ReadonlyArray<Node>, millis: ReadonlyMap<string, number>) =>
  Effect.forEach(nodes, ({ name, progress }) =>
    Effect.map(SubscriptionRef.get(progress), (at) => ({
      node: name,
      files: at.verified.files,
      bytes: at.verified.bytes,
      pulled: at.pulled,
      skipped_as_own: at.skippedSelf,
      failed: at.failed,
      attempts: at.attempts,
      millis: millis.get(name) ?? 0
    })))

const head = ["node", "files", "bytes", "pulled", "skipped as own", "failed", "attempts", "wall time"]

const cells = (row: Effect.Success<ReturnType<typeof summary>>[number]): ReadonlyArray<string> => [
  row.node,
  String(row.files),
  size(row.bytes),
  String(row.pulled),
  String(row.skipped_as_own),
  String(row.failed),
  String(row.attempts),
  `${(row.millis / 1000).toFixed(1)} s`
]

export const demoCommand = Command.make("demo", {
  json,
  folder: Argument.String("DIR").pipe(
    Argument.withDescription("Publish every file of this folder; without it, Parquet files are generated"),
    Argument.optional
  ),
  nodes: Flag.Int("nodes").pipe(
    Flag.withDescription("How many nodes, the writer included; else 3"),
    Flag.withSchema(Schema.Int.check(Schema.isBetween({ minimum: 2, maximum: 16 }))),
    Flag.withDefault(3)
  ),
  manifest: Flag.Literals("manifest", ["sqlite", "etcd"]).pipe(
    Flag.withDescription(
      "Where the manifest is: in a SQLite file, or on three members of etcd that the demo starts; else sqlite"
    ),
    Flag.withDefault("sqlite")
  ),
  keep: Flag.Boolean("keep").pipe(
    Flag.withDescription("Leave the nodes' folders where they are"),
    Flag.withDefault(false)
  )
}, demo).pipe(Command.withDescription("Replicate files between nodes on this machine, and prove that they agree"))
