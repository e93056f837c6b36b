/** Small helpers for tests of inventories. */
import type { Effect, Scope } from "effect"
import { createHash } from "node:crypto"
import type { Held } from "../../ports/Backend.ts"
import { NodeId, type Registered, Revision, Sha256 } from "../../ports/FileEntry.ts"
import { FilePath } from "../../ports/FilePath.ts"
import type { Change, Inventory } from "../../ports/Inventory.ts"
import type { Cursor } from "../../ports/Manifest.ts"

/** Declares a test on a fresh inventory. */
export type Test = (
  sentence: string,
  body: (inventory: Inventory["Service"]) => Effect.Effect<void, unknown, Scope.Scope>
) => void

export const pathOf = (path: string): FilePath => FilePath.make(path)
export const revision = (number: number): Revision => Revision.make(number)

/** A registered file whose size is its revision, unless `size` is given. */
export const file = (path: string, at: number, content = "", size = at): Registered => ({
  entry: {
    path: pathOf(path),
    sha256: Sha256.make(createHash("sha256").update(path + content).digest("hex")),
    size_bytes: size,
    database: "db",
    measurement: "cpu",
    partition_time: "2026-04-11T14:00:00Z",
    origin_node_id: NodeId.make("node-a"),
    tier: "hot",
    created_at: "2026-04-11T14:00:00.123456789Z",
    lsn: 2n ** 64n - 1n
  },
  revision: revision(at)
})

export const owe = (file: Registered, due: number): Change => ({ _tag: "Owe", file, reason: "new", due })

export const forget = (path: string, at: number, due: number): Change => ({
  _tag: "Forget",
  path: pathOf(path),
  revision: revision(at),
  due
})

export const lost = (path: string, held: Pick<Held, "inode" | "mtime">, due: number): Change => ({
  _tag: "Lost",
  path: pathOf(path),
  held,
  reason: "gone",
  due
})

export const release = (path: string): Change => ({ _tag: "Release", path: pathOf(path) })

export const newHistory: Change = { _tag: "NewHistory" }

export const heldOf = ({ entry }: Registered): Held => ({
  sha256: entry.sha256,
  size: entry.size_bytes,
  mtime: 1_775_916_000_123_456_789n,
  inode: 42n
})

export const cursorAt = (at: number): Cursor => ({ epoch: "e1", revision: revision(at), mark: `m${at}` })
