/** Proves that every node holds the same, without asking the nodes for more than their own view of the manifest. */
import { Effect, FileSystem, Stream, SubscriptionRef } from "effect"
import { createHash } from "node:crypto"
import { join } from "node:path"
import * as FileEntry from "../../ports/FileEntry.ts"
import { type Node, NodeFailed } from "./nodes.ts"
import { openDuckDb } from "./source.ts"

/** What was compared and found equal, and every difference, each a sentence that names the file and the node. */
export interface Proof {
  readonly equal: ReadonlyArray<string>
  readonly differences: ReadonlyArray<string>
}

const sha256 = Effect.fn("sha256")(function*(file: string) {
  const fs = yield* FileSystem.FileSystem
  const hash = createHash("sha256")
  yield* Stream.runForEach(
    fs.stream(file, { chunkSize: 1 << 20 }),
    (chunk) => Effect.sync(() => hash.update(chunk))
  )
  return hash.digest("hex")
})

/** The manifest as a node sees it, by path. */
const viewOf = Effect.fn("viewOf")(function*(node: Node, folder: string) {
  const fs = yield* FileSystem.FileSystem
  const to = join(folder, `${node.name}.jsonl`)
  yield* node.ask({ _tag: "Export", to })
  const lines = (yield* fs.readFileString(to)).split("\n").filter((line) => line !== "")
  const entries = yield* Effect.forEach(lines, (line) =>
    Effect.fromResult(FileEntry.fromJson(line)).pipe(
      Effect.mapError((why) => new NodeFailed({ node: node.name, detail: `exported a line that is no entry: ${why}` }))
    ))
  return new Map(entries.map((entry) => [entry.path as string, entry]))
})

/** The files of a folder's tree, without our own. */
const filesIn = Effect.fn("filesIn")(function*(folder: string) {
  const fs = yield* FileSystem.FileSystem
  const names = yield* fs.readDirectory(folder, { recursive: true })
  const files: Array<string> = []
  for (const name of names) {
    if (name === ".replication" || name.startsWith(".replication/")) continue
    if ((yield* fs.stat(join(folder, name))).type === "File") files.push(name)
  }
  return files
})

export const prove = Effect.fn("prove")(function*(
  nodes: ReadonlyArray<Node>,
  expected: ReadonlyArray<string>,
  folder: string
) {
  const differences: Array<string> = []
  const views = yield* Effect.forEach(nodes, (node) => viewOf(node, folder))
  const first = views[0] ?? new Map<string, FileEntry.FileEntry>()

  for (const [index, node] of nodes.entries()) {
    const view = views[index] ?? new Map<string, FileEntry.FileEntry>()
    for (const path of expected) {
      if (!view.has(path)) differences.push(`${path} is not in the manifest that ${node.name} sees`)
    }
    for (const [path, entry] of view) {
      const other = first.get(path)
      if (other === undefined || FileEntry.toJson(other) !== FileEntry.toJson(entry)) {
        differences.push(`${path} is another entry in the manifest that ${node.name} sees`)
      }
    }
    if (view.size !== first.size) differences.push(`${node.name} sees ${view.size} entries, not ${first.size}`)
    const onDisk = new Set(yield* filesIn(node.data))
    for (const path of onDisk) {
      if (!first.has(path)) differences.push(`${path} lies on ${node.name} and is in no manifest`)
    }
    for (const [path, entry] of first) {
      if (!onDisk.has(path)) differences.push(`${path} is missing on ${node.name}`)
      else {
        const found = yield* sha256(join(node.data, path))
        if (found !== entry.sha256) differences.push(`${path} on ${node.name} has sha256 ${found}, not ${entry.sha256}`)
      }
    }
    const { pulled } = yield* SubscriptionRef.get(node.progress)
    if (node.role === "writer" && pulled > 0) differences.push(`${node.name} wrote every file and yet pulled ${pulled}`)
  }
  const equal = [
    `sha256 of ${first.size} files on ${nodes.length} nodes`,
    `the manifest as ${nodes.length} nodes see it`,
    "the writer pulled nothing"
  ]
  const paths = [...first.keys()].filter((path) => path.endsWith(".parquet"))
  if (paths.length > 0 && differences.length === 0) {
    const told = yield* query(nodes, paths)
    for (const [index, node] of nodes.entries()) {
      if (told.length === nodes.length && told[index] !== told[0]) {
        differences.push(`DuckDB answers otherwise on ${node.name}: ${told[index]}, not ${told[0]}`)
      }
    }
    equal.push(`a DuckDB query over ${paths.length} Parquet files on each node: ${told[0]}`)
  }
  return { equal: differences.length === 0 ? equal : [], differences } satisfies Proof
})

/**
 * Rows and a checksum over every row, per node, or why DuckDB can't tell: files that are no Parquet are so everywhere.
 * The files may be of several schemas.
 */
const query = Effect.fn("query")(
  function*(nodes: ReadonlyArray<Node>, paths: ReadonlyArray<string>) {
    const { query } = yield* openDuckDb
    return yield* Effect.forEach(nodes, (node) => {
      const files = paths.map((path) => `'${join(node.data, path).replaceAll("'", "''")}'`).join(", ")
      return query(`
      SELECT count(*)::BIGINT AS rows, sum(hash(t)::HUGEINT)::VARCHAR AS checksum
      FROM read_parquet([${files}], union_by_name = true) t`).pipe(
        Effect.map((rows) => JSON.stringify(rows)),
        Effect.catchTag(
          "SourceFailed",
          ({ detail }) => Effect.succeed(detail.replaceAll(node.data, "").split("\n")[0] ?? "")
        )
      )
    })
  },
  Effect.scoped,
  Effect.catchTag("SourceFailed", ({ detail }) => Effect.succeed([`not asked: ${detail}`]))
)
