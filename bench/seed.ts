/** Files that a node holds already: written where it keeps them, and into its databases, while it does not run. */
import { createHash, randomBytes } from "node:crypto"
import { lstatSync, mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { open as openInventory } from "../src/inventory/sqliteOperations.ts"
import { open as openManifest } from "../src/manifest/sqliteOperations.ts"
import { FileEntry, NodeId, Sha256, toJson } from "../src/ports/FileEntry.ts"
import { FilePath } from "../src/ports/FilePath.ts"
import type { NodeSetup } from "./protocol.ts"

const size = 100
const perFolder = 1000

/** The node must have run once, and have held nothing. `count` files, a multiple of 1000, of 100 bytes each. */
export const seed = ({ folder, manifest: manifestFile, name }: NodeSetup, count: number): void => {
  const manifest = openManifest(manifestFile)
  const inventory = openInventory(join(folder, "data/.replication/inventory.db"))
  const now = new Date().toISOString()
  for (let first = 0; first < count; first += perFolder) {
    const into = `db/part-${first / perFolder}`
    mkdirSync(join(folder, "data", into), { recursive: true })
    const files = Array.from({ length: perFolder }, (_, n) => {
      const path = `${into}/${first + n}.parquet`
      const bytes = randomBytes(size)
      writeFileSync(join(folder, "data", path), bytes)
      const stat = lstatSync(join(folder, "data", path), { bigint: true })
      const entry = FileEntry.make({
        path: FilePath.make(path),
        sha256: Sha256.make(createHash("sha256").update(bytes).digest("hex")),
        size_bytes: size,
        database: "db",
        measurement: "",
        partition_time: now,
        origin_node_id: NodeId.make(name),
        tier: "hot",
        created_at: now,
        lsn: 0
      })
      return { entry, stat }
    })
    const added = manifest.register(files.map(({ entry }) => entry))
    const stored = files.map(({ entry, stat }, n) => {
      const answer = added[n]
      if (answer?._tag !== "Added") throw new Error(`${entry.path} was known already`)
      const bytes = { sha256: entry.sha256, size }
      return { file: { path: entry.path, revision: answer.revision, bytes, entry: toJson(entry) }, stat }
    })
    const due = Date.now()
    const changes = stored.map(({ file }) => ({ _tag: "Owe", file, reason: "", due } as const))
    inventory.write([{ _tag: "Apply", changes, cursor: undefined, now: due }])
    const settled = inventory.write(stored.map(({ file, stat }) => ({
      _tag: "Settle",
      file,
      held: file.bytes,
      mtime: String(stat.mtimeNs),
      inode: String(stat.ino)
    })))
    if (settled.includes(false)) throw new Error("a file was not taken as verified")
  }
  // It has heard of all of them.
  inventory.write([{ _tag: "Apply", changes: [], cursor: manifest.head(), now: Date.now() }])
  inventory.close()
  manifest.close()
}
