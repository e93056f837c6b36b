import { assert, describe, it } from "@effect/vitest"
import { Effect, Option, Random, Schema } from "effect"
import { PeerRejected } from "../../src/ports/FetchClient.ts"
import { NodeId, Revision } from "../../src/ports/FileEntry.ts"
import type { PeerAnswer, Progress, Row } from "../../src/ports/Inventory.ts"
import { explainAnswers, order } from "../../src/replication/attempt.ts"
import { decide } from "../../src/replication/decide.ts"
import { unreadyReason } from "../../src/replication/Readiness.ts"
import { rest, restMillis } from "../../src/replication/retry.ts"
import { fileOf, peer, self } from "./node.ts"

const context = { self, now: 1000, deleteGraceMillis: 500 }
const put = (file = fileOf("db/a")) => ({ _tag: "Put", file }) as const
const verified = (file = fileOf("db/a")): Row => ({
  _tag: "Verified",
  file,
  held: { sha256: file.entry.sha256, size: file.entry.size_bytes, mtime: 1n, inode: 1n }
})

describe("decide", () => {
  it("owes what is not here", () => {
    assert.strictEqual(decide(put(), { row: undefined, pending: undefined }, context)._tag, "Owe")
  })

  it("skips another node's file that is verified here, and our own", () => {
    const theirs = { row: verified(), pending: undefined }
    assert.strictEqual(decide(put(), theirs, context)._tag, "SkipLocal")
    const ours = fileOf("db/a", 1, "self")
    assert.strictEqual(decide(put(ours), { row: verified(ours), pending: undefined }, context)._tag, "SkipSelf")
  })

  it("skips our own file whose bytes are sealed and about to be shown", () => {
    const ours = fileOf("db/a", 1, "self")
    const pending = { entry: ours.entry, token: "t" }
    assert.strictEqual(decide(put(ours), { row: undefined, pending }, context)._tag, "SkipSelf")
  })

  it("owes a path that is here with other bytes", () => {
    const other = { ...fileOf("db/a"), entry: { ...fileOf("db/b").entry, path: fileOf("db/a").entry.path } }
    assert.strictEqual(decide(put(), { row: verified(other), pending: undefined }, context)._tag, "Owe")
  })

  it("forgets what was removed, after the grace period", () => {
    const removed = {
      _tag: "Removed",
      path: fileOf("db/a").entry.path,
      revision: Revision.make(2),
      reason: ""
    } as const
    const { change } = decide(removed, { row: verified(), pending: undefined }, context)
    assert.deepStrictEqual(change, { _tag: "Forget", path: removed.path, revision: removed.revision, due: 1500 })
  })
})

describe("the order of peers", () => {
  const answer = (id: string, kind: string): [NodeId, PeerAnswer] => [
    NodeId.make(id),
    { peer: NodeId.make(id), at: 0, kind, detail: "" }
  ]

  it("puts those last that sent wrong bytes for this file, and nobody else", () => {
    const answers = new Map([answer("node-1", "WrongBytes"), answer("node-2", "PeerUnreachable")])
    const names = order(["node-1", "node-2", "node-3"].map(peer), answers).map(({ id }) => id)
    assert.deepStrictEqual(names, ["node-2", "node-3", "node-1"].map((name) => NodeId.make(name)))
  })

  it("explains a refusal by everybody as what it is", () => {
    const auth = new PeerRejected({ peer: NodeId.make("a"), path: fileOf("db/a").entry.path, code: "auth" })
    const all = [answer("a", "PeerRejected:auth")[1]]
    assert.include(explainAnswers(all), "check the shared secret, the cluster name and the clocks")
    assert.include(auth.message, "check the shared secret")
    assert.notInclude(explainAnswers([...all, answer("b", "Stalled")[1]]), "rejected by all peers")
  })
})

describe("the rest between rounds", () => {
  const options = { maxAttempts: 3, initialBackoffMillis: 500 }

  it.effect.prop(
    "never exceeds five minutes and a fifth, and grows with the rounds",
    [Schema.Natural],
    ([rounds]) =>
      Effect.gen(function*() {
        const millis = yield* rest(options, rounds)
        assert.isAtMost(millis, 360_000)
        assert.isAtLeast(millis, 0.8 * restMillis(options, 0))
        assert.isAtLeast(restMillis(options, rounds + 1), restMillis(options, rounds))
      }).pipe(Random.withSeed(rounds))
  )
})

describe("unreadyReason", () => {
  const cursor = { epoch: "e", revision: Revision.make(5), mark: "m" }
  const progress: Progress = {
    cursor: Option.some(cursor),
    owed: { files: 0, bytes: 0 },
    oldestOwed: Option.none(),
    verified: { files: 0, bytes: 0 },
    unlinking: 0,
    verifiedThrough: cursor.revision
  }
  const barrier = Option.some(cursor)

  it("is empty only when the barrier is reached and nothing is owed", () => {
    assert.strictEqual(unreadyReason(progress, barrier, 0, 0), "")
    assert.notStrictEqual(unreadyReason(progress, Option.none(), 0, 0), "")
    assert.notStrictEqual(unreadyReason({ ...progress, cursor: Option.none() }, barrier, 0, 0), "")
    const ahead = Option.some({ ...cursor, revision: Revision.make(6) })
    assert.notStrictEqual(unreadyReason(progress, ahead, 0, 0), "")
    const elsewhere = Option.some({ ...cursor, epoch: "f", revision: Revision.make(1) })
    assert.notStrictEqual(unreadyReason(progress, elsewhere, 0, 0), "")
  })

  it("allows a debt that is younger than the allowed lag, and no older one", () => {
    const owing = { ...progress, owed: { files: 1, bytes: 1 }, oldestOwed: Option.some(1000) }
    assert.notStrictEqual(unreadyReason(owing, barrier, 1001, 0), "")
    assert.strictEqual(unreadyReason(owing, barrier, 1500, 500), "")
    assert.notStrictEqual(unreadyReason(owing, barrier, 1501, 500), "")
  })
})
