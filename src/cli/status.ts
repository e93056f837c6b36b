/** `file-replication status`: where a node stands, from its own files and, while it runs, from itself. */
import { Clock, Console, Duration, Effect, Option, Schema } from "effect"
import { Command } from "effect/cli"
import { FetchHttpClient, HttpClient, HttpClientResponse } from "effect/http"
import { NodeId, Revision } from "../ports/FileEntry.ts"
import { Inventory } from "../ports/Inventory.ts"
import { Cursor, Manifest } from "../ports/Manifest.ts"
import { addressText, Membership } from "../ports/Membership.ts"
import { Status } from "../replication/Status.ts"
import { ReplicationConfig, type Settings } from "../ReplicationConfig.ts"
import { size } from "./demo/display.ts"
import { beside, config, json } from "./flags.ts"
import { moment, sheet } from "./operator.ts"

const Amount = Schema.Struct({ files: Schema.Natural, bytes: Schema.Natural })

/** The JSON of `status --json`. Times are milliseconds since 1970; what is not known is `null`. */
export const StatusReport = Schema.Struct({
  node: NodeId,
  /** The newest position of the manifest. */
  head: Schema.OptionFromNullOr(Cursor),
  /** How far this node has taken the manifest's events. */
  cursor: Schema.OptionFromNullOr(Cursor),
  verifiedThrough: Revision,
  verified: Amount,
  owed: Amount,
  oldestOwed: Schema.OptionFromNullOr(Schema.Int),
  failed: Schema.Natural,
  unlinking: Schema.Natural,
  /** What the running node says of itself; `none` when no node answers. */
  live: Schema.OptionFromNullOr(Status)
}).pipe(Schema.encodeKeys({ verifiedThrough: "verified_through", oldestOwed: "oldest_owed_ms" }))
type StatusReport = typeof StatusReport.Type

const encodeReport = Schema.encodeSync(Schema.fromJsonString(StatusReport))

const patience = Duration.seconds(2)

/** Where the running node is asked; `undefined` when its address is not known from outside. */
const faceOf = (settings: Settings): string | undefined => {
  if (!settings.serverEnabled || settings.serverPort === 0) return undefined
  const anywhere = settings.serverHost === "0.0.0.0" || settings.serverHost === "::"
  return `http://${
    addressText({ host: anywhere ? "127.0.0.1" : settings.serverHost, port: settings.serverPort })
  }/ready`
}

/** Another node may listen there, or another program: only this node's own answer counts. */
const ask = (url: string, node: NodeId) =>
  HttpClient.get(url).pipe(
    Effect.flatMap(HttpClientResponse.schemaBodyJson(Status)),
    Effect.timeout(patience),
    Effect.option,
    Effect.map(Option.filter((status) => status.node === node)),
    Effect.provide(FetchHttpClient.layer)
  )

const gather = Effect.gen(function*() {
  const settings = yield* ReplicationConfig
  const inventory = yield* Inventory
  const { self } = yield* Membership
  const head = yield* Effect.option((yield* Manifest).head)
  const face = faceOf(settings)
  return {
    node: self.id,
    head,
    ...(yield* inventory.progress),
    failed: yield* inventory.failed,
    live: face === undefined ? Option.none() : yield* ask(face, self.id)
  } satisfies StatusReport
})

const files = (count: number) => count === 1 ? "1 file" : `${count} files`

const readiness = (live: Option.Option<Status>, face: string | undefined): string => {
  if (Option.isSome(live)) return live.value.ready ? "ready" : `not ready: ${live.value.reason}`
  return face === undefined
    ? "not asked: server.enabled is off or server.port is 0; this is what its files say"
    : `no answer from ${face}: it does not run, or serves elsewhere; this is what its files say`
}

const owed = ({ failed, oldestOwed, owed }: StatusReport, now: number): string => {
  if (owed.files === 0) return "nothing"
  const since = Option.match(oldestOwed, { onNone: () => "", onSome: (at) => `, the oldest since ${moment(at, now)}` })
  const tried = failed === 0 ? "" : `; ${failed} of them tried in vain`
  return `${files(owed.files)}, ${size(owed.bytes)}${since}${tried}`
}

const position = ({ cursor, head }: StatusReport): string => {
  const at = Option.match(cursor, { onNone: () => "not walked yet", onSome: ({ revision }) => `revision ${revision}` })
  return Option.match(head, {
    onNone: () => `${at}; the manifest can't be asked where it ends`,
    onSome: ({ epoch, revision }) =>
      Option.exists(cursor, (known) => known.epoch !== epoch)
        ? `${at} of another history; the manifest's ends at ${revision}`
        : Option.isNone(cursor)
        ? `${at}; it ends at revision ${revision}`
        : `${at} of ${revision}`
  })
}

const walk = ({ catchUp }: Status, now: number): string => {
  const { completed, enqueued, lastError, orphans, running, skipped, started, walked } = catchUp
  const counts = `${walked} entries walked, ${enqueued} missing, ${skipped} here, ${orphans} orphans`
  const state = running ? "running" : Option.isSome(completed) ? "completed" : "not needed"
  const at = Option.match(running ? started : completed, { onNone: () => "", onSome: (at) => ` ${moment(at, now)}` })
  const error = Option.match(lastError, { onNone: () => "", onSome: (error) => `; last error: ${error}` })
  return `${state}${at}: ${counts}${error}`
}

const pulls = ({ bytesPerSecond, eta, inFlight, paused }: Status): string => {
  const end = Option.match(eta, {
    onNone: () => "",
    onSome: (millis) =>
      millis === 0 ? "" : `, done in about ${Duration.format(Duration.seconds(Math.ceil(millis / 1000)))}`
  })
  const held = paused.length === 0 ? "" : `paused (${paused.join(", ")}), `
  return `${held}${inFlight} in flight, ${size(bytesPerSecond)}/s${end}`
}

const troubles = ({ manifestTrouble, membershipTrouble }: Status, now: number): Array<readonly [string, string]> =>
  [...Option.toArray(manifestTrouble), ...Option.toArray(membershipTrouble)].map((
    { detail, since }
  ) => ["trouble", `since ${moment(since, now)}: ${detail}`])

const render = (report: StatusReport, face: string | undefined, now: number): string => {
  const { live, unlinking, verified, verifiedThrough } = report
  const lines: Array<readonly [string, string]> = [
    ["state", readiness(live, face)],
    ["verified", `${files(verified.files)}, ${size(verified.bytes)}; all of it through revision ${verifiedThrough}`],
    ["owed", owed(report, now)],
    ["manifest", position(report)]
  ]
  if (unlinking > 0) lines.push(["deleted", `${files(unlinking)} still to unlink`])
  if (Option.isSome(live)) {
    lines.push(...troubles(live.value, now))
    lines.push(["pulling", pulls(live.value)], ["catch-up", walk(live.value, now)])
  }
  return `${report.node}\n${sheet(lines)}`
}

export const status = Effect.fn("status")(function*(options: { readonly json: boolean }) {
  const report = yield* gather
  const now = yield* Clock.currentTimeMillis
  const face = faceOf(yield* ReplicationConfig)
  yield* Console.log(options.json ? encodeReport(report) : render(report, face, now))
})

export const statusCommand = Command.make(
  "status",
  { config, json },
  ({ config, json }) => beside(config, status({ json }))
).pipe(Command.withDescription("Say where this node stands: what it holds, what it owes, whether it is ready"))
