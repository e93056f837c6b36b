/** `file-replication drain` and `remove-node`: how a node leaves a cluster. */
import { Clock, Console, Duration, Effect, Option, Schema } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { RemovedMember } from "../http/answers.ts"
import { NodeId } from "../ports/FileEntry.ts"
import { Membership } from "../ports/Membership.ts"
import { DrainStatus } from "../replication/Drain.ts"
import { named, running } from "./client.ts"
import { beside, json, nodeFlags } from "./flags.ts"

const address = "/api/v1/cluster/drain"

/** Some files are on no other node. */
export class NotDrained extends Schema.TaggedError<NotDrained>()("NotDrained", { status: DrainStatus }) {
  override get message(): string {
    const { examples, files, lastError, left, looked, orphans } = this.status
    if (Option.isSome(lastError)) return `this node must stay: ${lastError.value}`
    if (Option.isNone(looked)) return "this node must stay: its files have not been looked at yet"
    const shown = examples.slice(0, 20).map(({ detail, path }) => `  ${path}: ${detail}`)
    const more = left > shown.length ? [`  and ${left - shown.length} more`] : []
    const whys = [
      ...(left > orphans ? [`no other node holds ${left - orphans} of its ${files} files`] : []),
      ...(orphans > 0 ? [`the manifest does not know ${orphans} of its ${files} files`] : [])
    ]
    const advice = orphans === 0 ? [] : [
      "No node asks for what the manifest does not know: publish it again, register it where it lies "
      + "(POST /api/v1/cluster/files) or move it away, and then drain again."
    ]
    return [`this node must stay: ${whys.join(", and ")}`, ...shown, ...more, ...advice].join("\n")
  }
}

const encode = Schema.encodeSync(Schema.fromJsonString(DrainStatus))

/** How long it may take, behind everything else, until a drain is done of which nothing is left, milliseconds. */
const lastLook = 15_000

/** Between two questions. */
const interval = Duration.seconds(1)

export const drainCommand = Command.make("drain", {
  ...nodeFlags,
  json,
  cancel: Flag.Boolean("cancel").pipe(Flag.withDescription("Keep the node after all"), Flag.withDefault(false)),
  timeout: Flag.Int("timeout").pipe(
    Flag.withSchema(Schema.Natural),
    Flag.withMetavar("SECONDS"),
    Flag.withDescription("How long to wait until every file is on another node; 0: only look once; else 3600"),
    Flag.withDefault(3600)
  )
}, ({ cancel, json, timeout, ...flags }) =>
  Effect.gen(function*() {
    const client = yield* running(flags)
    if (cancel) {
      const status = yield* client.call("DELETE", address, DrainStatus)
      return yield* Console.log(json ? encode(status) : "this node stays, and is asked like any other")
    }
    yield* client.call("POST", address, DrainStatus)
    const end = (yield* Clock.currentTimeMillis) + timeout * 1000
    let told = -1
    while (true) {
      const status = yield* client.call("GET", address, DrainStatus)
      if (status.done) {
        const said = `each of its ${status.files} files is on another node too: this node can be stopped`
        return yield* Console.log(json ? encode(status) : said)
      }
      // Nothing is left, and it is done as soon as it is known that no other node leaves at the same time.
      const soon = Option.isSome(status.looked) && Option.isNone(status.lastError) && status.left === 0
      const inVain = status.left > 0 && status.left === status.orphans
      const now = yield* Clock.currentTimeMillis
      const over = inVain || now >= end + (soon ? lastLook : 0) && (timeout > 0 || Option.isSome(status.looked))
      if (over) {
        if (json) yield* Console.log(encode(status))
        return yield* new NotDrained({ status })
      }
      if (!json && Option.isSome(status.looked) && status.left !== told) {
        yield* Console.log(
          status.left === 0
            ? `each of its ${status.files} files is on another node; now it listens for others that leave too`
            : `no other node holds ${status.left - status.orphans} of ${status.files} files yet`
        )
        told = status.left
      }
      yield* Effect.sleep(interval)
    }
  })).pipe(
    Command.withDescription("Prepare a running node to leave: wait until every file that it holds is elsewhere too")
  )

export const removeNodeCommand = Command.make("remove-node", {
  ...nodeFlags,
  json,
  id: Argument.String("ID").pipe(Argument.withSchema(NodeId), Argument.withDescription("The node's cluster.node_id"))
}, ({ id, json, ...flags }) =>
  Effect.gen(function*() {
    const client = yield* named(flags)
    yield* Option.isSome(client)
      ? client.value.call("DELETE", `/api/v1/cluster/members/${encodeURIComponent(id)}`, RemovedMember)
      : beside(flags.config, Effect.flatMap(Membership, ({ remove }) => remove(id)))
    yield* Console.log(
      json ? JSON.stringify({ removed: id }) : `${id} is no member any more; nobody's files were touched`
    )
  })).pipe(Command.withDescription("Take a node that never comes back out of the list of members"))
