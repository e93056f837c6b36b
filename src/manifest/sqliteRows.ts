/** Rows of the manifest's table as files, on both sides of its thread. Knows nothing of Effect. */

const columns = [
  "seq",
  "path",
  "sha256",
  "size_bytes",
  "database",
  "measurement",
  "partition_time",
  "origin_node_id",
  "tier",
  "created_at",
  "lsn"
] as const

export type FileRow = { readonly [column in typeof columns[number]]?: unknown }

/** What the columns of one row say of its file, in their order; the decoder looks whether a manifest wrote that. */
const fileFrom = (
  [seq, path, sha256, size_bytes, database, measurement, partition_time, origin_node_id, tier, created_at, lsn]:
    ReadonlyArray<unknown>
) => ({
  revision: seq,
  entry: {
    path,
    sha256,
    size_bytes,
    database,
    measurement,
    partition_time,
    origin_node_id,
    tier,
    created_at,
    lsn: integerOf(lsn)
  }
})

/** What one row says of its file. */
export const fileOf = (row: FileRow) => fileFrom(columns.map((column) => row[column]))

const integerOf = (text: unknown): unknown => {
  // Anything else stays as it is, for the decoder to name.
  if (typeof text !== "string" || !/^\d{1,20}$/.test(text)) return text
  return Number.isSafeInteger(Number(text)) ? Number(text) : BigInt(text)
}

/** A row as one text: an object a row costs SQLite and the way between threads several times as much. */
export const packedRow = `json_array(${columns.join(", ")})`

/** What rows that were packed, with commas between them, say of their files. */
export const unpacked = (rows: string): ReadonlyArray<ReturnType<typeof fileOf>> => {
  const all: ReadonlyArray<ReadonlyArray<unknown>> = JSON.parse(`[${rows}]`)
  return all.map(fileFrom)
}
