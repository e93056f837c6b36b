/** `file-replication why PATH`: all that a node knows of one file. */
import { Clock, Console, Effect } from "effect"
import { Command } from "effect/cli"
import * as ExactJson from "../ports/ExactJson.ts"
import { FileReport, type InManifest, report } from "../replication/FileReport.ts"
import { fileAddress, place } from "./client.ts"
import { size } from "./demo/display.ts"
import { json, nodeFlags, path } from "./flags.ts"
import { layerBeside, moment, parsePath, sheet } from "./operator.ts"
import { printable } from "./printable.ts"

type Line = readonly [string, string]

const manifestText = (manifest: InManifest): string => {
  switch (manifest.state) {
    case "listed": {
      const { entry, revision } = manifest
      const { created_at, origin_node_id, sha256, size_bytes } = entry
      return `revision ${revision}, ${size(size_bytes)}, sha256 ${sha256}, from ${origin_node_id} at ${created_at}`
    }
    case "deleted":
      return `deleted: ${manifest.reason}`
    case "unknown":
      return "not in it"
    case "unavailable":
      return manifest.reason
  }
}

type Answer = Extract<FileReport["local"], { state: "owed" }>["answers"][number]

const answerText = ({ at_ms, detail, kind, not_before_ms }: Answer, now: number): string => {
  const rest = not_before_ms !== null && not_before_ms > now
    ? `; not asked again before ${moment(not_before_ms, now)}`
    : ""
  return `${kind} (${moment(at_ms, now)}): ${detail}${rest}`
}

const suspect = ({ on_disk, suspect }: FileReport): ReadonlyArray<Line> => {
  if (suspect !== true) return []
  const what = on_disk === null ? "it is not there any more" : "what lies there has changed since, and may be wrong"
  return [["suspect", `${what}; the next check tells, and "verify" is one`]]
}

const localLines = ({ local, pending }: FileReport, now: number): ReadonlyArray<Line> => {
  const ours: ReadonlyArray<Line> = pending ? [["pending", "written by this node and not settled yet"]] : []
  switch (local.state) {
    case "unknown":
      return [["here", "nothing is known of it"], ...ours]
    case "owed": {
      const tries = local.rounds === 1 ? "1 round of attempts" : `${local.rounds} rounds of attempts`
      return [
        ["here", `owed since ${moment(local.since_ms, now)}`],
        ["reason", local.reason],
        ["tried", `${tries} in vain; next ${moment(local.next_ms, now)}`],
        ...local.answers.map((answer): Line => [answer.peer, answerText(answer, now)]),
        ...ours
      ]
    }
    case "verified":
      return [["here", `verified, ${size(local.size_bytes)}, sha256 ${local.sha256}`], ...ours]
    case "unlinking":
      return [["here", `deleted at revision ${local.revision}, unlinked ${moment(local.next_ms, now)}`], ...ours]
  }
}

const diskText = ({ disk_error, on_disk }: FileReport, now: number): string => {
  if (disk_error !== null) return disk_error
  if (on_disk === null) return "no file under this name"
  return `${size(on_disk.size_bytes)}, changed ${moment(on_disk.mtime_ms, now)}`
}

const render = (known: FileReport, now: number): string =>
  `${printable(known.path)}\n${
    sheet([
      ["manifest", manifestText(known.manifest)],
      ...localLines(known, now),
      ["on disk", diskText(known, now)],
      ...suspect(known)
    ])
  }`

const show = Effect.fnUntraced(function*(known: FileReport, { json }: { readonly json: boolean }) {
  yield* Console.log(json ? ExactJson.stringify(known) : render(known, yield* Clock.currentTimeMillis))
})

export const whyCommand = Command.make(
  "why",
  { ...nodeFlags, json, path },
  ({ json, path, ...flags }) =>
    Effect.gen(function*() {
      const parsed = yield* Effect.fromResult(parsePath(path))
      const found = yield* place(flags)
      const known = yield* found._tag === "Running"
        ? found.client.call("GET", fileAddress("/api/v1/cluster/files", parsed), FileReport)
        : Effect.provide(report(parsed), layerBeside(found.settings))
      yield* show(known, { json })
    })
).pipe(Command.withDescription("Say all that this node knows of a file, and why it is not here"))
