/** Small files that a node owes, and peers that give several of them at once. */
import { assert } from "@effect/vitest"
import { Effect, Option } from "effect"
import type { FetchTogether, PeerUnreachable } from "../../src/ports/FetchClient.ts"
import type { FileEntry, Registered } from "../../src/ports/FileEntry.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import type { Peer } from "../../src/ports/PeerResolver.ts"
import { Puller, type Receipt } from "../../src/replication/Puller.ts"
import { bytesOf, fileOf, type NodeOptions, receiptsOf, textUnder } from "./node.ts"

type Bodies = ReadonlyArray<Uint8Array | undefined>

/** Peers that give several files at once, as the test says; what each was asked for, in order. */
export const bundling = (
  answer: (peer: Peer, entries: ReadonlyArray<FileEntry>) => Effect.Effect<Bodies, PeerUnreachable>
) => {
  const asked: Array<{ readonly peer: string; readonly paths: ReadonlyArray<string> }> = []
  const way = (peer: Peer): Option.Option<FetchTogether> =>
    Option.some((entries, use) =>
      Effect.suspend(() => {
        asked.push({ peer: peer.id, paths: entries.map(({ path }) => path) })
        return Effect.flatMap(answer(peer, entries), (bodies) => use(bodies, 0))
      })
    )
  return { asked, way }
}

export const right = (_: Peer, entries: ReadonlyArray<FileEntry>) => Effect.succeed(entries.map(bytesOf))

export const files = (count: number, origin?: string): ReadonlyArray<Registered> =>
  Array.from({ length: count }, (_, n) => fileOf(`db/${origin ?? "m"}/${n}`, n + 1, origin))

/** What is owed before the node starts, which is paused: nothing happens before `resumed`. */
export const owing = (some: ReadonlyArray<Registered>, options: NodeOptions): NodeOptions => ({
  queueSize: 1000,
  smallWorkers: 28,
  ...options,
  before: Effect.flatMap(Inventory, (inventory) =>
    Effect.andThen(
      inventory.apply(some.map((file) => ({ _tag: "Owe", file, reason: "", due: 0 }))),
      inventory.remember("paused", Option.some("by the test"))
    ))
})

/** Lets the node begin. Gives its receipts, one at a time. */
export const resumed = Effect.gen(function*() {
  const next = yield* receiptsOf
  yield* (yield* Puller).resume("operator")
  return next
})

/** Waits for a receipt of each of so many files. */
export const ends = Effect.fnUntraced(function*(next: Effect.Effect<Receipt>, count: number) {
  const found = new Map<string, Receipt>()
  while (found.size < count) {
    const receipt = yield* next
    found.set(receipt.file.entry.path, receipt)
  }
  return found
})

/** The node's whole run: the receipts of as many files. */
export const pulled = (count: number) => Effect.flatMap(resumed, (next) => ends(next, count))

export const areHere = Effect.fnUntraced(function*(some: ReadonlyArray<Registered>) {
  const inventory = yield* Inventory
  for (const { entry: { path } } of some) {
    assert.isTrue(Option.isSome(yield* inventory.verified(path)), path)
    assert.deepStrictEqual(yield* textUnder(path), Option.some(path))
  }
})

export const tags = (found: ReadonlyMap<string, Receipt>) => Array.from(found.values(), ({ _tag }) => _tag)
