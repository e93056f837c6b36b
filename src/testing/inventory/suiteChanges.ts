/** What every inventory must do with lost files and with another history, and how it tells of very many rows. */
import { assert } from "@effect/vitest"
import { Effect, Option } from "effect"
import { TestClock } from "effect/testing"
import {
  cursorAt,
  file,
  forget,
  heldOf,
  lost,
  newHistory,
  owe,
  pathOf,
  release,
  revision,
  type Test
} from "./support.ts"

export const changes = (test: Test): void => {
  test("owes a lost file again with its own bytes, and only one that is verified as that very file", (inventory) =>
    Effect.gen(function*() {
      const a = file("a", 5)
      const held = heldOf(a)
      yield* inventory.apply([owe(a, 0), owe(file("b", 6), 7)], cursorAt(6))
      yield* inventory.settle(a, heldOf(a))
      yield* inventory.apply([
        lost("a", { ...held, inode: 43n }, 0),
        lost("a", { ...held, mtime: held.mtime + 1n }, 0),
        lost("b", held, 0),
        lost("c", held, 0)
      ])
      assert.isTrue(Option.isSome(yield* inventory.verified(pathOf("a"))))
      assert.deepStrictEqual((yield* inventory.due(7, 10)).map(({ due, reason }) => [due, reason]), [[7, "new"]])
      yield* TestClock.setTime(9000)
      yield* inventory.apply([lost("a", held, 8.5)])
      assert.deepStrictEqual(
        yield* inventory.why(pathOf("a")),
        Option.some({ _tag: "Owed", file: a, since: 9000, rounds: 0, due: 9, reason: "gone", answers: [] } as const)
      )
      const progress = yield* inventory.progress
      assert.deepStrictEqual([progress.owed, progress.verified], [{ files: 2, bytes: 11 }, { files: 0, bytes: 0 }])
      assert.strictEqual(progress.verifiedThrough, 4)
      assert.isTrue(yield* inventory.settle(a, heldOf(a)))
    }))

  test("takes every change of a new history, whatever the revisions of the old one were", (inventory) =>
    Effect.gen(function*() {
      yield* inventory.apply([owe(file("a", 90), 0), owe(file("b", 91), 0), owe(file("c", 92), 0)], cursorAt(99))
      yield* inventory.settle(file("b", 91), heldOf(file("b", 91)))
      yield* inventory.apply([forget("c", 95, 0), newHistory])
      assert.deepStrictEqual((yield* inventory.progress).cursor, Option.none())
      assert.deepStrictEqual((yield* inventory.progress).verified, { files: 1, bytes: 91 })
      assert.deepStrictEqual((yield* inventory.briefs(Option.none(), 9)).map((row) => Number(row.revision)), [
        0,
        0,
        0
      ])
      // What was deleted at 95 is registered at 3, what was registered at 90 is deleted at 4.
      yield* inventory.apply([owe(file("c", 3), 0), forget("a", 4, 0), forget("b", 5, 0)], cursorAt(5))
      assert.deepStrictEqual(
        (yield* inventory.briefs(Option.none(), 9)).map((row) => [String(row.path), row.state, Number(row.revision)]),
        [["a", "Unlinking", 4], ["b", "Unlinking", 5], ["c", "Owed", 3]]
      )
    }))

  test("keeps what is verified verified through a change of history", (inventory) =>
    Effect.gen(function*() {
      const a = file("a", 90)
      yield* inventory.apply([owe(a, 0)], cursorAt(90))
      yield* inventory.settle(a, heldOf(a))
      yield* inventory.apply([newHistory, owe({ ...a, revision: revision(2) }, 0)])
      const verified = yield* Effect.fromOption(yield* inventory.verified(pathOf("a")))
      assert.deepStrictEqual(verified, { _tag: "Verified", file: { ...a, revision: revision(2) }, held: heldOf(a) })
    }))

  test("counts what only an earlier history knew, once the new one has been compared", (inventory) =>
    Effect.gen(function*() {
      const files = ["a", "b", "c"].map((path, n) => file(path, n + 1))
      yield* inventory.apply(files.map((file) => owe(file, 0)), cursorAt(3))
      for (const each of files) yield* inventory.settle(each, heldOf(each))
      assert.strictEqual(yield* inventory.orphans, 0)
      yield* inventory.apply([newHistory, owe(file("d", 1), 0)])
      assert.strictEqual(yield* inventory.orphans, 0)
      yield* inventory.apply([owe({ ...file("a", 1), revision: revision(2) }, 0)], cursorAt(2))
      assert.strictEqual(yield* inventory.orphans, 2)
      yield* inventory.apply([owe({ ...file("b", 2), revision: revision(3) }, 0), lost("c", heldOf(file("c", 3)), 0)])
      assert.strictEqual(yield* inventory.orphans, 0)
    }))

  test("releases debts of an earlier history, and nothing else", (inventory) =>
    Effect.gen(function*() {
      yield* inventory.apply([owe(file("a", 1), 0), owe(file("b", 2), 0)], cursorAt(2))
      yield* inventory.settle(file("b", 2), heldOf(file("b", 2)))
      yield* inventory.apply([release("a")])
      assert.strictEqual((yield* inventory.progress).owed.files, 1)
      yield* inventory.apply([newHistory, release("a"), release("b"), release("c")])
      assert.deepStrictEqual(yield* inventory.why(pathOf("a")), Option.none())
      assert.isTrue(Option.isSome(yield* inventory.verified(pathOf("b"))))
      const { owed, unlinking, verified } = yield* inventory.progress
      assert.deepStrictEqual([owed.files, unlinking, verified.files], [0, 0, 1])
    }))

  test("tells in brief what its pages tell", (inventory) =>
    Effect.gen(function*() {
      const paths = ["\u{10000}", "\uffff", "a/b\n", "a", "Z", "gone"]
      yield* inventory.apply(paths.map((path, n) => owe(file(path, n + 1), 0)))
      yield* inventory.settle(file("a", 4), { ...heldOf(file("a", 4)), inode: 2n ** 64n - 1n })
      yield* inventory.apply([forget("gone", 9, 0)])
      const rows = yield* inventory.page(Option.none(), 10)
      const expected = rows.map((row) => ({
        path: row._tag === "Unlinking" ? row.path : row.file.entry.path,
        state: row._tag,
        revision: row._tag === "Unlinking" ? row.revision : row.file.revision,
        size: row._tag === "Unlinking" ? 0 : row.file.entry.size_bytes,
        mtime: row._tag === "Verified" ? row.held.mtime : 0n,
        inode: row._tag === "Verified" ? row.held.inode : 0n
      }))
      assert.strictEqual(expected.length, 6)
      assert.deepStrictEqual(yield* inventory.briefs(Option.none(), 10), expected)
      assert.deepStrictEqual(yield* inventory.briefs(Option.some(pathOf("a")), 2), expected.slice(2, 4))
      assert.deepStrictEqual(yield* inventory.briefs(Option.some(pathOf("\u{10000}")), 2), [])
    }))

  test("says of which of many paths it knows nothing", (inventory) =>
    Effect.gen(function*() {
      yield* inventory.apply([owe(file("a", 1), 0), owe(file("b", 2), 0), forget("b", 3, 0)])
      yield* inventory.pend({ entry: file("c", 0).entry, token: "sealed.1" })
      const asked = ["x", "a", "b", "c", "y"].map(pathOf)
      assert.deepStrictEqual(yield* inventory.unknown(asked), ["x", "y"].map(pathOf))
      assert.deepStrictEqual(yield* inventory.unknown([]), [])
    }))

  test("remembers small texts by their names", (inventory) =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* inventory.recall("id"), Option.none())
      yield* inventory.remember("id", Option.some("1"))
      yield* inventory.remember("other", Option.some("x"))
      yield* inventory.remember("id", Option.some("2"))
      assert.deepStrictEqual(yield* inventory.recall("id"), Option.some("2"))
      yield* inventory.remember("id", Option.none())
      assert.deepStrictEqual(yield* inventory.recall("id"), Option.none())
      assert.deepStrictEqual(yield* inventory.recall("other"), Option.some("x"))
    }))
}
