/** `file-replication files`: what the manifest lists, or what a node owes, and where each file stands. */
import { Console, Effect, Option, Schema } from "effect"
import { Command, Flag } from "effect/cli"
import * as ExactJson from "../ports/ExactJson.ts"
import { type FilePath } from "../ports/FilePath.ts"
import * as FileList from "../replication/FileList.ts"
import { type Client, place } from "./client.ts"
import { size } from "./demo/display.ts"
import { json, nodeFlags } from "./flags.ts"
import { layerBeside } from "./operator.ts"
import { printable } from "./printable.ts"

const mostInOnePage = 1000

interface Source<E, R> {
  readonly page: (
    options: { readonly cursor: FilePath | undefined; readonly prefix: string; readonly limit: number }
  ) => Effect.Effect<typeof FileList.Files.Type, E, R>
  readonly owed: (limit: number) => Effect.Effect<typeof FileList.Owed.Type, E, R>
}

const running = (client: Client) => ({
  page: ({ cursor, limit, prefix }) => {
    const query = new URLSearchParams({ prefix, limit: String(limit), ...(cursor === undefined ? {} : { cursor }) })
    return client.call("GET", `/api/v1/cluster/files?${query}`, FileList.Files)
  },
  owed: (limit) => client.call("GET", `/api/v1/cluster/owed?limit=${limit}`, FileList.Owed)
} satisfies Source<unknown, unknown>)

const fromFiles = { page: FileList.page, owed: FileList.owed } satisfies Source<unknown, unknown>

const listedLine = ({ entry, local, revision }: typeof FileList.ListedFile.Type): string =>
  `${local.state.padEnd(9)}  ${size(entry.size_bytes).padStart(9)}  ${entry.sha256.slice(0, 12)}  `
  + `${String(revision).padStart(8)}  ${printable(entry.path)}`

interface ListOptions {
  readonly prefix: string
  readonly limit: number
  readonly json: boolean
}

const list = Effect.fn("files")(function*<E, R>(source: Source<E, R>, { json, limit, prefix }: ListOptions) {
  let cursor: FilePath | undefined
  for (let left = limit; left > 0;) {
    const { files, next } = yield* source.page({ cursor, prefix, limit: Math.min(left, mostInOnePage) })
    for (const file of files) yield* Console.log(json ? ExactJson.stringify(file) : listedLine(file))
    left -= files.length
    if (next === null) return
    cursor = next
  }
})

const listOwed = Effect.fn("files")(function*<E, R>(source: Source<E, R>, { json, limit }: ListOptions) {
  const { bytes, files, total } = yield* source.owed(Math.min(limit, mostInOnePage))
  for (const file of files) {
    yield* Console.log(
      json
        ? ExactJson.stringify(file)
        : printable(`${size(file.size_bytes).padStart(9)}  ${file.path}: ${file.reason}`)
    )
  }
  if (!json && total > files.length) yield* Console.log(`and ${total - files.length} more, ${size(bytes)} in all`)
})

const limit = Schema.Int.check(Schema.isGreaterThan(0, { expected: "a number of files" }))

export const filesCommand = Command.make("files", {
  ...nodeFlags,
  json,
  prefix: Flag.String("prefix").pipe(
    Flag.withDescription("Only files whose path begins with this"),
    Flag.withDefault("")
  ),
  limit: Flag.Int("limit").pipe(
    Flag.withSchema(limit),
    Flag.withDescription("So many at most; all when left out"),
    Flag.optional
  ),
  owed: Flag.Boolean("owed").pipe(
    Flag.withDescription("Only what this node owes, and why; at most 1000, the next to be tried first"),
    Flag.withDefault(false)
  )
}, ({ json, limit, owed, prefix, ...flags }) =>
  Effect.gen(function*() {
    const options = { json, prefix, limit: Option.getOrElse(limit, () => Number.MAX_SAFE_INTEGER) }
    const found = yield* place(flags)
    const show = owed ? listOwed : list
    yield* found._tag === "Running"
      ? show(running(found.client), options)
      : Effect.provide(show(fromFiles, options), layerBeside(found.settings))
  })).pipe(Command.withDescription("List the files of the cluster, and where each stands on this node"))
