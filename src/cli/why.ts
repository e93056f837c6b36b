/** `file-replication why PATH`: all that a node knows of one file. */
import { Clock, Console, Effect, Option } from "effect"
import { Command } from "effect/cli"
import { Backend } from "../ports/Backend.ts"
import * as ExactJson from "../ports/ExactJson.ts"
import { type FileEntry, NodeId, type Registered, Sha256 } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { Inventory, type Local, type PeerAnswer } from "../ports/Inventory.ts"
import { Gone, Manifest } from "../ports/Manifest.ts"
import { size } from "./demo/display.ts"
import { beside, config, json, path } from "./flags.ts"
import { moment, parsePath, sheet } from "./operator.ts"

/** What the manifest says of a path. */
export type InManifest =
  | { readonly _tag: "Listed"; readonly file: Registered }
  | { readonly _tag: "Deleted"; readonly reason: string }
  | { readonly _tag: "Unknown" }
  | { readonly _tag: "Unavailable"; readonly detail: string }

/** A tombstone shows itself only to who wants to register: so it is asked what a registration would be answered. */
const registration = (path: FilePath): FileEntry => ({
  path,
  sha256: Sha256.make("0".repeat(64)),
  size_bytes: 0,
  database: "",
  measurement: "",
  partition_time: "1970-01-01T00:00:00Z",
  origin_node_id: NodeId.make("nobody"),
  tier: "hot",
  created_at: "1970-01-01T00:00:00Z",
  lsn: 0
})

export const inManifest = Effect.fnUntraced(function*(path: FilePath) {
  const manifest = yield* Manifest
  const file = yield* manifest.get(path)
  if (Option.isSome(file)) return { _tag: "Listed", file: file.value } satisfies InManifest
  const [answer] = yield* manifest.check([registration(path)])
  return answer instanceof Gone
    ? { _tag: "Deleted", reason: answer.reason } satisfies InManifest
    : { _tag: "Unknown" } satisfies InManifest
})

const gather = Effect.fnUntraced(function*(path: FilePath) {
  const inventory = yield* Inventory
  const backend = yield* Backend
  const manifest: InManifest = yield* inManifest(path).pipe(
    Effect.catchTag(
      "Unavailable",
      ({ message }) => Effect.succeed<InManifest>({ _tag: "Unavailable", detail: message })
    )
  )
  const [local = { row: undefined, pending: undefined }] = yield* inventory.look([path])
  const onDisk = yield* Effect.result(backend.stat(path))
  return { path, manifest, local, onDisk }
})
type Known = Effect.Success<ReturnType<typeof gather>>

// -----------------------------------------------------------------------------
// As JSON: times are milliseconds since 1970, what is not known is `null`
// -----------------------------------------------------------------------------

const manifestJson = (manifest: InManifest) => {
  switch (manifest._tag) {
    case "Listed":
      return { state: "listed", revision: manifest.file.revision, entry: manifest.file.entry }
    case "Deleted":
      return { state: "deleted", reason: manifest.reason }
    case "Unknown":
      return { state: "unknown" }
    case "Unavailable":
      return { state: "unavailable", reason: manifest.detail }
  }
}

const answerJson = ({ at, detail, kind, notBefore, peer, wrongTimes }: PeerAnswer) => ({
  peer,
  at_ms: at,
  kind,
  detail,
  wrong_times: wrongTimes ?? 0,
  not_before_ms: notBefore ?? null
})

const localJson = ({ row }: Local) => {
  switch (row?._tag) {
    case undefined:
      return { state: "unknown" }
    case "Owed": {
      const { answers, due, file, reason, rounds, since } = row
      const { revision } = file
      return {
        state: "owed",
        revision,
        since_ms: since,
        rounds,
        next_ms: due,
        reason,
        answers: answers.map(answerJson)
      }
    }
    case "Verified": {
      const { file, held } = row
      return { state: "verified", revision: file.revision, sha256: held.sha256, size_bytes: held.size }
    }
    case "Unlinking":
      return { state: "unlinking", revision: row.revision, next_ms: row.due }
  }
}

const toJson = ({ local, manifest, onDisk, path }: Known): string =>
  ExactJson.stringify({
    path,
    manifest: manifestJson(manifest),
    local: localJson(local),
    pending: local.pending !== undefined,
    on_disk: onDisk._tag === "Success" && Option.isSome(onDisk.success)
      ? { size_bytes: onDisk.success.value.size, mtime_ms: Number(onDisk.success.value.mtime / 1_000_000n) }
      : null
  })

// -----------------------------------------------------------------------------
// For people
// -----------------------------------------------------------------------------

type Line = readonly [string, string]

const manifestText = (manifest: InManifest): string => {
  switch (manifest._tag) {
    case "Listed": {
      const { entry, revision } = manifest.file
      const { created_at, origin_node_id, sha256, size_bytes } = entry
      return `revision ${revision}, ${size(size_bytes)}, sha256 ${sha256}, from ${origin_node_id} at ${created_at}`
    }
    case "Deleted":
      return `deleted: ${manifest.reason}`
    case "Unknown":
      return "not in it"
    case "Unavailable":
      return manifest.detail
  }
}

const answerText = ({ at, detail, kind, notBefore }: PeerAnswer, now: number): string => {
  const rest = notBefore !== undefined && notBefore > now ? `; not asked again before ${moment(notBefore, now)}` : ""
  return `${kind} (${moment(at, now)}): ${detail}${rest}`
}

const localLines = ({ pending, row }: Local, now: number): ReadonlyArray<Line> => {
  const ours: ReadonlyArray<Line> = pending === undefined
    ? []
    : [["pending", "written by this node, sealed in staging and not settled yet"]]
  switch (row?._tag) {
    case undefined:
      return [["here", "nothing is known of it"], ...ours]
    case "Owed": {
      const { answers, due, reason, rounds, since } = row
      const tries = rounds === 1 ? "1 round of attempts" : `${rounds} rounds of attempts`
      return [
        ["here", `owed since ${moment(since, now)}`],
        ["reason", reason],
        ["tried", `${tries} in vain; next ${moment(due, now)}`],
        ...answers.map((answer): Line => [answer.peer, answerText(answer, now)]),
        ...ours
      ]
    }
    case "Verified":
      return [["here", `verified, ${size(row.held.size)}, sha256 ${row.held.sha256}`], ...ours]
    case "Unlinking":
      return [["here", `deleted at revision ${row.revision}, unlinked ${moment(row.due, now)}`], ...ours]
  }
}

const diskText = (onDisk: Known["onDisk"], now: number): string => {
  if (onDisk._tag === "Failure") return onDisk.failure.message
  return Option.match(onDisk.success, {
    onNone: () => "no file under this name",
    onSome: ({ mtime, size: bytes }) => `${size(bytes)}, changed ${moment(Number(mtime / 1_000_000n), now)}`
  })
}

const render = (known: Known, now: number): string =>
  `${known.path}\n${
    sheet([
      ["manifest", manifestText(known.manifest)],
      ...localLines(known.local, now),
      ["on disk", diskText(known.onDisk, now)]
    ])
  }`

export const why = Effect.fn("why")(function*(path: string, options: { readonly json: boolean }) {
  const known = yield* gather(yield* Effect.fromResult(parsePath(path)))
  yield* Console.log(options.json ? toJson(known) : render(known, yield* Clock.currentTimeMillis))
})

export const whyCommand = Command.make(
  "why",
  { config, json, path },
  ({ config, json, path }) => beside(config, why(path, { json }))
).pipe(Command.withDescription("Say all that this node knows of a file, and why it is not here"))
