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

/** What one row says of its file; the decoder looks whether a manifest wrote that. */
export const fileOf = (row: FileRow) => ({
  revision: row.seq,
  entry: {
    path: row.path,
    sha256: row.sha256,
    size_bytes: row.size_bytes,
    database: row.database,
    measurement: row.measurement,
    partition_time: row.partition_time,
    origin_node_id: row.origin_node_id,
    tier: row.tier,
    created_at: row.created_at,
    lsn: integerOf(row.lsn)
  }
})

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
  return all.map((
    [seq, path, sha256, size_bytes, database, measurement, partition_time, origin_node_id, tier, created_at, lsn]
  ) =>
    fileOf({
      seq,
      path,
      sha256,
      size_bytes,
      database,
      measurement,
      partition_time,
      origin_node_id,
      tier,
      created_at,
      lsn
    })
  )
}
