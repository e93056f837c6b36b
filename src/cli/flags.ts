/** What several commands take, and how they come to a configuration. */
import { Effect, Layer, type Option, type Redacted } from "effect"
import { Argument, Flag } from "effect/cli"
import { load, ReplicationConfig } from "../ReplicationConfig.ts"
import { layerBeside } from "./operator.ts"

export const config = Flag.String("config").pipe(
  Flag.withDescription("The configuration file, TOML; without it ARC_CONFIG names one"),
  Flag.optional
)

export const json = Flag.Boolean("json").pipe(
  Flag.withDescription("Print JSON with stable names"),
  Flag.withDefault(false)
)

export const path = Argument.String("PATH").pipe(Argument.withDescription("A file's path in the data folder"))

/** How a command finds a node. */
export interface NodeFlags {
  readonly config: Option.Option<string>
  readonly url: Option.Option<string>
  readonly token: Option.Option<Redacted.Redacted>
}

export const nodeFlags = {
  config,
  url: Flag.String("url").pipe(
    Flag.withMetavar("URL"),
    Flag.withDescription(
      "The running node, such as http://127.0.0.1:8000; else FILE_REPLICATION_URL, else by --config"
    ),
    Flag.optional
  ),
  token: Flag.Redacted("token").pipe(
    Flag.withDescription("What calls that change something must show; else FILE_REPLICATION_TOKEN, else by --config"),
    Flag.optional
  )
}

export const configured = (file: Option.Option<string>) => load({ file, environment: process.env })

export const layerConfig = (file: Option.Option<string>) => Layer.effect(ReplicationConfig, configured(file))

/** Runs a question about a node beside it. */
export const beside = <A, E, R>(file: Option.Option<string>, question: Effect.Effect<A, E, R>) =>
  Effect.flatMap(configured(file), (settings) => Effect.provide(question, layerBeside(settings)))
