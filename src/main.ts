#!/usr/bin/env node
/** The command `file-replication`. Exit codes: 0 done, 1 failed, 2 wrong configuration or usage, 130 interrupted. */
import { NodeHttpClient, NodeRuntime, NodeServices } from "@effect/platform-node"
import { Cause, Console, Effect, Exit, Layer, Logger, Runtime } from "effect"
import { CliError, Command } from "effect/cli"
import { configCommand } from "./cli/config.ts"
import { demoCommand } from "./cli/demo/demo.ts"
import { filesCommand } from "./cli/files.ts"
import { forgetCommand } from "./cli/forget.ts"
import { drainCommand, removeNodeCommand } from "./cli/leave.ts"
import { manifestCommand } from "./cli/manifest.ts"
import { nodeCommand, ranNode } from "./cli/node.ts"
import { pauseCommand, resumeCommand } from "./cli/pause.ts"
import { publishCommand } from "./cli/publish.ts"
import { statusCommand } from "./cli/status.ts"
import { tlsCommand } from "./cli/tls.ts"
import { verifyCommand } from "./cli/verify.ts"
import { whyCommand } from "./cli/why.ts"
import { version } from "./version.ts"

const cli = Command.make("file-replication").pipe(
  Command.withDescription("Peer-to-peer replication of immutable files between the nodes of a cluster"),
  Command.withSubcommands([
    nodeCommand,
    statusCommand,
    filesCommand,
    whyCommand,
    verifyCommand,
    pauseCommand,
    resumeCommand,
    forgetCommand,
    publishCommand,
    drainCommand,
    removeNodeCommand,
    manifestCommand,
    tlsCommand,
    configCommand,
    demoCommand
  ])
)

/** A failure is one message on standard error, never a stack trace; a defect is ours and keeps its trace. */
const explain = (error: { readonly message: string }) =>
  CliError.isCliError(error) ? Effect.void : Console.error(`file-replication: ${error.message}`)

const usageExitCode = 2

const teardown: Runtime.Teardown = (exit, onExit) => {
  // A node that is told to stop has done what it was for.
  if (Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause) && ranNode()) return onExit(0)
  if (Exit.isFailure(exit) && CliError.isCliError(Cause.squash(exit.cause))) return onExit(usageExitCode)
  return Runtime.defaultTeardown(exit, onExit)
}

Command.run(cli, { version }).pipe(
  Effect.tapError(explain),
  Effect.provide(Layer.merge(NodeServices.layer, NodeHttpClient.layerNodeHttp)),
  Effect.provideService(Logger.LogToStderr, true),
  NodeRuntime.runMain({ teardown, disableErrorReporting: true })
)
