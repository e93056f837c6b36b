/** What a caller tells of a file that is to be published, and the entry that comes of it. */
import { DateTime, Effect, Schema } from "effect"
import { explain } from "../ports/explain.ts"
import { FileEntry, type NodeId } from "../ports/FileEntry.ts"
import { layout } from "../ports/FilePath.ts"

/** A file to publish; what its bytes tell is found out. */
export interface NewFile {
  /** Relative to the data folder. What is left out below is taken from it where it follows the usual layout. */
  readonly path: string
  readonly database?: string
  readonly measurement?: string
  /** Start of its partition, RFC 3339; the time of publishing when the path does not tell either. */
  readonly partitionTime?: string
  /** `hot` when left out. */
  readonly tier?: string
  readonly lsn?: bigint | number
}

/** The file can't be described in the manifest: a path that breaks the rules, a time that is none. */
export class InvalidEntry extends Schema.TaggedError<InvalidEntry>()("InvalidEntry", {
  path: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.path} can't be published: ${this.detail}`
  }
}

/** The entry of a file that this node writes, by its bytes. */
export const describe = Effect.fnUntraced(function*(file: NewFile, sha256: string, size: number, origin: NodeId) {
  const now = DateTime.formatIso(yield* DateTime.now)
  const usual = layout(file.path)
  return yield* Schema.decodeEffect(FileEntry, { errors: "all" })({
    path: file.path,
    sha256,
    size_bytes: size,
    database: file.database ?? usual.database ?? "",
    measurement: file.measurement ?? usual.measurement ?? "",
    partition_time: file.partitionTime ?? usual.partitionTime ?? now,
    origin_node_id: origin,
    tier: file.tier ?? "hot",
    created_at: now,
    lsn: file.lsn ?? 0
  }).pipe(Effect.mapError((error) => new InvalidEntry({ path: file.path, detail: explain(error) })))
})
