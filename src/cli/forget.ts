/**
 * `file-replication forget PATH --lost`: ends the debt for a file that no node has any more. It is asked for twice,
 * because it deletes the path for the whole cluster and for good.
 */
import { Console, Effect, Option, Stdio } from "effect"
import { Command, Flag, Prompt } from "effect/cli"
import { Forgetting } from "../http/answers.ts"
import type { Backend, BackendError } from "../ports/Backend.ts"
import * as ExactJson from "../ports/ExactJson.ts"
import type { FetchClient } from "../ports/FetchClient.ts"
import type { Registered } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import type { Inventory, InventoryError } from "../ports/Inventory.ts"
import type { Manifest, Unavailable } from "../ports/Manifest.ts"
import type { Membership, MembershipError } from "../ports/Membership.ts"
import { FileReport, type InManifest, inManifest } from "../replication/FileReport.ts"
import * as Lost from "../replication/lost.ts"
import { folders, ReplicationConfig } from "../ReplicationConfig.ts"
import { type Client, fileAddress, named, type NoAnswer, type Refused } from "./client.ts"
import { size } from "./demo/display.ts"
import { beside, json, nodeFlags, path } from "./flags.ts"
import { parsePath } from "./operator.ts"
import { printableLines } from "./printable.ts"
import { Misused } from "./publish.ts"

export interface ForgetOptions {
  readonly lost: boolean
  readonly yes: boolean
  readonly force: boolean
  readonly json: boolean
}

const explanation = ({ entry, sightings }: Lost.Search): string =>
  printableLines([
    `${entry.path}, ${size(entry.size_bytes)}, sha256 ${entry.sha256}, from ${entry.origin_node_id}:`,
    ...sightings.map(({ detail, node }) => `  ${node}: ${detail}`),
    "Forgetting it deletes it from the manifest for every node and for good: no node pulls it any more, every node that",
    "comes back with it deletes it, and nothing can be published under this path again."
  ].join("\n"))

/** On a terminal somebody can be asked the second time; a script says `--yes`. */
const confirmed = Effect.fnUntraced(function*(options: ForgetOptions) {
  if (options.yes) return true
  const { stdinIsTerminal, stdoutIsTerminal } = yield* Stdio.Stdio
  if (!(yield* stdinIsTerminal) || !(yield* stdoutIsTerminal)) return false
  return yield* Prompt.run(Prompt.Confirm({ message: "Forget it for good?", initial: false })).pipe(
    Effect.orElseSucceed(() => false)
  )
})

/** Who looks for the file and forgets it: this process beside a node, or a node that was named by its address. */
interface Doer<E, R> {
  readonly standing: (path: FilePath) => Effect.Effect<InManifest, E, R>
  readonly search: (file: Registered) => Effect.Effect<Lost.Search, E, R>
  readonly forget: (found: Lost.Search, force: boolean) => Effect.Effect<Lost.Forgotten, E, R>
}

const forget = Effect.fn("forget")(function*<E, R>(doer: Doer<E, R>, path: FilePath, options: ForgetOptions) {
  const standing = yield* doer.standing(path)
  if (standing.state === "deleted") {
    const { reason } = standing
    return yield* Console.log(
      options.json ? JSON.stringify({ path, forgotten: false, reason }) : `${path} is deleted already: ${reason}`
    )
  }
  if (standing.state !== "listed") {
    const detail = standing.state === "unknown" ? "it is not in the manifest" : standing.reason
    return yield* new Lost.NotForgotten({ path, detail })
  }
  const found = yield* doer.search(standing)
  // With JSON on standard output, people read the other.
  yield* (options.json ? Console.error : Console.log)(explanation(found))
  if (found.objection !== null && !(options.yes && options.force)) {
    const detail = `${found.objection}; --yes --force deletes it all the same`
    return yield* new Lost.NotForgotten({ path, detail })
  }
  if (!(yield* confirmed(options))) {
    const detail = "nothing was changed; say it again with --yes to go through with it"
    return yield* new Lost.NotForgotten({ path, detail })
  }
  const { reason, record, revision } = yield* doer.forget(found, options.force)
  yield* Console.log(
    options.json
      ? ExactJson.stringify({ path, forgotten: true, revision, reason, record, sightings: found.sightings })
      : `${path} is forgotten: deleted at revision ${revision}, on record in ${record}`
  )
})

type Guest = Backend | FetchClient | Inventory | Manifest | Membership | ReplicationConfig

const besideNode: Doer<BackendError | InventoryError | MembershipError | Lost.NotForgotten | Unavailable, Guest> = {
  standing: inManifest,
  search: Lost.search,
  forget: (found: Lost.Search) =>
    Effect.flatMap(ReplicationConfig, (settings) => Lost.forget(found, folders(settings).state))
}

const atAddress = (client: Client): Doer<NoAnswer | Refused | Lost.NotForgotten, never> => {
  const ask = (path: FilePath, more: { readonly confirmed?: boolean; readonly force?: boolean } = {}) =>
    client.call("POST", "/api/v1/cluster/forget", Forgetting, { path, ...more })
  return {
    standing: (path: FilePath) =>
      client.call("GET", fileAddress("/api/v1/cluster/files", path), FileReport).pipe(
        Effect.map(({ manifest }) => manifest),
        Effect.catchIf(
          (error) => error._tag === "Refused" && error.code === "NotFound",
          () => Effect.succeed<InManifest>({ state: "unknown" })
        )
      ),
    search: ({ entry: { path } }: Registered) => ask(path),
    forget: ({ entry: { path } }: Lost.Search, force: boolean) =>
      Effect.flatMap(ask(path, { confirmed: true, force }), ({ forgotten }) =>
        forgotten === null
          ? new Lost.NotForgotten({ path, detail: "the node did not do it" })
          : Effect.succeed(forgotten))
  }
}

export const forgetCommand = Command.make("forget", {
  ...nodeFlags,
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
}, ({ config, path: given, token, url, ...options }) =>
  Effect.gen(function*() {
    const path = yield* Effect.fromResult(parsePath(given))
    if (!options.lost) return yield* new Misused({ detail: "forget is for files that every node has lost; say --lost" })
    const client = yield* named({ config, token, url })
    yield* Option.isSome(client)
      ? forget(atAddress(client.value), path, options)
      : beside(config, forget(besideNode, path, options))
  })).pipe(
    Command.withDescription("Delete a file for good that no node has any more, so that nobody owes it")
  )
