/** What several commands take, and how they come to a configuration. */
import { Effect, Layer, type Option } from "effect"
import { Argument, Flag } from "effect/cli"
import { load, ReplicationConfig } from "../ReplicationConfig.ts"
import { layerBeside } from "./operator.ts"

export const config = Flag.String("config").pipe(
  Flag.withDescription("The configuration file, TOML; without it ARC_CONFIG names one"),
  Flag.optional
)

export const json = Flag.Boolean("json").pipe(
  Flag.withDescription("Print one JSON object with stable names"),
  Flag.withDefault(false)
)

export const path = Argument.String("PATH").pipe(Argument.withDescription("A file's path in the data folder"))

export const configured = (file: Option.Option<string>) => load({ file, environment: process.env })

export const layerConfig = (file: Option.Option<string>) => Layer.effect(ReplicationConfig, configured(file))

/** Runs a question about a node beside it. */
export const beside = <A, E, R>(file: Option.Option<string>, question: Effect.Effect<A, E, R>) =>
  Effect.flatMap(configured(file), (settings) => Effect.provide(question, layerBeside(settings)))
