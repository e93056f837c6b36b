/** The ports that the server asks, over files that exist only as a rule for their bytes. */
import { Effect, Layer, Option, Queue, Result, Stream } from "effect"
import { createHash } from "node:crypto"
import { Backend, BackendError } from "../../../src/ports/Backend.ts"
import { type FileEntry, NodeId, Revision, Sha256 } from "../../../src/ports/FileEntry.ts"
import { FilePath } from "../../../src/ports/FilePath.ts"
import { Inventory, InventoryError, type Progress, type Verified } from "../../../src/ports/Inventory.ts"
import { Manifest, Unavailable } from "../../../src/ports/Manifest.ts"
import { Membership } from "../../../src/ports/Membership.ts"
import { collector } from "../../../src/testing/backend/support.ts"

const block = Buffer.from(Array.from({ length: 251 }, (_, index) => index))
/** One MiB of a pattern whose period fits no buffer. */
const pattern = Buffer.alloc((1 << 20) + block.length, block)

/** The bytes of every test file from `offset` on, at most 1 MiB. */
export const bytesAt = (offset: number, length: number): Uint8Array => {
  const from = offset % block.length
  return pattern.subarray(from, from + Math.min(length, 1 << 20))
}

export const allBytes = (length: number): Buffer => {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at < length; at += 1 << 20) bytes.set(bytesAt(at, length - at), at)
  return bytes
}

export const sha256Of = (length: number): Sha256 => {
  const hash = createHash("sha256")
  for (let at = 0; at < length; at += 1 << 20) hash.update(bytesAt(at, length - at))
  return Sha256.make(hash.digest("hex"))
}

export const entryOf = (path: string, size: number, sha256: Sha256 = sha256Of(size)): FileEntry => ({
  path: FilePath.make(path),
  sha256,
  size_bytes: size,
  database: "db",
  measurement: "m",
  partition_time: "2026-04-11T14:00:00Z",
  origin_node_id: NodeId.make("node-a"),
  tier: "hot",
  created_at: "2026-04-11T14:00:00Z",
  lsn: 0
})

const noProgress: Progress = {
  cursor: Option.none(),
  owed: { files: 0, bytes: 0 },
  oldestOwed: Option.none(),
  verified: { files: 0, bytes: 0 },
  unlinking: 0,
  verifiedThrough: Revision.make(0)
}

export interface TestFile {
  readonly entry: FileEntry
  /** Where it is out of order: about to be shown, not here, here with other bytes, on a broken disk, or shorter on the disk than it was. */
  readonly state?: "coming" | "absent" | "otherBytes" | "unknown" | "broken" | "short" | "vanished" | "defect"
}

/** All ports for a server; `departed` gets the ids of nodes that left. */
export const ports = (options: {
  readonly files: ReadonlyArray<TestFile>
  readonly departed?: Queue.Queue<NodeId>
  readonly manifestDown?: boolean
  /** Runs before each chunk of a body is written. */
  readonly beforeChunk?: Effect.Effect<void>
  /** Runs when a body has ended, whole or not. */
  readonly afterBody?: Effect.Effect<void>
}): Layer.Layer<Manifest | Inventory | Backend | Membership> => {
  const files = new Map<string, TestFile>(options.files.map((file) => [file.entry.path, file]))
  const revision = Revision.make(1)

  const manifest = Layer.mock(Manifest)({
    getAll: undefined,
    get: (path) =>
      options.manifestDown === true
        ? Effect.fail(new Unavailable({ operation: "get", detail: "the test turned it off" }))
        : Effect.succeed(
          Option.map(Option.fromUndefinedOr(files.get(path)), ({ entry }) => ({ entry, revision }))
        )
  })
  const rowOf = (path: string): Verified | undefined => {
    const file = files.get(path)
    if (file === undefined || file.state === "absent" || file.state === "coming") return undefined
    const { entry } = file
    const sha256 = file.state === "otherBytes" ? Sha256.make("0".repeat(64)) : entry.sha256
    const held = { sha256, size: entry.size_bytes, mtime: 0n, inode: 0n }
    return { _tag: "Verified", file: { entry, revision }, held }
  }
  const inventory = Layer.mock(Inventory)({
    look: (paths) =>
      Effect.succeed(paths.map((path) => {
        const file = files.get(path)
        const pending = file?.state === "coming" ? { entry: file.entry, token: "t" } : undefined
        return { row: rowOf(path), pending }
      })),
    // One change: what was coming is here.
    changes: Stream.fromEffect(Effect.sync(() => {
      for (const [path, { entry, state }] of files) if (state === "coming") files.set(path, { entry })
      return noProgress
    })),
    verified: (path) => {
      const file = files.get(path)
      if (file?.state === "defect") return Effect.die("the test broke it")
      if (file?.state === "unknown") {
        return Effect.fail(new InventoryError({ operation: "verified", detail: "the test broke it" }))
      }
      return Effect.succeed(Option.fromUndefinedOr(rowOf(path)))
    }
  })
  const failed = (path: string, reason: BackendError["reason"]) =>
    new BackendError({ operation: "read", path, reason, detail: "the test broke it" })
  const read: Backend["Service"]["read"] = (path, offset, length, sink) =>
    Effect.gen(function*() {
      const state = files.get(path)?.state
      if (state === "broken") return yield* failed(path, "Io")
      if (state === "vanished") return yield* failed(path, "NotFound")
      const end = offset + (state === "short" ? Math.floor(length / 2) : length)
      for (let at = offset; at < end;) {
        const chunk = bytesAt(at, end - at)
        if (options.beforeChunk !== undefined) yield* options.beforeChunk
        yield* sink.write(chunk)
        at += chunk.length
      }
      if (state === "short") return yield* failed(path, "Io")
    }).pipe(Effect.ensuring(options.afterBody ?? Effect.void))
  const backend = Layer.mock(Backend)({
    read,
    readTogether: Effect.fnUntraced(function*(asked) {
      const bodies: Array<Buffer> = []
      const unread = new Map<number, BackendError>()
      for (const [n, { length, path }] of asked.entries()) {
        const body = collector()
        const outcome = yield* Effect.result(read(path, 0, length, body.sink))
        if (Result.isSuccess(outcome)) bodies.push(body.bytes())
        else unread.set(n, outcome.failure)
      }
      return { bytes: Buffer.concat(bodies), unread }
    })
  })
  const membership = Layer.mock(Membership)({
    self: { id: NodeId.make("node-a"), role: "writer" },
    departed: (id) => options.departed === undefined ? Effect.void : Effect.asVoid(Queue.offer(options.departed, id))
  })
  return Layer.mergeAll(manifest, inventory, backend, membership)
}
