/** Peers in processes of their own that do what a test says, and nodes with everything real. */
import { Context, Deferred, Effect, Layer, Option, Queue, Redacted, type Scope, Stream } from "effect"
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { readdirSync } from "node:fs"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { type FileEntry, NodeId, Sha256 } from "../../src/ports/FileEntry.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory, type Owed } from "../../src/ports/Inventory.ts"
import { addressText } from "../../src/ports/Membership.ts"
import type { Peer } from "../../src/ports/PeerResolver.ts"
import * as Replication from "../../src/Replication.ts"
import { Puller, type Receipt } from "../../src/replication/Puller.ts"
import * as ReplicationConfig from "../../src/ReplicationConfig.ts"
import type { Asked, Behaviour, Told } from "./behaviours.ts"

export { bytesOf } from "./behaviours.ts"

export const MiB = 1024 * 1024

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

export const hangUp: Behaviour = { what: "hang up" }

export const refuse = (code: string): Behaviour => ({ what: "refuse", fields: { code } })

/** As peers do that know no codes. */
export const refuseInWords = (error: string): Behaviour => ({ what: "refuse", fields: { error } })

/** Says that it has these files, and sends the bytes of a seed for each. */
export const sends = (
  files: ReadonlyArray<readonly [entry: FileEntry, seed: number]>,
  how: { readonly count?: number; readonly afterwards?: "end" | "stall" } = {}
): Behaviour => ({
  what: "send",
  files: Object.fromEntries(
    files.map(([{ path, sha256, size_bytes: size }, seed]) => [path, { seed, sha256, size }])
  ),
  ...how
})

export interface BadPeer extends Peer {
  /** Every request so far, in order. */
  readonly requests: Effect.Effect<ReadonlyArray<Asked>>
  /** Waits for the next request. */
  readonly next: Effect.Effect<Asked>
}

/** A process that behaves as told, request by request; as at last from then on. The scope ends it. */
export const badPeer = (
  name: string,
  ...behaviours: ReadonlyArray<Behaviour>
): Effect.Effect<BadPeer, never, Scope.Scope> =>
  Effect.gen(function*() {
    const port = yield* Deferred.make<number>()
    const asked = yield* Queue.unbounded<Asked>()
    const reports = yield* Queue.unbounded<ReadonlyArray<Asked>>()
    const ended = yield* Deferred.make<void>()
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn(process.execPath, [join(import.meta.dirname, "badPeer.ts"), JSON.stringify(behaviours)], {
          env: {},
          stdio: ["pipe", "pipe", "inherit"]
        })
      ),
      (child) =>
        Effect.suspend(() => {
          child.kill("SIGKILL")
          return Deferred.await(ended)
        })
    )
    child.on("close", () => Deferred.doneUnsafe(ended, Effect.void))
    createInterface({ input: child.stdout }).on("line", (line) => {
      const told: Told = JSON.parse(line)
      if ("port" in told) Deferred.doneUnsafe(port, Effect.succeed(told.port))
      else if ("requests" in told) Queue.offerUnsafe(reports, told.requests)
      else Queue.offerUnsafe(asked, told)
    })
    const gone = Effect.andThen(Deferred.await(ended), Effect.die(new Error(`${name} ended before it listened`)))
    return {
      id: NodeId.make(name),
      address: { host: "127.0.0.1", port: yield* Effect.raceFirst(Deferred.await(port), gone) },
      // Its answer has passed behind everything that it did before.
      requests: Effect.suspend(() => {
        child.stdin.write("\n")
        return Queue.take(reports)
      }),
      next: Queue.take(asked)
    }
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
        minFreeBytes: 0,
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
