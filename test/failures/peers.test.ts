/** Peers that misbehave, processes on real sockets, against nodes with real folders and databases. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Option, Stream } from "effect"
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { NodeId } from "../../src/ports/FileEntry.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { Puller } from "../../src/replication/Puller.ts"
import { Readiness } from "../../src/replication/Readiness.ts"
import { temporaryFolder } from "../support/folder.ts"
import {
  type BadPeer,
  badPeer,
  bytesOf,
  debtOf,
  entryOf,
  hangUp,
  MiB,
  readerWith,
  receiptsOf,
  refuse,
  refuseInWords,
  sends,
  visibleFiles
} from "./support.ts"

const content = bytesOf(1, 3 * MiB + 17)
const entry = entryOf("db/m/a", content, "peer-1")
const honest = sends([[entry, 1]])
const corrupt = sends([[entry, 2]])

const shown = (folder: string) => readFileSync(join(folder, "reader", "data", entry.path))
const times = (peer: BadPeer) => Effect.map(peer.requests, ({ length }) => length)
const register = (node: Context.Context<Manifest>) => Context.get(node, Manifest).register(entry)

describe("the only peer", () => {
  it.live("that serves wrong bytes costs one transfer an attempt, shows nothing, and the node is not ready", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const peer = yield* badPeer("peer-1", corrupt)
      const node = yield* readerWith(folder, [peer])
      const { next: receipts } = yield* receiptsOf(node)
      yield* register(node)
      for (let times = 1; times <= 3; times++) {
        assert.strictEqual((yield* receipts)._tag, "Postponed")
        const debt = yield* debtOf(node, entry.path)
        assert.strictEqual(debt?.answers[0]?.wrongTimes, times)
        assert.include(debt?.reason ?? "", "peer-1 sent bytes with sha256")
        assert.isFalse(yield* Context.get(node, Readiness).ready)
        assert.deepStrictEqual(visibleFiles(folder), [])
      }
      const { attempts, bytes, wrongBytes } = yield* Context.get(node, Puller).stats
      assert.deepStrictEqual([...wrongBytes], [[NodeId.make("peer-1"), attempts]])
      assert.strictEqual(bytes, attempts * content.length)
      // Each attempt began clean.
      const requests = yield* peer.requests
      assert.deepStrictEqual(requests.map(({ offset }) => offset), requests.map(() => 0))
      assert.strictEqual(requests.length, attempts)
    }))

  it.live("that serves wrong bytes at first is asked again after its pause, and the file lands", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const peer = yield* badPeer("peer-1", corrupt, corrupt, honest)
      const node = yield* readerWith(folder, [peer])
      const { next: receipts } = yield* receiptsOf(node)
      yield* register(node)
      for (const expected of ["Postponed", "Postponed", "Pulled"]) assert.strictEqual((yield* receipts)._tag, expected)
      assert.isTrue(shown(folder).equals(content))
    }))

  it.live("that does not have the file is a clean give-up: still owed, and the folder is empty", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const peers = yield* Effect.all([
        badPeer("peer-1", refuse("not_found")),
        badPeer("peer-2", refuseInWords("file not in manifest"))
      ])
      const node = yield* readerWith(folder, peers, { retryMaxAttempts: 2 })
      const { next: receipts } = yield* receiptsOf(node)
      yield* register(node)
      const receipt = yield* receipts
      assert.strictEqual(receipt._tag, "Postponed")
      assert.deepStrictEqual(yield* Effect.forEach(peers, times), [2, 2])
      const debt = yield* debtOf(node, entry.path)
      assert.deepStrictEqual(debt?.answers.map(({ kind }) => kind), ["FileNotOnPeer", "FileNotOnPeer"])
      assert.deepStrictEqual(visibleFiles(folder), [])
      assert.isFalse(yield* Context.get(node, Readiness).ready)
    }))
})

it.live("a node that owes a file and knows no peer is not ready, and says so", () =>
  Effect.gen(function*() {
    const folder = yield* temporaryFolder
    const node = yield* readerWith(folder, [], { retryMaxAttempts: 1 })
    const { next: receipts } = yield* receiptsOf(node)
    yield* register(node)
    const receipt = yield* receipts
    assert.include(receipt._tag === "Postponed" ? receipt.reason : "", "no peer is known")
    assert.include((yield* debtOf(node, entry.path))?.reason ?? "", "no peer is known")
    const status = yield* Context.get(node, Readiness).status
    assert.isFalse(status.ready)
    assert.match(status.reason, /owed/)
  }))

describe("the first peer", () => {
  it.live("is corrupt: the second is asked at the next attempt, the file lands, and the first is named", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const first = yield* badPeer("peer-1", corrupt)
      const second = yield* badPeer("peer-2", honest)
      const node = yield* readerWith(folder, [first, second])
      const { next: receipts } = yield* receiptsOf(node)
      yield* register(node)
      const receipt = yield* receipts
      assert.deepStrictEqual(receipt._tag === "Pulled" ? receipt.from : receipt._tag, Option.some(second.id))
      assert.deepStrictEqual(yield* Effect.forEach([first, second], times), [1, 1])
      const { attempts, wrongBytes } = yield* Context.get(node, Puller).stats
      assert.strictEqual(attempts, 2)
      assert.deepStrictEqual([...wrongBytes], [[first.id, 1]])
      assert.isTrue(shown(folder).equals(content))
    }))

  it.live("stalls in mid-body for ever: it is given up, and the second goes on from there", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const first = yield* badPeer("peer-1", sends([[entry, 1]], { count: 2 * MiB + 7, afterwards: "stall" }))
      const second = yield* badPeer("peer-2", honest)
      const node = yield* readerWith(folder, [first, second], { fetchTimeoutMillis: 300 })
      const { next: receipts } = yield* receiptsOf(node)
      yield* register(node)
      const receipt = yield* receipts
      assert.deepStrictEqual(receipt._tag === "Pulled" ? receipt.from : receipt._tag, Option.some(second.id))
      assert.deepStrictEqual(yield* second.requests, [{ path: entry.path, offset: 2 * MiB + 7 }])
      const { attempts, bytes } = yield* Context.get(node, Puller).stats
      assert.deepStrictEqual([attempts, bytes], [1, content.length])
      assert.isTrue(shown(folder).equals(content))
    }))

  it.live("stalls and nobody else has the rest: the node goes on with it where it was", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const peer = yield* badPeer("peer-1", sends([[entry, 1]], { count: MiB + 7, afterwards: "stall" }), honest)
      const node = yield* readerWith(folder, [peer], { fetchTimeoutMillis: 300 })
      const { next: receipts } = yield* receiptsOf(node)
      yield* register(node)
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      // Less the last unfinished 16 KiB.
      assert.deepStrictEqual((yield* peer.requests).map(({ offset }) => offset), [0, MiB])
      assert.isTrue(shown(folder).equals(content))
    }))

  it.live("breaks with wrong bytes and the second goes on: nobody is blamed until one alone has sent all", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const first = yield* badPeer("peer-1", sends([[entry, 2]], { count: 2 * MiB }))
      const second = yield* badPeer("peer-2", honest)
      const node = yield* readerWith(folder, [first, second])
      const { next: receipts } = yield* receiptsOf(node)
      yield* register(node)
      let receipt = yield* receipts
      assert.strictEqual(receipt._tag, "Postponed")
      while (receipt._tag === "Postponed") receipt = yield* receipts
      assert.deepStrictEqual(receipt._tag === "Pulled" ? receipt.from : receipt._tag, Option.some(second.id))
      assert.deepStrictEqual([...(yield* Context.get(node, Puller).stats).wrongBytes], [[first.id, 1]])
      assert.isTrue(shown(folder).equals(content))
    }))

  it.live("is an origin that nobody reaches any more: one dial, and the other peer delivers everything", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const origin = yield* badPeer("peer-1", hangUp)
      const entries = Array.from({ length: 5 }, (_, n) => entryOf(`db/m/${n}`, bytesOf(n, 1000), "peer-1"))
      const second = yield* badPeer("peer-2", sends(entries.map((entry, n) => [entry, n])))
      const node = yield* readerWith(folder, [origin, second], { pullWorkers: 1 })
      const { next: receipts } = yield* receiptsOf(node)
      yield* Context.get(node, Manifest).registerAll(entries)
      for (const _ of entries) assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.deepStrictEqual(yield* Effect.forEach([origin, second], times), [1, 5])
    }))
})

describe("legacy peers and refusals", () => {
  it.live("fall through one after another to the peer that has the file", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const refusals = [
        refuseInWords("file not in manifest"),
        refuseInWords("file not found on local backend"),
        refuseInWords("file not found on local backend: /etc/passwd"),
        refuse("auth"),
        refuse("backend"),
        refuse("busy"),
        refuse("a code of tomorrow")
      ]
      const peers = yield* Effect.forEach(refusals, (behaviour, n) => badPeer(`peer-${n + 1}`, behaviour), {
        concurrency: "unbounded"
      })
      const last = yield* badPeer("peer-9", honest)
      // Nobody has it at first but for those that refuse, so that each of them is asked.
      const node = yield* readerWith(folder, peers, { retryMaxAttempts: 1 })
      const { next: receipts } = yield* receiptsOf(node)
      yield* register(node)
      yield* receipts
      const kinds = Object.fromEntries(
        ((yield* debtOf(node, entry.path))?.answers ?? []).map(({ kind, peer }) => [String(peer), kind])
      )
      assert.deepStrictEqual(kinds, {
        "peer-1": "FileNotOnPeer",
        "peer-2": "FileNotOnPeer",
        "peer-3": "PeerRejected:unknown",
        "peer-4": "PeerRejected:auth",
        "peer-5": "PeerRejected:backend",
        "peer-6": "PeerRejected:busy",
        "peer-7": "PeerRejected:unknown"
      })
      const elsewhere = yield* temporaryFolder
      const other = yield* readerWith(elsewhere, [...peers, last], { retryMaxAttempts: 1 })
      const { next: received } = yield* receiptsOf(other)
      yield* register(other)
      assert.strictEqual((yield* received)._tag, "Pulled")
      assert.strictEqual((yield* Context.get(other, Puller).stats).attempts, 1)
    }))
})

it.live("a file that is deleted while it is pulled stops at once and leaves nothing, its staging bytes neither", () =>
  Effect.gen(function*() {
    const folder = yield* temporaryFolder
    const peer = yield* badPeer("peer-1", sends([[entry, 1]], { count: 2 * MiB, afterwards: "stall" }))
    const node = yield* readerWith(folder, [peer], { deleteGraceMillis: 0 })
    const { next: receipts } = yield* receiptsOf(node)
    yield* register(node)
    yield* peer.next
    yield* Context.get(node, Manifest).remove(entry.path, "in flight")
    assert.strictEqual((yield* receipts)._tag, "Withdrawn")
    yield* Context.get(node, Inventory).changes.pipe(
      Stream.filter(({ owed, unlinking }) => owed.files + unlinking === 0),
      Stream.runHead
    )
    assert.deepStrictEqual(visibleFiles(folder), [])
    const staged = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => /\.pull\./.test(name))
    assert.deepStrictEqual(staged, [])
    assert.strictEqual(yield* times(peer), 1)
    assert.isUndefined(yield* debtOf(node, entry.path))
  }))
