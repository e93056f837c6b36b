/** `file-replication config check`: the configuration as a node would take it, and where each value came from. */
import { Console, Effect, Option, Redacted } from "effect"
import { Command } from "effect/cli"
import { settings as known } from "../config/settings.ts"
import { inspect } from "../ReplicationConfig.ts"
import { config, json } from "./flags.ts"

/** A value without what is secret of it; `null` when there is none. */
const plain = (value: unknown): unknown =>
  Option.isOption(value)
    ? Option.match(value, { onNone: () => null, onSome: plain })
    : Redacted.isRedacted(value)
    ? "(hidden)"
    : value

interface Line {
  readonly key: string
  readonly value: unknown
  /** `default`, `file`, or the name of an environment variable. */
  readonly from: string
}

const text = (value: unknown): string => value === null ? "none" : JSON.stringify(value)

const check = Effect.fn("config check")(function*(file: Option.Option<string>, asJson: boolean) {
  const { settings, sources, warnings } = yield* inspect({ file, environment: process.env })
  const values = new Map<string, unknown>(Object.entries(settings))
  const lines = Object.entries(known).map(([name, { key }]): Line => ({
    key,
    value: plain(values.get(name)),
    from: sources.get(key) ?? "default"
  }))
  if (asJson) return yield* Console.log(JSON.stringify({ settings: lines, warnings }))
  const keys = Math.max(...lines.map(({ key }) => key.length))
  const shown = lines.map(({ from, key, value }) => ({ from, key, value: text(value) }))
  const width = Math.min(40, Math.max(...shown.map(({ value }) => value.length)))
  for (const { from, key, value } of shown) {
    yield* Console.log(`${key.padEnd(keys)}  ${value.padEnd(width)}  ${from}`)
  }
  for (const warning of warnings) yield* Console.error(`warning: ${warning}`)
})

const checkCommand = Command.make("check", { config, json }, ({ config, json }) => check(config, json)).pipe(
  Command.withDescription("Print every setting, secrets hidden, and where its value came from; or all that is wrong")
)

export const configCommand = Command.make("config").pipe(
  Command.withDescription("Look at the configuration"),
  Command.withSubcommands([checkCommand])
)
