/** `file-replication status`: where a node stands, from its own files and, while it runs, from itself. */
import { Clock, Console, Duration, Effect, Option, Schema, Stdio } from "effect"
import { Command, Flag } from "effect/cli"
import { NodeStatus } from "../http/answers.ts"
import { files } from "../internal/files.ts"
import { NodeId, Revision } from "../ports/FileEntry.ts"
import { Inventory } from "../ports/Inventory.ts"
import { Cursor, Manifest } from "../ports/Manifest.ts"
import { Membership } from "../ports/Membership.ts"
import { DrainStatus } from "../replication/Drain.ts"
import { Status } from "../replication/Status.ts"
import { folders } from "../ReplicationConfig.ts"
import { isTaken } from "../sqlite/FolderLock.ts"
import { type Client, faceOf, makeClient, named, patience } from "./client.ts"
import { size } from "./demo/display.ts"
import { configured, json, nodeFlags } from "./flags.ts"
import { layerBeside, moment, sheet } from "./operator.ts"
import { printable } from "./printable.ts"

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
  /** Since when the running node prepares to leave; `none` when it does not, or no node answers. */
  draining: Schema.OptionFromNullOr(Schema.Int),
  /** What the running node says of itself; `none` when no node answers. */
  live: Schema.OptionFromNullOr(Status)
}).pipe(
  Schema.encodeKeys({
    verifiedThrough: "verified_through",
    oldestOwed: "oldest_owed_ms",
    draining: "draining_since_ms"
  })
)
type StatusReport = typeof StatusReport.Type

const encodeReport = Schema.encodeSync(Schema.fromJsonString(StatusReport))

/** What a running node says. */
const said = (client: Client) =>
  Effect.all({
    word: client.call("GET", "/api/v1/cluster/status", NodeStatus),
    drain: client.call("GET", "/api/v1/cluster/drain", DrainStatus)
  })
type Said = Effect.Success<ReturnType<typeof said>>

/** A node that is asked over HTTP alone: everything is its own word. */
const fromNode = ({ drain, word: { head, node, status } }: Said): StatusReport => ({
  node,
  head: Option.fromNullOr(head),
  cursor: status.cursor,
  verifiedThrough: status.verifiedThrough,
  verified: status.verified,
  owed: status.owed,
  oldestOwed: status.oldestOwed,
  failed: status.failed,
  unlinking: status.unlinking,
  draining: drain.since,
  live: Option.some(status)
})

/** A node's files, and with them what it says of itself when it answers. */
const fromFiles = Effect.fnUntraced(function*(client: Option.Option<Client>) {
  const inventory = yield* Inventory
  const { self } = yield* Membership
  const head = yield* Effect.option((yield* Manifest).head)
  const live = yield* Option.match(client, {
    onNone: () => Effect.succeed(Option.none()),
    // Another node may listen there, or another program: only this node's own answer counts.
    onSome: (client) =>
      said(client).pipe(
        Effect.timeout(patience),
        Effect.option,
        Effect.map(Option.filter(({ word }) => word.node === self.id))
      )
  })
  return {
    node: self.id,
    head,
    ...(yield* inventory.progress),
    failed: yield* inventory.failed,
    draining: Option.flatMap(live, ({ drain }) => drain.since),
    live: Option.map(live, ({ word }) => word.status)
  } satisfies StatusReport
})

/** Where a node is asked, if it can be, and whether a process holds its folder. */
interface Seen {
  readonly face: string | undefined
  readonly taken: Effect.Effect<boolean>
}

const readiness = (live: Option.Option<Status>, face: string | undefined, taken: boolean): string => {
  if (Option.isSome(live)) return live.value.ready ? "ready" : `not ready: ${live.value.reason}`
  return face === undefined
    ? "not asked: server.enabled is off or server.port is 0; this is what its files say"
    : taken
    ? `no answer from ${face}, though a process runs on its folder: it starts or stops, hangs, or serves elsewhere; this is `
      + "what its files say"
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

/** Pure: how pulling goes. While it is paused nothing says how long the rest takes. */
export const pulls = (
  { bytesPerSecond, eta, inFlight, paused }: Pick<Status, "bytesPerSecond" | "eta" | "inFlight" | "paused">
): string => {
  if (paused.length > 0) return `paused (${paused.join(", ")}), ${inFlight} in flight`
  const end = Option.match(eta, {
    onNone: () => "",
    onSome: (millis) =>
      millis === 0 ? "" : `, done in about ${Duration.format(Duration.seconds(Math.ceil(millis / 1000)))}`
  })
  return `${inFlight} in flight, ${size(bytesPerSecond)}/s${end}`
}

const troubles = ({ manifestTrouble, membershipTrouble }: Status, now: number): Array<readonly [string, string]> =>
  [...Option.toArray(manifestTrouble), ...Option.toArray(membershipTrouble)].map((
    { detail, since }
  ) => ["trouble", `since ${moment(since, now)}: ${detail}`])

const render = Effect.fnUntraced(function*(report: StatusReport, { face, taken }: Seen) {
  const now = yield* Clock.currentTimeMillis
  const { draining, live, unlinking, verified, verifiedThrough } = report
  const lines: Array<readonly [string, string]> = [
    ["state", readiness(live, face, Option.isNone(live) && (yield* taken))],
    ["verified", `${files(verified.files)}, ${size(verified.bytes)}; all of it through revision ${verifiedThrough}`],
    ["owed", owed(report, now)],
    ["manifest", position(report)]
  ]
  if (Option.isSome(draining)) {
    const meaning = "its copies count for nobody, until drain --cancel or a restart"
    lines.push(["draining", `since ${moment(draining.value, now)}: ${meaning}`])
  }
  if (unlinking > 0) lines.push(["deleted", `${files(unlinking)} still to unlink`])
  if (Option.isSome(live)) {
    lines.push(...troubles(live.value, now))
    lines.push(["pulling", pulls(live.value)], ["catch-up", walk(live.value, now)])
  }
  return `${report.node}\n${sheet(lines)}`
})

/** Pure: a line for a log or a bar, of what a glance is for. */
export const summary = ({ live, node, owed, verified }: StatusReport): string => {
  const rate = Option.match(live, { onNone: () => "", onSome: (status) => `; ${pulls(status)}` })
  const state = Option.match(live, {
    onNone: () => "no answer",
    onSome: ({ ready, reason }) => ready ? "ready" : `not ready: ${reason}`
  })
  return `${node}: ${files(verified.files)} verified, ${size(verified.bytes)}; ${files(owed.files)} owed, `
    + `${size(owed.bytes)}${rate}; ${state}`
}

const cells = 40

const bar = ({ owed, verified }: StatusReport): string => {
  const total = verified.bytes + owed.bytes
  const share = total === 0 ? 1 : verified.bytes / total
  const filled = Math.floor(share * cells)
  return `  ${"█".repeat(filled)}${"░".repeat(cells - filled)} ${Math.floor(share * 100)} % of ${size(total)}`
}

const interval = { terminal: Duration.seconds(1), plain: Duration.seconds(5) }

/** Shows it again and again: redrawn in place on a terminal, a line each time otherwise. */
const watch = Effect.fnUntraced(function*<E, R>(
  look: Effect.Effect<StatusReport, E, R>,
  seen: Seen,
  json: boolean
) {
  const terminal = yield* (yield* Stdio.Stdio).stdoutIsTerminal
  const draw = Effect.gen(function*() {
    const report = yield* look
    if (json) return yield* Console.log(encodeReport(report))
    if (!terminal) return yield* Console.log(printable(summary(report)))
    const text = `${yield* render(report, seen)}\n\n${bar(report)}`
    yield* Effect.sync(() => process.stdout.write(`\u001b[H\u001b[2J${text}\n`))
  })
  return yield* draw.pipe(
    Effect.andThen(Effect.sleep(terminal ? interval.terminal : interval.plain)),
    Effect.forever
  )
})

export const statusCommand = Command.make("status", {
  ...nodeFlags,
  json,
  watch: Flag.Boolean("watch").pipe(
    Flag.withAlias("w"),
    Flag.withDescription("Show it again and again until interrupted"),
    Flag.withDefault(false)
  )
}, ({ json, watch: again, ...flags }) =>
  Effect.gen(function*() {
    const show = Effect.fnUntraced(function*<E, R>(look: Effect.Effect<StatusReport, E, R>, seen: Seen) {
      if (again) return yield* watch(look, seen, json)
      const report = yield* look
      yield* Console.log(json ? encodeReport(report) : yield* render(report, seen))
    })
    const byAddress = yield* named(flags)
    if (Option.isSome(byAddress)) {
      return yield* show(Effect.map(said(byAddress.value), fromNode), {
        face: byAddress.value.url,
        taken: Effect.succeed(false)
      })
    }
    const settings = yield* configured(flags.config)
    const face = faceOf(settings)
    const client = face === undefined ? Option.none() : Option.some(yield* makeClient(face, Option.none()))
    yield* Effect.provide(
      show(fromFiles(client), { face, taken: isTaken(folders(settings).state) }),
      layerBeside(settings)
    )
  })).pipe(
    Command.withDescription("Say where this node stands: what it holds, what it owes, whether it is ready")
  )
