/** The whole command: which commands there are, and how a run of one ends. */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Cause, Console, Effect, Exit, Layer, Logger, Runtime } from "effect"
import { CliError, CliOutput, Command } from "effect/cli"
import { version } from "../version.ts"
import { printableLines } from "./printable.ts"
import { ranNode } from "./signals.ts"

/** Every command, in the order of the help, and the module that has it: loading all of them costs half a second. */
export const commands = {
  node: () => import("./node.ts").then(({ nodeCommand }) => nodeCommand),
  status: () => import("./status.ts").then(({ statusCommand }) => statusCommand),
  files: () => import("./files.ts").then(({ filesCommand }) => filesCommand),
  why: () => import("./why.ts").then(({ whyCommand }) => whyCommand),
  verify: () => import("./verify.ts").then(({ verifyCommand }) => verifyCommand),
  pause: () => import("./pause.ts").then(({ pauseCommand }) => pauseCommand),
  resume: () => import("./pause.ts").then(({ resumeCommand }) => resumeCommand),
  forget: () => import("./forget.ts").then(({ forgetCommand }) => forgetCommand),
  publish: () => import("./publish.ts").then(({ publishCommand }) => publishCommand),
  drain: () => import("./leave.ts").then(({ drainCommand }) => drainCommand),
  "remove-node": () => import("./leave.ts").then(({ removeNodeCommand }) => removeNodeCommand),
  manifest: () => import("./manifest.ts").then(({ manifestCommand }) => manifestCommand),
  tls: () => import("./tls.ts").then(({ tlsCommand }) => tlsCommand),
  config: () => import("./config.ts").then(({ configCommand }) => configCommand),
  demo: () => import("./demo/demo.ts").then(({ demoCommand }) => demoCommand)
}

const isCommand = (name: string): name is keyof typeof commands => Object.hasOwn(commands, name)

/** The commands that a line may need: the one that it begins with, none for the version, else all: help, completions. */
const needed = (args: ReadonlyArray<string>) => {
  const [first = ""] = args
  if (isCommand(first) && !args.includes("--completions")) return [commands[first]]
  return first === "--version" ? [] : Object.values(commands)
}

/** A failure is one message on standard error, never a stack trace; a defect is ours and keeps its trace. */
const explain = (error: { readonly message: string }) =>
  CliError.isCliError(error) ? Effect.void : Console.error(printableLines(`file-replication: ${error.message}`))

/** A line that can't be understood is told in one sentence too, without the help that nobody asked for. */
const presenter: CliOutput.Presenter = {
  present: (event) => {
    if (event._tag !== "InvalidInvocation") return CliOutput.defaultPresenter.present(event)
    const said = event.errors.map(({ message }) =>
      message.replace(/Expected: Schema validation failed: (Expected )?/, "Expected ")
        .replace(/\s*Did you mean this\?\s*/, "; did you mean ").replace(/\s*\n\s*/g, " or ")
    )
    return Console.error(`file-replication: ${said.join("; ")}; see ${event.commandPath.join(" ")} --help`)
  }
}

const usageExitCode = 2

const teardown: Runtime.Teardown = (exit, onExit) => {
  // A node that is told to stop has done what it was for.
  if (Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause) && ranNode()) return onExit(0)
  if (Exit.isFailure(exit) && CliError.isCliError(Cause.squash(exit.cause))) return onExit(usageExitCode)
  return Runtime.defaultTeardown(exit, onExit)
}

export const main = async (args: ReadonlyArray<string>): Promise<void> => {
  const loaded = await Promise.all(needed(args).map((load) => load()))
  const cli = Command.make("file-replication").pipe(
    Command.withDescription(
      "Peer-to-peer replication of immutable files between the nodes of a cluster. Exit codes: 0 done, 1 failed, 2 wrong "
        + "usage or configuration, 130 interrupted"
    ),
    Command.withSubcommands(loaded)
  )
  Command.run(cli, { version }).pipe(
    Effect.tapError(explain),
    Effect.provide(Layer.merge(NodeServices.layer, NodeHttpClient.layerNodeHttp)),
    Effect.provideService(Logger.LogToStderr, true),
    Effect.provideService(CliOutput.Presenter, presenter),
    NodeRuntime.runMain({ teardown, disableErrorReporting: true })
  )
}
