/**
 * One immutable file, as the manifest knows it.
 *
 * The JSON names are those of the wire-compatible system, so that entries can be exchanged with its tools.
 */
import { Result, Schema } from "effect"
import * as ExactJson from "./ExactJson.ts"
import { explain } from "./explain.ts"
import { FilePath } from "./FilePath.ts"

/** A SHA-256 digest: 64 lower-case hex digits. */
export const Sha256 = Schema.String.pipe(
  Schema.check(Schema.isPattern(/^[0-9a-f]{64}$/, { expected: "64 lower-case hex digits" })),
  Schema.brand("Sha256")
)
export type Sha256 = typeof Sha256.Type

/** The name of a node in its cluster: 1 to 128 of `A-Z a-z 0-9 . _ -`. */
export const NodeId = Schema.String.pipe(
  Schema.check(Schema.isPattern(/^[A-Za-z0-9._-]{1,128}$/, { expected: "1 to 128 of A-Z a-z 0-9 . _ -" })),
  Schema.brand("NodeId")
)
export type NodeId = typeof NodeId.Type

/** A position in one manifest's history; grows with every change, 0 before the first. */
export const Revision = Schema.Natural.pipe(Schema.brand("Revision"))
export type Revision = typeof Revision.Type

const Rfc3339 = Schema.String.check(
  Schema.isPattern(/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:Z|[+-]\d{2}:\d{2})$/, {
    expected: "a time such as 2026-04-11T14:00:00Z"
  })
)

const maxUint64 = 2n ** 64n - 1n

/** A log sequence number of 64 bits, without a sign. Written in JSON as an integer of any length. */
const Lsn = Schema.Union([Schema.BigInt, Schema.Natural]).check(
  Schema.makeFilter((lsn: bigint | number) =>
    (BigInt(lsn) >= 0n && BigInt(lsn) <= maxUint64) || "an integer from 0 to 18446744073709551615"
  )
)

/** A length in bytes; beyond 2^53 a number would not be exact. */
const sizeRange = `an integer from 0 to ${Number.MAX_SAFE_INTEGER}`
const Size = Schema.Number.annotate({ message: `Expected ${sizeRange}` }).check(
  Schema.isInt({ expected: sizeRange }),
  Schema.isGreaterThanOrEqualTo(0, { expected: sizeRange })
)

const maxLabelBytes = 4096

/** Free text of an entry. Bounded, so that every engine can keep whatever entry there is. */
const Label = Schema.String.check(
  Schema.makeFilter((text: string) =>
    Buffer.byteLength(text, "utf8") <= maxLabelBytes || `a text of at most ${maxLabelBytes} bytes`
  )
)

export const FileEntry = Schema.Struct({
  /** Relative to the data folder, `database/measurement/2026/04/11/14/file.parquet`. */
  path: FilePath,
  /** Of the whole file. */
  sha256: Sha256,
  /** Length in bytes. */
  size_bytes: Size,
  database: Label,
  measurement: Label,
  /** Start of the partition that the file belongs to, RFC 3339. */
  partition_time: Rfc3339,
  /** The node that wrote the file. */
  origin_node_id: NodeId,
  /** Storage tier, `hot` for files on a node's own disk. */
  tier: Label,
  /** When the file was registered, RFC 3339, up to nanoseconds. */
  created_at: Rfc3339,
  /** Position in the writer's log, 0 when it keeps none. */
  lsn: Lsn
})
export interface FileEntry extends Schema.Schema.Type<typeof FileEntry> {}

/** An entry with the revision that put it into the manifest. They always travel together. */
export interface Registered {
  readonly entry: FileEntry
  readonly revision: Revision
}

/** Whether two entries name the same bytes under the same path. */
export const sameBytes = (a: FileEntry, b: FileEntry): boolean =>
  a.path === b.path && a.sha256 === b.sha256 && a.size_bytes === b.size_bytes

const decode = Schema.decodeUnknownResult(FileEntry, { errors: "all" })
const isEntry = Schema.is(FileEntry)

/** What breaks the rules in an entry that was made without its schema; `undefined` when nothing does. */
export const entryOffence = (entry: FileEntry): string | undefined =>
  isEntry(entry) ? undefined : decode(entry).pipe(Result.match({ onFailure: explain, onSuccess: () => undefined }))

/** Reads one entry from what JSON says. Fails with a sentence that names every field that is wrong. */
export const fromValue = (value: unknown): Result.Result<FileEntry, string> =>
  decode(value).pipe(Result.mapError((error) => explain(error)))

/** Reads one entry from its JSON text. Fails with a sentence that names every field that is wrong. */
export const fromJson = (text: string): Result.Result<FileEntry, string> =>
  Result.flatMap(ExactJson.parse(text), fromValue)

/** Writes one entry as one line of JSON, its fields in the order of the schema. */
export const toJson = (entry: FileEntry): string => {
  const inOrder = {
    path: entry.path,
    sha256: entry.sha256,
    size_bytes: entry.size_bytes,
    database: entry.database,
    measurement: entry.measurement,
    partition_time: entry.partition_time,
    origin_node_id: entry.origin_node_id,
    tier: entry.tier,
    created_at: entry.created_at,
    lsn: entry.lsn
  }
  // Nothing else in it may be a `bigint`, and looking for one costs twice the writing.
  return typeof entry.lsn === "bigint" ? ExactJson.stringify(inOrder) : JSON.stringify(inOrder)
}

/** For how long a file counts as new, and how far ahead its writer's clock may be, milliseconds. */
const newMillis = 60_000

/** A file that was just written goes before one that is caught up on. The clock is its writer's; only the order hangs on it. */
export const isLive = (entry: FileEntry, now: number): boolean =>
  Math.abs(now - Date.parse(entry.created_at)) < newMillis
