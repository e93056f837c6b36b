/**
 * Every setting: its key, what it may be, its default. The one list from which the reader, the checks and the
 * documentation take theirs.
 */
import { Option, type Redacted, Schema, Struct } from "effect"
import { NodeId } from "../ports/FileEntry.ts"
import { type Address, parseAddress, Role } from "../ports/Membership.ts"

/** One setting. `Value` is what a program sees; what a file or the environment says is decoded into it. */
export interface Setting<Value> {
  /** `table.key`, as in the file. */
  readonly key: string
  readonly schema: Schema.Codec<Value, unknown>
  readonly default: Value
  /** How the text of an environment variable becomes what a file would hold. */
  readonly fromText: (text: string) => unknown
}

const text = (text: string): unknown => text
const number = (text: string): unknown => (text.trim() === "" ? text : Number(text))
const boolean = (text: string): unknown => {
  const word = text.trim().toLowerCase()
  if (["true", "1", "yes", "on"].includes(word)) return true
  if (["false", "0", "no", "off"].includes(word)) return false
  return text
}
const list = (text: string): unknown => text.split(",").map((item) => item.trim()).filter((item) => item !== "")

const setting = <Value>(
  key: string,
  schema: Schema.Codec<Value, unknown>,
  fallback: Value,
  fromText: (text: string) => unknown
): Setting<Value> => ({ key, schema, default: fallback, fromText })

const flag = (key: string, fallback: boolean) => setting(key, Schema.Boolean, fallback, boolean)

const integer = (key: string, fallback: number, minimum: number, maximum: number) =>
  setting(
    key,
    Schema.Int.check(
      Schema.isBetween({ minimum, maximum }, { expected: `an integer from ${minimum} to ${maximum}` })
    ),
    fallback,
    number
  )

/** A time span in milliseconds; at most 24 days, because timers count no further. */
const millis = (key: string, fallback: number, minimum = 1) => integer(key, fallback, minimum, 2_147_483_647)

/** The lowest limit of bytes per second: below it the deadlines of peers are not kept. */
export const lowestRate = 65_536

/** Bytes per second, 0 for no limit. */
export const Rate = Schema.Int.check(
  Schema.makeFilter((value: number) =>
    value === 0 || value >= lowestRate || `0 for no limit, or at least ${lowestRate} bytes per second`
  )
)

const rate = (key: string) => setting(key, Rate, 0, number)

const optional = <S extends Schema.Codec<unknown, unknown>>(key: string, schema: S) =>
  setting<Option.Option<S["Type"]>>(
    key,
    Schema.OptionFromUndefinedOr(schema),
    Option.none(),
    text
  )

const isCollector = Schema.makeFilter((text: string) => {
  const url = URL.canParse(text) ? new URL(text) : undefined
  const usable = url !== undefined && /^https?:$/.test(url.protocol) && url.username === "" && url.password === ""
  return usable || "an http:// or https:// address without a password, such as http://127.0.0.1:4318"
})

const path = (key: string) => optional(key, Schema.NonEmptyString)

const secret = (key: string) =>
  setting(
    key,
    Schema.OptionFromUndefinedOr(Schema.RedactedFromValue(Schema.String)),
    Option.none<Redacted.Redacted>(),
    text
  )

const isAddress = Schema.makeFilter((text: string) =>
  Option.isSome(parseAddress(text)) || "an address such as 10.0.0.1:9100, [::1]:9100 or :9100"
)

const Peer = Schema.String.check(
  Schema.makeFilter((text: string) => parsePeer(text) !== undefined || `a peer such as "reader-1@10.0.0.2:9100"`)
)

const Endpoint = Schema.String.check(Schema.makeFilter((text: string) => {
  const address = parseAddress(text.replace(/^https?:\/\//, ""))
  return Option.isSome(address) && address.value.host !== "" && address.value.port !== 0
    || `an endpoint such as "https://10.0.0.1:2379"`
}))

const Namespace = Schema.String.check(
  Schema.isPattern(/^[A-Za-z0-9._-]+(?:\/[A-Za-z0-9._-]+)*$/, {
    expected: "a name of A-Z a-z 0-9 . _ -, or several with / between them"
  })
)

/** Reads `id@host:port`. */
export const parsePeer = (text: string): { readonly id: NodeId; readonly address: Address } | undefined => {
  const at = text.indexOf("@")
  const id = Schema.decodeOption(NodeId)(text.slice(0, Math.max(at, 0)))
  const address = parseAddress(text.slice(at + 1))
  if (Option.isNone(id) || Option.isNone(address) || address.value.host === "" || address.value.port === 0) {
    return undefined
  }
  return { id: id.value, address: address.value }
}

export const settings = {
  clusterEnabled: flag("cluster.enabled", false),
  nodeId: optional("cluster.node_id", NodeId),
  role: setting<Role>("cluster.role", Role, "reader", text),
  clusterName: setting("cluster.cluster_name", Schema.NonEmptyString, "arc-cluster", text),
  coordinatorAddr: setting("cluster.coordinator_addr", Schema.String.check(isAddress), ":9100", text),
  advertiseAddr: optional("cluster.advertise_addr", Schema.String.check(isAddress)),
  sharedSecret: secret("cluster.shared_secret"),
  sharedSecretPrevious: secret("cluster.shared_secret_previous"),
  tlsEnabled: flag("cluster.tls_enabled", false),
  tlsCertFile: path("cluster.tls_cert_file"),
  tlsKeyFile: path("cluster.tls_key_file"),
  tlsCaFile: path("cluster.tls_ca_file"),
  manifest: setting("cluster.manifest", Schema.Literals(["sqlite", "etcd"]), "sqlite", text),
  manifestPath: path("cluster.manifest_path"),
  etcdEndpoints: setting<ReadonlyArray<string>>("cluster.etcd_endpoints", Schema.Array(Endpoint), [], list),
  etcdNamespace: optional("cluster.etcd_namespace", Namespace),
  etcdCertFile: path("cluster.etcd_cert_file"),
  etcdKeyFile: path("cluster.etcd_key_file"),
  etcdCaFile: path("cluster.etcd_ca_file"),
  etcdUser: optional("cluster.etcd_user", Schema.NonEmptyString),
  etcdPassword: secret("cluster.etcd_password"),
  membership: optional("cluster.membership", Schema.Literals(["sqlite", "etcd", "static"])),
  peers: setting<ReadonlyArray<string>>("cluster.peers", Schema.Array(Peer), [], list),
  replicationEnabled: flag("cluster.replication_enabled", false),
  pullWorkers: integer("cluster.replication_pull_workers", 4, 1, 256),
  queueSize: integer("cluster.replication_queue_size", 1024, 1, 1_048_576),
  fetchTimeoutMillis: millis("cluster.replication_fetch_timeout_ms", 60_000),
  serveTimeoutMillis: millis("cluster.replication_serve_timeout_ms", 120_000),
  retryMaxAttempts: integer("cluster.replication_retry_max_attempts", 3, 1, 100),
  retryInitialBackoffMillis: millis("cluster.replication_retry_initial_backoff_ms", 500),
  catchupEnabled: flag("cluster.replication_catchup_enabled", true),
  catchupQueueHighWater: setting(
    "cluster.replication_catchup_queue_high_water",
    Schema.Finite.check(
      Schema.isGreaterThan(0, { expected: "a share of the queue, between 0 and 1" }),
      Schema.isLessThan(1, { expected: "a share of the queue, between 0 and 1" })
    ),
    0.8,
    number
  ),
  walkIntervalMillis: millis("cluster.replication_walk_interval_ms", 86_400_000, 0),
  scrubIntervalMillis: millis("cluster.replication_scrub_interval_ms", 0, 0),
  catchupBarrierTimeoutMillis: millis("cluster.replication_catchup_barrier_timeout_ms", 10_000),
  reconcileIntervalMillis: millis("cluster.replication_reconcile_interval_ms", 300_000, 0),
  readyMaxLagMillis: millis("cluster.replication_ready_max_lag_ms", 0, 0),
  deleteGraceMillis: millis("cluster.replication_delete_grace_ms", 500, 0),
  queryGateOnCatchup: flag("cluster.query_gate_on_catchup", false),
  maxConnections: integer("cluster.replication_max_connections", 256, 1, 65_536),
  maxServes: integer("cluster.replication_max_serves", 32, 1, 65_536),
  maxPullBytesPerSecond: rate("cluster.replication_max_pull_bytes_per_second"),
  maxServeBytesPerSecond: rate("cluster.replication_max_serve_bytes_per_second"),
  requireSignedAcks: flag("cluster.replication_require_signed_acks", false),
  localPath: setting("storage.local_path", Schema.NonEmptyString, "./data/arc", text),
  fsync: flag("storage.fsync", true),
  statePath: path("storage.state_path"),
  watch: flag("storage.watch", false),
  watchUnseenSettleMillis: millis("storage.watch_unseen_settle_ms", 60_000),
  minFreeBytes: integer("storage.min_free_bytes", 1_073_741_824, 0, Number.MAX_SAFE_INTEGER),
  maxPartialBytes: integer("storage.max_partial_bytes", 10_737_418_240, 0, Number.MAX_SAFE_INTEGER),
  maxPartialAgeMillis: integer("storage.max_partial_age_ms", 604_800_000, 0, Number.MAX_SAFE_INTEGER),
  maxQuarantineBytes: integer("storage.max_quarantine_bytes", 10_737_418_240, 0, Number.MAX_SAFE_INTEGER),
  maxQuarantineAgeMillis: integer("storage.max_quarantine_age_ms", 2_592_000_000, 0, Number.MAX_SAFE_INTEGER),
  serverEnabled: flag("server.enabled", true),
  serverHost: setting("server.host", Schema.NonEmptyString, "127.0.0.1", text),
  serverPort: integer("server.port", 8000, 0, 65_535),
  maxFileBytes: integer("server.max_file_bytes", 0, 0, Number.MAX_SAFE_INTEGER),
  apiToken: secret("server.api_token"),
  otlpEndpoint: optional("telemetry.otlp_endpoint", Schema.String.check(isCollector)),
  shutdownTimeoutMillis: millis("server.shutdown_timeout_ms", 30_000)
}

interface Evaluate extends Struct.Lambda {
  <Value>(setting: Setting<Value>): Value
  readonly "~lambda.out": this["~lambda.in"] extends Setting<infer Value> ? Value : never
}

/** A value for every setting. */
export const evaluate = (value: <Value>(setting: Setting<Value>) => Value) =>
  Struct.map(settings, Struct.lambda<Evaluate>(value))

/** Every setting, decoded and checked. */
export type Settings = Readonly<ReturnType<typeof evaluate>>

/** Secrets that may also be given as the path of a file that holds them, under the key with `_file` behind it. */
export const secretKeys: ReadonlyArray<string> = [
  "cluster.shared_secret",
  "cluster.shared_secret_previous",
  "cluster.etcd_password",
  "server.api_token"
]
