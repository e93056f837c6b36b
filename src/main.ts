#!/usr/bin/env node
/** The command `file-replication`. Exit codes: 0 done, 1 failed, 2 wrong configuration or usage, 130 interrupted. */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Cause, Console, Effect, Exit, Layer, Logger, Runtime, Schema, Stdio, Stream } from "effect"
import type { Option } from "effect"
import { Argument, CliError, Command, Flag } from "effect/cli"
import { demo } from "./cli/demo/demo.ts"
import { toStdout } from "./cli/files.ts"
import { forget } from "./cli/forget.ts"
import { exportLines, importManifest } from "./cli/manifest.ts"
import { runNode } from "./cli/node.ts"
import { layerBeside } from "./cli/operator.ts"
import { layerRegistrar, publish } from "./cli/publish.ts"
import { status } from "./cli/status.ts"
import { verify } from "./cli/verify.ts"
import { why } from "./cli/why.ts"
import { layerManifest } from "./Replication.ts"
import { load, ReplicationConfig } from "./ReplicationConfig.ts"
import { version } from "./version.ts"

const config = Flag.String("config").pipe(
  Flag.withDescription("The configuration file, TOML; without it ARC_CONFIG names one"),
  Flag.optional
)

const configured = (file: Option.Option<string>) => load({ file, environment: process.env })
const layerConfig = (file: Option.Option<string>) => Layer.effect(ReplicationConfig, configured(file))

const node = Command.make("node", {
  config,
  supervised: Flag.Boolean("supervised").pipe(
    Flag.withDescription(
      "Take commands and give reports as JSON lines over standard input and output, and leave with it"
    ),
    Flag.withDefault(false)
  )
}, runNode).pipe(Command.withDescription("Run a node until it is told to stop"))

const demoCommand = Command.make("demo", {
  folder: Argument.String("DIR").pipe(
    Argument.withDescription("Publish every file of this folder; without it, Parquet files are generated"),
    Argument.optional
  ),
  nodes: Flag.Int("nodes").pipe(
    Flag.withDescription("How many nodes, the writer included"),
    Flag.withSchema(Schema.Int.check(Schema.isBetween({ minimum: 2, maximum: 16 }))),
    Flag.withDefault(3)
  ),
  keep: Flag.Boolean("keep").pipe(
    Flag.withDescription("Leave the nodes' folders where they are"),
    Flag.withDefault(false)
  )
}, demo).pipe(Command.withDescription("Replicate files between nodes on this machine, and prove that they agree"))

const publishCommand = Command.make("publish", {
  config,
  files: Argument.String("FILE").pipe(Argument.withDescription("A file to publish"), Argument.atLeast(1)),
  as: Flag.String("as").pipe(
    Flag.withDescription("The path to publish it under; for several files, the folder"),
    Flag.optional
  )
}, ({ as, config, files }) =>
  Effect.gen(function*() {
    const settings = yield* configured(config)
    const layer = layerRegistrar(settings).pipe(Layer.provide(Layer.succeed(ReplicationConfig, settings)))
    yield* Effect.provide(publish(files, as), layer)
  })).pipe(Command.withDescription("Write files into this node and register them, so that every node pulls them"))

const manifestExport = Command.make("export", { config }, ({ config }) =>
  Effect.gen(function*() {
    const { stdout } = yield* Stdio.Stdio
    yield* toStdout(Stream.run(exportLines, stdout({ endOnDone: false })))
  }).pipe(Effect.provide(layerManifest.pipe(Layer.provide(layerConfig(config)))))).pipe(
    Command.withDescription("Print every entry as a line of JSON")
  )

const manifestImport = Command.make("import", {
  config,
  file: Argument.String("FILE").pipe(Argument.withDescription("Lines of JSON, one entry each")),
  keepGoing: Flag.Boolean("keep-going").pipe(
    Flag.withDescription("Import what is right even when a line is wrong"),
    Flag.withDefault(false)
  )
}, ({ config, file, keepGoing }) =>
  importManifest(file, { keepGoing }).pipe(
    Effect.flatMap((count) => Console.log(`${count} entries of ${file} are in the manifest`)),
    Effect.provide(layerManifest.pipe(Layer.provide(layerConfig(config))))
  )).pipe(Command.withDescription("Register every entry of a file; all of them or none"))

const manifest = Command.make("manifest").pipe(
  Command.withDescription("Move the manifest in and out"),
  Command.withSubcommands([manifestExport, manifestImport])
)

/** Runs a question about a node beside it. */
const beside = <A, E, R>(file: Option.Option<string>, question: Effect.Effect<A, E, R>) =>
  Effect.flatMap(configured(file), (settings) => Effect.provide(question, layerBeside(settings)))

const path = Argument.String("PATH").pipe(Argument.withDescription("A file's path in the data folder"))

const json = Flag.Boolean("json").pipe(
  Flag.withDescription("Print one JSON object with stable names"),
  Flag.withDefault(false)
)

const statusCommand = Command.make(
  "status",
  { config, json },
  ({ config, json }) => beside(config, status({ json }))
).pipe(Command.withDescription("Say where this node stands: what it holds, what it owes, whether it is ready"))

const whyCommand = Command.make(
  "why",
  { config, json, path },
  ({ config, json, path }) => beside(config, why(path, { json }))
).pipe(Command.withDescription("Say all that this node knows of a file, and why it is not here"))

const verifyCommand = Command.make("verify", {
  config,
  json,
  rate: Flag.Int("rate").pipe(
    Flag.withDescription("Read at most so many MiB per second, 0: as fast as it goes"),
    Flag.withSchema(Schema.Natural),
    Flag.withDefault(128)
  )
}, ({ config, json, rate }) => beside(config, verify({ json, mebibytesPerSecond: rate }))).pipe(
  Command.withDescription("Hash every file of this node again; what is damaged is set aside and pulled again")
)

const forgetCommand = Command.make("forget", {
  config,
  path,
  lost: Flag.Boolean("lost").pipe(
    Flag.withDescription("The file is lost on every node"),
    Flag.withDefault(false)
  ),
  yes: Flag.Boolean("yes").pipe(
    Flag.withDescription("Go through with it"),
    Flag.withDefault(false)
  ),
  force: Flag.Boolean("force").pipe(
    Flag.withDescription("Even if a node may still have the file"),
    Flag.withDefault(false)
  )
}, ({ config, path, ...options }) => beside(config, forget(path, options))).pipe(
  Command.withDescription("Delete a file for good that no node has any more, so that nobody owes it")
)

const cli = Command.make("file-replication").pipe(
  Command.withDescription("Peer-to-peer replication of immutable files between the nodes of a cluster"),
  Command.withSubcommands([
    node,
    statusCommand,
    whyCommand,
    verifyCommand,
    forgetCommand,
    publishCommand,
    manifest,
    demoCommand
  ])
)

/** A failure is one message on standard error, never a stack trace; a defect is ours and keeps its trace. */
const explain = (error: { readonly message: string }) =>
  CliError.isCliError(error) ? Effect.void : Console.error(`file-replication: ${error.message}`)

const usageExitCode = 2

const teardown: Runtime.Teardown = (exit, onExit) => {
  // A node that is told to stop has done what it was for.
  if (Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause) && process.argv[2] === "node") return onExit(0)
  if (Exit.isFailure(exit) && CliError.isCliError(Cause.squash(exit.cause))) return onExit(usageExitCode)
  return Runtime.defaultTeardown(exit, onExit)
}

Command.run(cli, { version }).pipe(
  Effect.tapError(explain),
  Effect.provide(NodeServices.layer),
  Effect.provideService(Logger.LogToStderr, true),
  NodeRuntime.runMain({ teardown, disableErrorReporting: true })
)
