/** What every inventory must tell of debts: which are due, in which order, and when those that failed are tried again. */
import { assert } from "@effect/vitest"
import { Effect, Option } from "effect"
import { giantBytes } from "../../ports/giant.ts"
import { file, forget, heldOf, owe, pathOf, revision, type Test } from "./support.ts"

export const debts = (test: Test): void => {
  test("gives what is due, and says when the next is", (inventory) =>
    Effect.gen(function*() {
      yield* inventory.apply([
        owe(file("a", 4), 30),
        owe(file("b", 3), 10),
        owe(file("c", 2), 20),
        owe(file("d", 1), 20)
      ])
      yield* inventory.apply([owe(file("e", 5), 0), forget("e", 6, 15.2)])
      const due = (now: number, limit: number) =>
        Effect.map(inventory.due(now, limit), (rows) => rows.map(({ file }) => String(file.entry.path)).join(""))
      assert.strictEqual(yield* due(9, 10), "")
      assert.strictEqual(yield* due(20, 10), "bcd")
      assert.strictEqual(yield* due(99, 2), "ab")
      assert.deepStrictEqual(yield* inventory.nextDue(10), Option.some(16))
      assert.deepStrictEqual(yield* inventory.nextDue(16), Option.some(20))
      assert.deepStrictEqual(yield* inventory.nextDue(30), Option.none())
    }))

  test("gives the newest first, small files before giants, and the earliest first of what has failed", (inventory) =>
    Effect.gen(function*() {
      const giant = (path: string, at: number) => file(path, at, "", giantBytes)
      yield* inventory.apply([
        owe(giant("g", 9), 0),
        owe(file("a", 1), 0),
        owe(file("b", 8), 3),
        owe(file("c", 4), 1),
        owe(giant("h", 10), 2)
      ])
      const failed = [[file("x", 7), 3], [giant("y", 2), 1], [file("z", 6), 2]] as const
      yield* inventory.apply(failed.map(([file]) => owe(file, 0)))
      for (const [file, due] of failed) yield* inventory.postpone(file, due, "", [])
      const due = (limit: number) =>
        Effect.map(inventory.due(9, limit), (rows) => rows.map(({ file }) => String(file.entry.path)).join(""))
      assert.strictEqual(yield* due(9), "bcahgyzx")
      assert.strictEqual(yield* due(1), "bhy")
      assert.strictEqual(yield* Effect.map(inventory.due(2, 1), ([first]) => first?.file.entry.path), "c")
    }))

  test("leaves out what is in hand at its revision, and fills up with what comes behind", (inventory) =>
    Effect.gen(function*() {
      yield* inventory.apply(["a", "b", "c", "d"].map((path, n) => owe(file(path, n + 1), 0)))
      yield* inventory.postpone(file("a", 1), 0, "", [])
      const inHand = [file("a", 1), file("d", 4), file("b", 1), file("gone", 9)]
      const due = (limit: number) =>
        Effect.map(
          inventory.due(9, limit, inHand),
          (rows) => rows.map(({ file }) => String(file.entry.path)).join("")
        )
      assert.strictEqual(yield* due(9), "cb")
      assert.strictEqual(yield* due(1), "c")
    }))

  test("postpones a debt with its reason and each peer's answer, and nothing else", (inventory) =>
    Effect.gen(function*() {
      const a = file("a", 1)
      const answers = [{ peer: a.entry.origin_node_id, at: 1, kind: "PeerUnreachable", detail: "it's \"down\"" }]
      yield* inventory.apply([owe(a, 0), owe(file("b", 2), 100)])
      yield* inventory.postpone({ ...a, revision: revision(2) }, 50, "nobody answers", answers)
      assert.strictEqual((yield* inventory.due(0, 1)).length, 1)
      assert.strictEqual(yield* inventory.failed, 0)
      yield* inventory.postpone(a, 50, "nobody answers", answers)
      yield* inventory.postpone(a, 60, "nobody answers", answers)
      const [fresh, row, ...rest] = yield* inventory.due(100, 1)
      assert.deepStrictEqual([fresh?.file, rest], [file("b", 2), []])
      assert.deepStrictEqual(row, {
        _tag: "Owed",
        file: a,
        since: 0,
        rounds: 2,
        due: 60,
        reason: "nobody answers",
        answers
      })
      assert.strictEqual(yield* inventory.failed, 1)
      yield* inventory.settle(a, heldOf(a))
      assert.strictEqual(yield* inventory.failed, 0)
      yield* inventory.postpone(a, 70, "late", [])
      assert.isTrue(Option.isSome(yield* inventory.verified(pathOf("a"))))
    }))

  test("keeps what a peer sent wrong, and until when it rests, with its answer", (inventory) =>
    Effect.gen(function*() {
      const a = file("a", 1)
      const peer = a.entry.origin_node_id
      const answers = [{ peer, at: 1, kind: "WrongBytes", detail: "wrong", wrongTimes: 3, notBefore: 5000 }]
      yield* inventory.apply([owe(a, 0)])
      yield* inventory.postpone(a, 50, "wrong", answers)
      const row = yield* inventory.why(pathOf("a"))
      assert.deepStrictEqual(Option.isSome(row) && row.value._tag === "Owed" ? row.value.answers : [], answers)
    }))

  test("tries a debt whose entry has changed as soon as the change says, with its answers kept", (inventory) =>
    Effect.gen(function*() {
      yield* inventory.apply([owe(file("a", 1, undefined, 9), 0), owe(file("b", 2, undefined, 9), 0)])
      yield* inventory.postpone(file("a", 1), 9000, "later", [])
      yield* inventory.apply([owe(file("a", 3, undefined, 9), 100), owe(file("b", 4, undefined, 9), 100)])
      const rows = yield* inventory.due(100, 10)
      assert.deepStrictEqual(
        rows.map(({ due, file, rounds }) => [String(file.entry.path), Number(file.revision), due, rounds]),
        [["b", 4, 0, 0], ["a", 3, 100, 1]]
      )
    }))

  test("brings debts forward, the earliest first, spread evenly, a bounded number at a time", (inventory) =>
    Effect.gen(function*() {
      const paths = ["a", "b", "c", "d", "e"]
      yield* inventory.apply(paths.map((path, n) => owe(file(path, n + 1), 1000 * (n + 1))))
      yield* inventory.apply([owe(file("gone", 9), 9000), forget("gone", 10, 9000)])
      // One that is due before is left as it is, and so is what is to be unlinked.
      const span = { from: 1000, until: 1400, behind: 1500, limit: 2 }
      assert.strictEqual(yield* inventory.rearm(span), 2)
      assert.strictEqual(yield* inventory.rearm({ ...span, from: 1400, until: 1500 }), 2)
      assert.strictEqual(yield* inventory.rearm({ ...span, from: 1500, until: 1500 }), 0)
      const rows = yield* inventory.due(9999, 10)
      assert.deepStrictEqual(
        rows.map(({ due, file }) => [String(file.entry.path), due]),
        [["e", 1450], ["d", 1400], ["c", 1200], ["b", 1000], ["a", 1000]]
      )
      assert.strictEqual((yield* inventory.dueUnlinks(8999, 10)).length, 0)
    }))
}
