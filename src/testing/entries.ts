/** Entries for tests. */
import { Schema } from "effect"
import { createHash } from "node:crypto"
import { FileEntry } from "../ports/FileEntry.ts"
import { FilePath } from "../ports/FilePath.ts"

/** An entry whose bytes are `content`. */
export const entryOf = (path: string, content = path, overrides: Partial<typeof FileEntry.Encoded> = {}): FileEntry =>
  Schema.decodeSync(FileEntry)({
    path,
    sha256: createHash("sha256").update(content).digest("hex"),
    size_bytes: content.length,
    database: "metrics",
    measurement: "cpu",
    partition_time: "2026-04-11T14:00:00Z",
    origin_node_id: "node-1",
    tier: "hot",
    created_at: "2026-04-11T14:00:01.123456789Z",
    lsn: 7,
    ...overrides
  })

export const pathOf = (path: string): FilePath => FilePath.make(path)
