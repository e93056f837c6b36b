/**
 * `file-replication forget PATH --lost`: ends the debt for a file that no node has any more.
 *
 * It deletes the path for the whole cluster and for good, so it is asked for twice, looks for the file on every node
 * that answers, and leaves a record besides the manifest's tombstone.
 */
import { Clock, Console, Effect, Option, Schema, Stdio } from "effect"
import { Command, Flag, Prompt } from "effect/cli"
import { open } from "node:fs/promises"
import { join } from "node:path"
import { Backend, type BackendError } from "../ports/Backend.ts"
import * as ExactJson from "../ports/ExactJson.ts"
import type { FileEntry } from "../ports/FileEntry.ts"
import { Inventory, type InventoryError } from "../ports/Inventory.ts"
import { Manifest } from "../ports/Manifest.ts"
import { Membership } from "../ports/Membership.ts"
import { askPeer, type Sighting } from "../replication/Copies.ts"
import { inManifest } from "../replication/FileReport.ts"
import { folders, ReplicationConfig } from "../ReplicationConfig.ts"
import { size } from "./demo/display.ts"
import { beside, config, json, path } from "./flags.ts"
import { parsePath } from "./operator.ts"
import { Misused } from "./publish.ts"

/** Nothing was changed, and why. */
export class NotForgotten extends Schema.TaggedError<NotForgotten>()("NotForgotten", {
  path: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.path} was not forgotten: ${this.detail}`
  }
}

/** This node: verified, on its way into the manifest, or just lying there. */
const askSelf = Effect.fnUntraced(function*(entry: FileEntry): Effect.fn.Return<
  Sighting,
  InventoryError | BackendError,
  Membership | Inventory | Backend
> {
  const { self } = yield* Membership
  const [local] = yield* (yield* Inventory).look([entry.path])
  const found = yield* (yield* Backend).stat(entry.path)
  const sighting = (kind: Sighting["kind"], detail: string): Sighting => ({ node: self.id, kind, detail })
  if (local?.row?._tag === "Verified") return sighting("Held", "has it verified, this node")
  if (local?.pending !== undefined) return sighting("Held", "has it sealed in staging, this node")
  if (Option.isSome(found)) return sighting("Held", "has a file under this name that is not verified, this node")
  return sighting("Absent", "does not have it, this node")
})

const lookEverywhere = Effect.fn("lookEverywhere")(function*(entry: FileEntry) {
  const { members, self } = yield* Membership
  const others = (yield* members).filter(({ id }) => id !== self.id)
  const peers = yield* Effect.forEach(others, (member) => askPeer(member, entry), { concurrency: 8 })
  return [yield* askSelf(entry), ...peers]
})

/** Pure: why a path must not be forgotten as things stand; `undefined` when it may be. */
export const objection = (sightings: ReadonlyArray<Sighting>): string | undefined => {
  const named = (kind: Sighting["kind"]) => sightings.filter((each) => each.kind === kind).map(({ node }) => node)
  const held = named("Held")
  if (held.length > 0) return `it is not lost: ${held.join(", ")} may still have it`
  const away = named("Away")
  if (away.length > 0) return `${away.join(", ")} can't be asked now and may still have it`
  const silent = named("Silent")
  if (silent.length > 0) return `${silent.join(", ")} did not answer and may still have it`
  return undefined
}

export interface ForgetOptions {
  readonly lost: boolean
  readonly yes: boolean
  readonly force: boolean
  readonly json: boolean
}

const explanation = (entry: FileEntry, sightings: ReadonlyArray<Sighting>): string =>
  [
    `${entry.path}, ${size(entry.size_bytes)}, sha256 ${entry.sha256}, from ${entry.origin_node_id}:`,
    ...sightings.map(({ detail, node }) => `  ${node}: ${detail}`),
    "Forgetting it deletes it from the manifest for every node and for good: no node pulls it any more, every node that",
    "comes back with it deletes it, and nothing can be published under this path again."
  ].join("\n")

/** On a terminal somebody can be asked the second time; a script says `--yes`. */
const confirmed = Effect.fnUntraced(function*(options: ForgetOptions) {
  if (options.yes) return true
  const { stdinIsTerminal, stdoutIsTerminal } = yield* Stdio.Stdio
  if (!(yield* stdinIsTerminal) || !(yield* stdoutIsTerminal)) return false
  return yield* Prompt.run(Prompt.Confirm({ message: "Forget it for good?", initial: false })).pipe(
    Effect.orElseSucceed(() => false)
  )
})

/** Appends a line to the record, durably. */
const record = Effect.fnUntraced(function*(line: Readonly<Record<string, unknown>>, path: string) {
  const file = join(folders(yield* ReplicationConfig).state, "forgotten.jsonl")
  yield* Effect.tryPromise({
    try: async () => {
      const handle = await open(file, "a", 0o600)
      try {
        await handle.appendFile(`${ExactJson.stringify(line)}\n`)
        await handle.sync()
      } finally {
        await handle.close()
      }
    },
    catch: (cause) =>
      new NotForgotten({ path, detail: `${file} can't be written: ${cause instanceof Error ? cause.message : cause}` })
  })
  return file
})

export const forget = Effect.fn("forget")(function*(given: string, options: ForgetOptions) {
  const path = yield* Effect.fromResult(parsePath(given))
  if (!options.lost) return yield* new Misused({ detail: "forget is for files that every node has lost; say --lost" })
  const standing = yield* inManifest(path)
  if (standing.state === "deleted") {
    const { reason } = standing
    return yield* Console.log(
      options.json ? JSON.stringify({ path, forgotten: false, reason }) : `${path} is deleted already: ${reason}`
    )
  }
  if (standing.state === "unknown") return yield* new NotForgotten({ path, detail: "it is not in the manifest" })
  const { entry, revision } = standing

  const sightings = yield* lookEverywhere(entry)
  // With JSON on standard output, people read the other.
  yield* (options.json ? Console.error : Console.log)(explanation(entry, sightings))
  const why = objection(sightings)
  if (why !== undefined && !(options.yes && options.force)) {
    return yield* new NotForgotten({ path, detail: `${why}; --yes --force deletes it all the same` })
  }
  if (!(yield* confirmed(options))) {
    return yield* new NotForgotten({
      path,
      detail: "nothing was changed; say it again with --yes to go through with it"
    })
  }

  const { self } = yield* Membership
  const now = new Date(yield* Clock.currentTimeMillis).toISOString()
  const reason = `lost: forgotten by an operator on ${self.id} at ${now}${why === undefined ? "" : `, although ${why}`}`
  // Before the delete: what was deleted must be on record even when this process dies right behind it.
  const file = yield* record({ at: now, by: self.id, reason, revision, entry }, path)
  const removed = yield* (yield* Manifest).remove(path, reason)
  yield* Console.log(
    options.json
      ? ExactJson.stringify({ path, forgotten: true, revision: removed, reason, record: file, sightings })
      : `${path} is forgotten: deleted at revision ${removed}, on record in ${file}`
  )
})

export const forgetCommand = Command.make("forget", {
  config,
  json,
  path,
  lost: Flag.Boolean("lost").pipe(
    Flag.withDescription("The file is lost on every node"),
    Flag.withDefault(false)
  ),
  yes: Flag.Boolean("yes").pipe(
    Flag.withDescription("Go through with it"),
    Flag.withDefault(false)
  ),
  force: Flag.Boolean("force").pipe(
    Flag.withDescription("Even if a node may still have the file"),
    Flag.withDefault(false)
  )
}, ({ config, path, ...options }) => beside(config, forget(path, options))).pipe(
  Command.withDescription("Delete a file for good that no node has any more, so that nobody owes it")
)
