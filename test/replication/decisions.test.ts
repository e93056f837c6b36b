import { assert, describe, it } from "@effect/vitest"
import { Effect, Random, Schema } from "effect"
import { Revision } from "../../src/ports/FileEntry.ts"
import type { Row } from "../../src/ports/Inventory.ts"
import { decide } from "../../src/replication/decide.ts"
import { pauseMillis, rest, restMillis } from "../../src/replication/retry.ts"
import { fileOf, self } from "./node.ts"

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
    const { _tag, change } = decide(put(ours), { row: undefined, pending }, context)
    assert.strictEqual(_tag, "SkipSelf")
    assert.deepInclude<object>(change, { reason: "its bytes are on this disk and not shown yet" })
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

  it("doubles the pause of a peer that sent wrong bytes, up to a day", () => {
    const pauses = Array.from({ length: 40 }, (_, n) => pauseMillis(options, n + 1))
    assert.deepStrictEqual(pauses.slice(0, 4), [4000, 8000, 16_000, 32_000])
    assert.strictEqual(pauses.at(-1), 24 * 3_600_000)
  })
})
