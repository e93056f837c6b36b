/** Peers on real sockets that do what a test says, and nodes with everything real. */
import { Context, Effect, Layer, Option, Queue, Redacted, Result, type Scope, Stream } from "effect"
import { createHash } from "node:crypto"
import { readdirSync } from "node:fs"
import type { Socket } from "node:net"
import { join } from "node:path"
import { makeDecoder, maxLength } from "../../src/peer/protocol/Frame.ts"
import { decodeFetchFile, type FetchFile } from "../../src/peer/protocol/Messages.ts"
import { type FileEntry, NodeId, Sha256 } from "../../src/ports/FileEntry.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory, type Owed } from "../../src/ports/Inventory.ts"
import { addressText } from "../../src/ports/Membership.ts"
import type { Peer } from "../../src/ports/PeerResolver.ts"
import * as Replication from "../../src/Replication.ts"
import { Puller, type Receipt } from "../../src/replication/Puller.ts"
import * as ReplicationConfig from "../../src/ReplicationConfig.ts"
import { rawPeer } from "../peer/support/nodes.ts"
import { ackFrame } from "../peer/support/requests.ts"

export const MiB = 1024 * 1024

/** Bytes that no other seed gives. */
export const bytesOf = (seed: number, size: number): Buffer => {
  const block = createHash("sha512").update(String(seed)).digest()
  return Buffer.alloc(size, block)
}

export const entryOf = (path: string, content: Uint8Array, origin: string): FileEntry => ({
  path: FilePath.make(path),
  sha256: Sha256.make(createHash("sha256").update(content).digest("hex")),
  size_bytes: content.length,
  database: "db",
  measurement: "m",
  partition_time: "2026-04-11T14:00:00Z",
  origin_node_id: NodeId.make(origin),
  tier: "hot",
  created_at: "2026-04-11T14:00:00Z",
  lsn: 0
})

// -----------------------------------------------------------------------------
// Peers
// -----------------------------------------------------------------------------

/** What a peer does with one request; it may leave the connection open. */
export type Behaviour = (request: FetchFile, socket: Socket) => void

/** Refuses with a code, or as peers do that know none: with a sentence. */
export const refuse = (code: string, error = ""): Behaviour => (_, socket) => {
  socket.end(ackFrame({ status: "error", code, error }))
}

/** Says that it has the entry's file, and sends `content` from the offset on, `count` bytes at most. */
export const sends = (
  entry: FileEntry,
  content: Uint8Array,
  { afterwards = "end", count = Infinity }: { readonly count?: number; readonly afterwards?: "end" | "stall" } = {}
): Behaviour =>
(request, socket) => {
  const offset = Number(request.byte_offset)
  const { sha256, size_bytes } = entry
  socket.write(ackFrame({ size_bytes: BigInt(size_bytes - offset), sha256, byte_offset: request.byte_offset }))
  socket.write(content.subarray(offset, Math.min(content.length, offset + count)))
  if (afterwards === "end") socket.end()
}

export interface ScriptedPeer extends Peer {
  /** Every request, in order. */
  readonly requests: Array<{ readonly path: string; readonly offset: number }>
  readonly next: Effect.Effect<{ readonly path: string; readonly offset: number }>
}

/** A peer that behaves as told; `behave` is asked anew for each request, and told how many there were before. */
export const scriptedPeer = (
  name: string,
  behave: (nth: number, request: FetchFile) => Behaviour
): Effect.Effect<ScriptedPeer, never, Scope.Scope> =>
  Effect.gen(function*() {
    const requests: Array<{ readonly path: string; readonly offset: number }> = []
    const queue = yield* Queue.unbounded<{ readonly path: string; readonly offset: number }>()
    const { peer } = yield* rawPeer((socket) => {
      const decoder = makeDecoder(maxLength)
      socket.on("data", (chunk: Buffer) => {
        const decoded = Result.getOrThrow(decoder.push(chunk))
        if (Option.isNone(decoded)) return
        const request = Result.getOrThrow(decodeFetchFile(decoded.value.frame.payload))
        const asked = { path: request.path, offset: Number(request.byte_offset) }
        const behaviour = behave(requests.length, request)
        requests.push(asked)
        Queue.offerUnsafe(queue, asked)
        behaviour(request, socket)
      })
    })
    return { ...peer, id: NodeId.make(name), requests, next: Queue.take(queue) }
  })

// -----------------------------------------------------------------------------
// Nodes
// -----------------------------------------------------------------------------

export type Node = Context.Context<Replication.Services | Replication.Ports>

/** A node with everything real, that knows these peers and nobody else. */
export const readerWith = (
  folder: string,
  peers: ReadonlyArray<Peer>,
  given: Partial<ReplicationConfig.Settings> = {}
) =>
  Layer.build(
    Replication.layerActive.pipe(
      Layer.provideMerge(Replication.layerPorts()),
      Layer.provide(ReplicationConfig.layer({
        nodeId: Option.some(NodeId.make("reader")),
        localPath: join(folder, "reader", "data"),
        manifestPath: Option.some(join(folder, "manifest.db")),
        coordinatorAddr: "127.0.0.1:0",
        membership: Option.some("static"),
        peers: peers.map(({ address, id }) => `${id}@${addressText(address)}`),
        retryInitialBackoffMillis: 10,
        ...given,
        sharedSecret: Redacted.make("a secret of the tests")
      }))
    )
  )

/** What the puller finishes from now on, one at a time. */
export const receiptsOf = Effect.fnUntraced(function*(node: Context.Context<Puller>) {
  const queue = yield* Queue.unbounded<Receipt>()
  const receipts = yield* Context.get(node, Puller).receipts
  yield* Effect.forkScoped(Stream.runForEach(receipts, (receipt) => Queue.offer(queue, receipt)))
  return { next: Queue.take(queue) }
})

/** The debt for a path; `undefined` when there is none. */
export const debtOf = (node: Context.Context<Inventory>, path: string): Effect.Effect<Owed | undefined, unknown> =>
  Effect.map(
    Context.get(node, Inventory).why(FilePath.make(path)),
    (row) => Option.isSome(row) && row.value._tag === "Owed" ? row.value : undefined
  )

/** Everything under a node's data folder that is no folder and not our own. */
export const visibleFiles = (folder: string, node = "reader"): ReadonlyArray<string> =>
  readdirSync(join(folder, node, "data"), { recursive: true, withFileTypes: true })
    .filter((each) => each.isFile())
    .map((each) => join(each.parentPath, each.name).slice(join(folder, node, "data").length + 1))
    .filter((name) => !name.startsWith("."))
    .sort()
