/** Files in lists, for tools and people: the manifest in pages with what of it is here, and what is owed. */
import { Effect, Option, Schema, Struct } from "effect"
import { FileEntry, NodeId, Revision } from "../ports/FileEntry.ts"
import { FilePath, offence } from "../ports/FilePath.ts"
import { Inventory } from "../ports/Inventory.ts"
import { Manifest } from "../ports/Manifest.ts"
import { LocalState, localState, OwedState } from "./FileReport.ts"

export const ListedFile = Schema.Struct({ entry: FileEntry, revision: Revision, local: LocalState }).annotate({
  identifier: "ListedFile"
})

export const Files = Schema.Struct({
  files: Schema.Array(ListedFile),
  /** Where the next page begins: the `cursor` of the next call. `null` behind the last. */
  next: Schema.NullOr(FilePath)
})

export const OwedFile = Schema.Struct({
  path: FilePath,
  size_bytes: Schema.Natural,
  origin_node_id: NodeId,
  ...Struct.omit(OwedState.fields, ["state"])
}).annotate({ identifier: "OwedFile" })

export const Owed = Schema.Struct({
  /** How many there are in all. */
  total: Schema.Natural,
  bytes: Schema.Natural,
  files: Schema.Array(OwedFile)
})

/** No path can begin so. */
export class NoPrefix extends Schema.TaggedError<NoPrefix>()("NoPrefix", { prefix: Schema.String }) {
  override get message(): string {
    return `no path can begin with ${this.prefix}`
  }
}

const lastCharacter = "\u{10FFFF}"

/**
 * Pure: a path behind which every path with a prefix comes, and nothing else before them; `none` for the beginning.
 * The manifest's pages know no prefix, only a path that they begin behind: so this is the last path that could be
 * before the prefix. `undefined` when no path can begin so.
 */
export const before = (prefix: string): Option.Option<FilePath> | undefined => {
  if (prefix === "") return Option.none()
  const characters = [...prefix]
  const last = characters.pop()?.codePointAt(0)
  if (last === undefined || !prefix.isWellFormed()) return undefined
  const head = characters.join("")
  // The next lower characters that may stand there: some are surrogates, and some no path may contain.
  for (let lower = last - 1; lower > 0; lower--) {
    if (lower >= 0xd800 && lower <= 0xdfff) lower = 0xd7ff
    const text = head + String.fromCodePoint(lower)
    for (const path of [text + lastCharacter.repeat(4), text]) {
      if (offence(path) === undefined) return Option.some(FilePath.make(path))
    }
    if (last - lower > 8) break
  }
  return head === "" ? Option.none() : undefined
}

const bytesOrder = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b))

export interface PageOptions {
  /** Behind which path the page begins. */
  readonly cursor?: FilePath | undefined
  readonly limit: number
  /** Only paths that begin with it. */
  readonly prefix?: string | undefined
}

/** A page of the manifest, with what of each file is on this node. */
export const page = Effect.fn("FileList.page")(function*({ cursor, limit, prefix = "" }: PageOptions) {
  const inventory = yield* Inventory
  const manifest = yield* Manifest
  const start = before(prefix)
  if (start === undefined) return yield* new NoPrefix({ prefix })
  const given = Option.fromUndefinedOr(cursor)
  const after = Option.isSome(given) && Option.isSome(start) && bytesOrder(given.value, start.value) < 0
    ? start
    : Option.orElse(given, () => start)
  const found = yield* manifest.page(after, limit)
  const listed = found.files.filter(({ entry }) => entry.path.startsWith(prefix))
  const locals = yield* inventory.look(listed.map(({ entry }) => entry.path))
  return {
    files: listed.map((file, index) => ({ ...file, local: localState(locals[index]?.row) })),
    // Behind the first path without the prefix there is none with it.
    next: listed.length < found.files.length ? null : Option.getOrNull(found.next)
  } satisfies typeof Files.Type
})

/** At most `limit` files that are owed, the next to be tried first. */
export const owed = Effect.fn("FileList.owed")(function*(limit: number) {
  const inventory = yield* Inventory
  const { owed } = yield* inventory.progress
  const rows = yield* inventory.due(Number.MAX_SAFE_INTEGER, limit)
  return {
    total: owed.files,
    bytes: owed.bytes,
    files: rows.slice(0, limit).flatMap((row) => {
      const local = localState(row)
      if (local.state !== "owed") return []
      const { state: _, ...rest } = local
      const { origin_node_id, path, size_bytes } = row.file.entry
      return [{ path, size_bytes, origin_node_id, ...rest }]
    })
  } satisfies typeof Owed.Type
})
