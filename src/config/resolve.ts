/** From a file's text and the environment to checked settings. Pure: nothing is read here. */
import { Option, Redacted, Result, Schema, Struct } from "effect"
import * as Toml from "effect/encoding/Toml"
import * as NetAddress from "effect/net/NetAddress"
import { explain } from "../ports/explain.ts"
import { parseAddress } from "../ports/Membership.ts"
import { evaluate, secretKeys, type Setting, type Settings, settings } from "./settings.ts"

export interface Input {
  /** The text of the configuration file, if there is one. */
  readonly file?: string
  /** The environment; `ARC_CLUSTER_NODE_ID` overrides the file's `cluster.node_id`. */
  readonly environment: Readonly<Record<string, string | undefined>>
  /** The texts of the files that `*_file` keys of secrets name, by the file's path, or why there is none. */
  readonly secretFiles: ReadonlyMap<string, Result.Result<string, string>>
}

export interface Resolved {
  readonly settings: Settings
  /** Sentences about what was ignored. */
  readonly warnings: ReadonlyArray<string>
  /** By key, what set it: `file`, the name of an environment variable, or the `_file` key of a secret; absent: nothing. */
  readonly sources: ReadonlyMap<string, string>
}

/** What a key is set to and where; `decode` turns it into a setting's value. */
interface Given {
  readonly value: unknown
  readonly source: string
}

const tables: ReadonlyArray<string> = ["cluster", "storage", "server", "telemetry"]
const prefix = "ARC_"

/** `cluster.node_id` is `ARC_CLUSTER_NODE_ID`. */
export const environmentName = (key: string): string => prefix + key.replace(".", "_").toUpperCase()

const knownKeys: ReadonlyArray<string> = [
  ...Object.values(settings).map((setting) => setting.key),
  ...secretKeys.map((key) => `${key}_file`)
]

/** Settings, or every offence, each with its key and what would be right. */
export const resolve = (input: Input): Result.Result<Resolved, ReadonlyArray<string>> => {
  const offences: Array<string> = []
  const warnings: Array<string> = []
  const given = gather(input, offences, warnings)

  for (const key of secretKeys) {
    const file = given.get(`${key}_file`)
    if (file === undefined) continue
    const content = input.secretFiles.get(String(file.value)) ?? Result.fail("Expected the path of a file")
    if (given.has(key)) offences.push(`${key} and ${key}_file are both set; keep one`)
    else if (Result.isFailure(content)) {
      offences.push(`${key}_file (${file.source}): ${content.failure}`)
      // It is given, so no rule says besides that it is missing. Nothing comes of it but the offence.
      given.set(key, { value: content.failure, source: `${key}_file` })
    } else given.set(key, { value: content.success.replace(/\r?\n$/, ""), source: `${key}_file` })
  }

  const values = evaluate((setting) => decode(setting, given.get(setting.key), offences))
  offences.push(...rules(values))
  const sources = new Map([...given].map(([key, { source }]) => [key, source]))
  return offences.length > 0 ? Result.fail(offences) : Result.succeed({ settings: values, warnings, sources })
}

/** What is wrong with settings that a program gives, each with its key: `[]` when nothing is. */
export const offencesOf = (given: Settings): ReadonlyArray<string> => {
  const offences = Struct.keys(settings).flatMap((name) => {
    const { key, schema } = settings[name]
    const decoded = Schema.decodeUnknownResult(Schema.toType(schema))(given[name])
    return Result.isFailure(decoded) ? [`${key} (${name}): ${explain(decoded.failure)}`] : []
  })
  return [...offences, ...rules(given)]
}

/** The paths of the secrets' files that the input names. */
export const secretFilePaths = (input: Omit<Input, "secretFiles">): ReadonlyArray<string> => {
  const given = gather({ ...input, secretFiles: new Map() }, [], [])
  return secretKeys.flatMap((key) => {
    const file = given.get(`${key}_file`)
    return typeof file?.value === "string" ? [file.value] : []
  })
}

const gather = (input: Input, offences: Array<string>, warnings: Array<string>): Map<string, Given> => {
  const given = new Map<string, Given>()
  const fromFile = input.file === undefined ? Result.succeed({}) : Toml.parse(input.file)
  if (Result.isFailure(fromFile)) {
    offences.push(`the configuration file is not valid TOML: ${fromFile.failure.message}`)
  } else {
    for (const [table, values] of Object.entries(fromFile.success)) {
      if (!tables.includes(table)) {
        warnings.push(`[${table}] is no table of ours and is ignored`)
      } else if (typeof values !== "object" || values === null || Array.isArray(values)) {
        offences.push(`${table} must be a table: [${table}]`)
      } else {
        for (const [name, value] of Object.entries(values)) {
          const key = `${table}.${name}`
          if (knownKeys.includes(key)) given.set(key, { value, source: "file" })
          else warnings.push(`${key} is unknown and ignored; did you mean ${nearest(key)}?`)
        }
      }
    }
  }
  const byName = new Map(knownKeys.map((key) => [environmentName(key), key]))
  const textReader = new Map(Object.values(settings).map((setting) => [setting.key, setting.fromText]))
  for (const [name, text] of Object.entries(input.environment)) {
    if (text === undefined) continue
    const key = byName.get(name)
    if (key !== undefined) given.set(key, { value: (textReader.get(key) ?? guess)(text), source: name })
    else if (tables.some((table) => name.startsWith(`${prefix}${table.toUpperCase()}_`))) {
      const like = name.slice(prefix.length).toLowerCase().replace("_", ".")
      warnings.push(`${name} is unknown and ignored; did you mean ${environmentName(nearest(like))}?`)
    }
  }
  return given
}

const guess = (text: string): unknown =>
  text === "true" ? true : text === "false" ? false : /^\d+(\.\d+)?$/.test(text) ? Number(text) : text

const decode = <Value>(setting: Setting<Value>, given: Given | undefined, offences: Array<string>): Value => {
  if (given === undefined) return setting.default
  const decoded = Schema.decodeUnknownResult(setting.schema)(given.value)
  if (Result.isSuccess(decoded)) return decoded.success
  offences.push(`${setting.key} (${given.source}): ${explain(decoded.failure)}`)
  return setting.default
}

/** What must hold between settings. */
const rules = (settings: Settings): ReadonlyArray<string> => {
  const offences: Array<string> = []
  const active = settings.clusterEnabled && settings.replicationEnabled
  if (active && Option.match(settings.sharedSecret, { onNone: () => true, onSome: (s) => Redacted.value(s) === "" })) {
    offences.push(
      "cluster.shared_secret is empty: replication is enabled and every node must prove that it belongs to the cluster; "
        + "set it to the same long random text on all nodes, or name a file that holds it in cluster.shared_secret_file"
    )
  }
  const token = Option.getOrElse(settings.apiToken, () => Redacted.make("not empty"))
  if (Redacted.value(token).trim() === "") {
    offences.push("server.api_token is empty; remove it or give it a long random text")
  }
  if (active && settings.serverEnabled && Option.isNone(settings.apiToken) && !isLoopback(settings.serverHost)) {
    offences.push(
      `server.api_token is missing: server.host is ${settings.serverHost}, which others can reach, and whoever reaches it `
        + "could change this cluster; set it to a long random text, name a file that holds it in server.api_token_file, or "
        + "listen on 127.0.0.1"
    )
  }
  if (settings.tlsEnabled) {
    for (
      const [key, value] of [
        ["cluster.tls_cert_file", settings.tlsCertFile],
        ["cluster.tls_key_file", settings.tlsKeyFile],
        ["cluster.tls_ca_file", settings.tlsCaFile]
      ] as const
    ) {
      if (Option.isNone(value)) offences.push(`${key} is missing: cluster.tls_enabled needs it`)
    }
  }
  offences.push(...etcdRules(settings))
  const advertised = Option.flatMap(settings.advertiseAddr, parseAddress)
  if (Option.isSome(advertised) && (advertised.value.host === "" || advertised.value.port === 0)) {
    offences.push("cluster.advertise_addr needs a host and a port: it is where peers dial")
  }
  return offences
}

const etcdRules = (settings: Settings): ReadonlyArray<string> => {
  const { etcdCertFile, etcdEndpoints, etcdKeyFile, etcdPassword, etcdUser } = settings
  const offences: Array<string> = []
  const asked = [
    settings.manifest === "etcd" ? `cluster.manifest = "etcd"` : "",
    Option.getOrUndefined(settings.membership) === "etcd" ? `cluster.membership = "etcd"` : ""
  ].find((text) => text !== "")
  if (asked !== undefined && etcdEndpoints.length === 0) {
    offences.push(`cluster.etcd_endpoints is missing: ${asked} needs it, such as ["https://10.0.0.1:2379"]`)
  }
  if (Option.isSome(etcdCertFile) !== Option.isSome(etcdKeyFile)) {
    offences.push("cluster.etcd_cert_file and cluster.etcd_key_file belong together: set both or none")
  }
  if (Option.isSome(etcdUser) !== Option.isSome(etcdPassword)) {
    offences.push("cluster.etcd_user and cluster.etcd_password belong together: set both or none")
  }
  if (new Set(etcdEndpoints.map((endpoint) => endpoint.startsWith("https://"))).size > 1) {
    offences.push("cluster.etcd_endpoints: all of them begin with https:// or none does")
  }
  return offences
}
/** Whether only this machine reaches a host. A name other than `localhost` may lead anywhere. */
const isLoopback = (host: string): boolean =>
  host.toLowerCase() === "localhost"
  || Result.match(NetAddress.ipFromString(host.replace(/^\[|\]$/g, "")), {
    onFailure: () => false,
    onSuccess: NetAddress.isLoopback
  })

const nearest = (key: string): string =>
  knownKeys.reduce((best, candidate) => (distance(key, candidate) < distance(key, best) ? candidate : best))

/** The number of single-character edits between two texts. */
const distance = (a: string, b: string): number => {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, change))
    }
    row = next
  }
  return row[b.length] ?? 0
}
