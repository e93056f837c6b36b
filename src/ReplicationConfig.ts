/**
 * The configuration of one node: a TOML file, overridden by the environment.
 *
 * `config/settings.ts` lists every setting with its key, bounds and default.
 */
import { Context, Effect, Layer, Option, Redacted, Result, Runtime, Schema } from "effect"
import { readFile } from "node:fs/promises"
import { dirname, join, resolve as resolvePath } from "node:path"
import * as Resolve from "./config/resolve.ts"
import { evaluate, type Settings } from "./config/settings.ts"

export type { Settings }

/** The configuration can't be used. Names every offence, its key, and what would be right. */
export class ConfigError extends Schema.TaggedError<ConfigError>()("ConfigError", {
  offences: Schema.Array(Schema.String)
}) {
  override readonly [Runtime.errorExitCode] = 2
  override get message(): string {
    return this.offences.length === 1
      ? `the configuration can't be used: ${this.offences[0]}`
      : `the configuration can't be used:\n${this.offences.map((offence) => `  - ${offence}`).join("\n")}`
  }
}

export class ReplicationConfig extends Context.Service<ReplicationConfig, Settings>()(
  "file-replication/ReplicationConfig"
) {}

/**
 * Settings from a program: what is not given keeps its default, and replication is on. They are checked like those of a
 * file, and every offence is in one {@link ConfigError}.
 */
export const layer = (
  given: Partial<Omit<Settings, "sharedSecret">> & { readonly sharedSecret: Redacted.Redacted }
): Layer.Layer<ReplicationConfig, ConfigError> =>
  Layer.effect(
    ReplicationConfig,
    Effect.suspend(() => {
      const settings: Settings = {
        ...evaluate((setting) => setting.default),
        clusterEnabled: true,
        replicationEnabled: true,
        ...given,
        sharedSecret: Option.some(given.sharedSecret)
      }
      const offences = Resolve.offencesOf(settings)
      return offences.length > 0 ? Effect.fail(new ConfigError({ offences })) : Effect.succeed(settings)
    })
  )

/** Where settings are read from. */
export interface LoadOptions {
  /** Without it `ARC_CONFIG` names it, and without that there is none. */
  readonly file: Option.Option<string>
  readonly environment: Readonly<Record<string, string | undefined>>
}

/**
 * Settings from a file and the environment. Warnings are logged; every offence is in one {@link ConfigError}.
 */
export const load = (options: LoadOptions): Effect.Effect<Settings, ConfigError> =>
  Effect.gen(function*() {
    const { settings, warnings } = yield* inspect(options)
    yield* Effect.forEach(warnings, (warning) => Effect.logWarning(warning), { discard: true })
    return settings
  })

/** The same, with what was ignored and what set each key; nothing is logged. */
export const inspect = (options: LoadOptions): Effect.Effect<Resolve.Resolved, ConfigError> =>
  Effect.gen(function*() {
    const path = Option.orElse(options.file, () => Option.fromUndefinedOr(options.environment["ARC_CONFIG"]))
    const file = Option.isNone(path) ? {} : {
      file: yield* readText(path.value).pipe(
        Effect.mapError((why) => new ConfigError({ offences: [`the configuration file ${why}`] }))
      )
    }
    const input = { ...file, environment: options.environment }
    const secretFiles = new Map<string, Result.Result<string, string>>()
    for (const secretFile of Resolve.secretFilePaths(input)) {
      secretFiles.set(secretFile, yield* Effect.result(readText(secretFile)))
    }
    const resolved = Resolve.resolve({ ...input, secretFiles })
    if (Result.isFailure(resolved)) return yield* new ConfigError({ offences: resolved.failure })
    return resolved.success
  })

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

/** The text of a file, or why there is none. */
const readText = (path: string): Effect.Effect<string, string> =>
  Effect.tryPromise({
    try: () => readFile(path),
    catch: (cause) => `${path} can't be read: ${cause instanceof Error ? cause.message : cause}`
  }).pipe(
    Effect.flatMap((bytes) =>
      Effect.try({ try: () => utf8.decode(bytes), catch: () => `${path} is no text: it is not UTF-8` })
    )
  )

/** Where a node keeps what. Absolute paths. */
export const folders = (settings: Settings): {
  readonly data: string
  readonly state: string
  readonly inventory: string
  readonly manifest: string
} => {
  const data = resolvePath(settings.localPath)
  const state = Option.match(settings.statePath, {
    onNone: () => join(data, ".replication"),
    onSome: (path) => resolvePath(path)
  })
  return {
    data,
    state,
    inventory: join(state, "inventory.db"),
    manifest: Option.match(settings.manifestPath, {
      onNone: () => join(dirname(data), "manifest.db"),
      onSome: (path) => resolvePath(path)
    })
  }
}
