/** What every inventory must do. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Option, Result, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Inventory, type InventoryError } from "../../ports/Inventory.ts"
import { changes } from "./suiteChanges.ts"
import { debts } from "./suiteDebts.ts"
import { cursorAt, file, forget, heldOf, owe, pathOf, revision, type Test } from "./support.ts"

export const suite = (name: string, fresh: Layer.Layer<Inventory, InventoryError>): void => {
  describe(name, () => {
    const test: Test = (sentence, body) =>
      it.live(sentence, () => Effect.provide(Effect.flatMap(Inventory, body), Layer.merge(fresh, TestClock.layer())))

    test("is empty at first", (inventory) =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* inventory.progress, {
          cursor: Option.none(),
          owed: { files: 0, bytes: 0 },
          oldestOwed: Option.none(),
          verified: { files: 0, bytes: 0 },
          unlinking: 0,
          verifiedThrough: revision(0)
        })
        assert.deepStrictEqual(yield* inventory.page(Option.none(), 10), [])
        assert.deepStrictEqual(yield* inventory.nextDue(0), Option.none())
      }))

    test("records the debts of a batch and its cursor together", (inventory) =>
      Effect.gen(function*() {
        yield* TestClock.setTime(5000)
        yield* inventory.apply([owe(file("a", 3), 100), owe(file("b", 4), 50)], cursorAt(4))
        assert.deepStrictEqual(yield* inventory.progress, {
          cursor: Option.some(cursorAt(4)),
          owed: { files: 2, bytes: 3 + 4 },
          oldestOwed: Option.some(5000),
          verified: { files: 0, bytes: 0 },
          unlinking: 0,
          verifiedThrough: revision(2)
        })
        assert.deepStrictEqual(
          yield* inventory.why(pathOf("a")),
          Option.some({
            _tag: "Owed",
            file: file("a", 3),
            since: 5000,
            rounds: 0,
            due: 100,
            reason: "new",
            answers: []
          })
        )
        assert.deepStrictEqual(yield* inventory.verified(pathOf("a")), Option.none())
      }))

    test("changes nothing when a batch comes twice", (inventory) =>
      Effect.gen(function*() {
        const batch = [owe(file("a", 1), 10), owe(file("b", 2), 10), forget("a", 3, 20)]
        yield* inventory.apply(batch, cursorAt(3))
        const before = [yield* inventory.page(Option.none(), 10), yield* inventory.progress]
        yield* TestClock.setTime(1000)
        yield* inventory.apply(batch, cursorAt(3))
        assert.deepStrictEqual([yield* inventory.page(Option.none(), 10), yield* inventory.progress], before)
      }))

    test("settles a file that is owed with these bytes, at whatever revision they were asked for", (inventory) =>
      Effect.gen(function*() {
        const a = file("a", 5)
        yield* inventory.apply([owe(a, 0)], cursorAt(5))
        const other = { ...a, entry: file("a", 5, "other").entry }
        assert.isFalse(yield* inventory.settle(other, heldOf(other)))
        assert.isTrue(yield* inventory.settle({ ...a, revision: revision(4) }, heldOf(a)))
        assert.deepStrictEqual(
          yield* inventory.verified(pathOf("a")),
          Option.some({ _tag: "Verified", file: a, held: heldOf(a) })
        )
        const progress = yield* inventory.progress
        assert.deepStrictEqual(progress.owed, { files: 0, bytes: 0 })
        assert.deepStrictEqual(progress.verified, { files: 1, bytes: 5 })
        assert.strictEqual(progress.verifiedThrough, 5)
      }))

    test("refuses to settle a file that was never owed, was deleted, or was replaced", (inventory) =>
      Effect.gen(function*() {
        const a = file("a", 1)
        assert.isFalse(yield* inventory.settle(a, heldOf(a)))
        yield* inventory.apply([owe(a, 0)])
        yield* inventory.apply([forget("a", 2, 0)])
        assert.isFalse(yield* inventory.settle(a, heldOf(a)))
        yield* inventory.apply([owe(file("a", 3, "other"), 0)])
        assert.isFalse(yield* inventory.settle(a, heldOf(a)))
      }))

    test("refuses to settle with bytes that are not the file's", (inventory) =>
      Effect.gen(function*() {
        const a = file("a", 1)
        yield* inventory.apply([owe(a, 0)])
        assert.isFalse(yield* inventory.settle(a, heldOf(file("a", 1, "other"))))
        assert.isFalse(yield* inventory.settle(a, { ...heldOf(a), size: 99 }))
      }))

    test("settles many at once, each as it would be alone", (inventory) =>
      Effect.gen(function*() {
        const [a, b, c] = [file("a", 1), file("b", 2), file("c", 3)]
        yield* inventory.apply([owe(a, 0), owe(b, 0), owe(c, 0), forget("b", 4, 0)], cursorAt(4))
        const wrong = { file: c, held: { ...heldOf(c), size: 99 } }
        const settled = yield* inventory.settleTogether([
          ...[a, b].map((file) => ({ file, held: heldOf(file) })),
          wrong,
          { file: file("d", 5), held: heldOf(file("d", 5)) }
        ])
        assert.deepStrictEqual(settled.map((each) => Result.isSuccess(each) && each.success), [
          true,
          false,
          false,
          false
        ])
        assert.isTrue(settled.every(Result.isSuccess))
        assert.deepStrictEqual((yield* inventory.progress).verified.files, 1)
        assert.isTrue(Option.isSome(yield* inventory.verified(pathOf("a"))))
        assert.deepStrictEqual(yield* inventory.settleTogether([]), [])
      }))

    test("takes the newer stat of a file that is verified already", (inventory) =>
      Effect.gen(function*() {
        const a = file("a", 1)
        yield* inventory.apply([owe(a, 0)])
        yield* inventory.settle(a, heldOf(a))
        const touched = { ...heldOf(a), mtime: 77n, inode: 2n ** 64n - 1n }
        assert.isTrue(yield* inventory.settle(a, touched))
        const verified = yield* Effect.fromOption(yield* inventory.verified(pathOf("a")))
        assert.deepStrictEqual(verified.held, touched)
      }))

    test("settles a pending file before its event has come, and is not owed it when the event comes", (inventory) =>
      Effect.gen(function*() {
        const a = file("a", 7)
        yield* inventory.pend({ entry: a.entry, token: "sealed.1" })
        assert.deepStrictEqual(yield* inventory.pendings, [{ entry: a.entry, token: "sealed.1" }])
        assert.isTrue(yield* inventory.settle(a, heldOf(a)))
        assert.deepStrictEqual(yield* inventory.pendings, [])
        yield* inventory.apply([owe(a, 0)], cursorAt(7))
        assert.isTrue(Option.isSome(yield* inventory.verified(pathOf("a"))))
      }))

    test("refuses to settle a pending file whose deletion came first", (inventory) =>
      Effect.gen(function*() {
        const a = file("a", 7)
        yield* inventory.pend({ entry: a.entry, token: "sealed.1" })
        yield* inventory.apply([forget("a", 8, 0)])
        assert.deepStrictEqual(yield* inventory.pendings, [])
        assert.isFalse(yield* inventory.settle(a, heldOf(a)))
        assert.deepStrictEqual(
          yield* inventory.why(pathOf("a")),
          Option.some({ _tag: "Unlinking", path: pathOf("a"), revision: revision(8), due: 0 })
        )
      }))

    test("refuses to settle with a pending record of other bytes", (inventory) =>
      Effect.gen(function*() {
        yield* inventory.pend({ entry: file("a", 0, "other").entry, token: "sealed.1" })
        assert.isFalse(yield* inventory.settle(file("a", 7), heldOf(file("a", 7))))
        assert.strictEqual((yield* inventory.pendings).length, 1)
      }))

    test("takes a pending file back", (inventory) =>
      Effect.gen(function*() {
        yield* inventory.pend({ entry: file("a", 0).entry, token: "sealed.1" })
        yield* inventory.pend({ entry: file("a", 0).entry, token: "sealed.2" })
        assert.deepStrictEqual((yield* inventory.pendings).map(({ token }) => token), ["sealed.2"])
        yield* inventory.unpend(pathOf("a"))
        assert.deepStrictEqual(yield* inventory.pendings, [])
      }))

    test("never gives a pending file out as due", (inventory) =>
      Effect.gen(function*() {
        const a = file("a", 1)
        yield* inventory.pend({ entry: a.entry, token: "sealed.1" })
        yield* inventory.apply([owe(a, 10)])
        assert.deepStrictEqual(yield* inventory.due(100, 10), [])
        assert.deepStrictEqual(yield* inventory.nextDue(0), Option.none())
        yield* inventory.unpend(pathOf("a"))
        assert.strictEqual((yield* inventory.due(100, 10)).length, 1)
        assert.deepStrictEqual(yield* inventory.nextDue(0), Option.some(10))
      }))

    test("keeps a verified file verified when it is owed again with the same bytes", (inventory) =>
      Effect.gen(function*() {
        const a = file("a", 1)
        yield* inventory.apply([owe(a, 0)])
        yield* inventory.settle(a, heldOf(a))
        yield* inventory.apply([owe(file("a", 9, undefined, 1), 0)])
        const verified = yield* Effect.fromOption(yield* inventory.verified(pathOf("a")))
        assert.strictEqual(verified.file.revision, 9)
      }))

    test("owes a verified file again when other bytes are asked for", (inventory) =>
      Effect.gen(function*() {
        const a = file("a", 1)
        yield* inventory.apply([owe(a, 0)])
        yield* inventory.settle(a, heldOf(a))
        yield* inventory.apply([owe(file("a", 2, "other"), 5)])
        assert.deepStrictEqual(yield* inventory.verified(pathOf("a")), Option.none())
        assert.deepStrictEqual((yield* inventory.due(5, 10)).map(({ file }) => file), [file("a", 2, "other")])
      }))

    test("owes a file that is being unlinked only at a higher revision", (inventory) =>
      Effect.gen(function*() {
        yield* inventory.apply([owe(file("a", 1), 0), forget("a", 5, 0), owe(file("a", 4), 0)])
        assert.strictEqual((yield* inventory.progress).unlinking, 1)
        yield* inventory.apply([owe(file("a", 6), 0)])
        assert.strictEqual((yield* inventory.progress).unlinking, 0)
        assert.strictEqual((yield* inventory.due(0, 10)).length, 1)
      }))

    test("forgets only rows at or below the deletion's revision", (inventory) =>
      Effect.gen(function*() {
        yield* inventory.apply([owe(file("a", 5), 0), owe(file("b", 5), 0)])
        yield* inventory.settle(file("b", 5), heldOf(file("b", 5)))
        yield* inventory.apply([forget("a", 4, 0), forget("b", 4, 0), forget("c", 4, 0)])
        assert.strictEqual((yield* inventory.progress).unlinking, 0)
        yield* inventory.apply([forget("a", 5, 0), forget("b", 6, 0)])
        assert.deepStrictEqual(
          (yield* inventory.dueUnlinks(0, 10)).map(({ path, revision }) => [String(path), Number(revision)]),
          [["a", 5], ["b", 6]]
        )
        assert.deepStrictEqual(yield* inventory.why(pathOf("c")), Option.none())
      }))

    changes(test)

    test("turns a row into none when it was unlinked at its very revision", (inventory) =>
      Effect.gen(function*() {
        yield* inventory.apply([owe(file("a", 1), 0), forget("a", 2, 0)])
        yield* inventory.unlinked(pathOf("a"), revision(1))
        assert.isTrue(Option.isSome(yield* inventory.why(pathOf("a"))))
        yield* inventory.unlinked(pathOf("a"), revision(2))
        assert.isTrue(Option.isNone(yield* inventory.why(pathOf("a"))))
        yield* inventory.apply([owe(file("b", 3), 0)])
        yield* inventory.unlinked(pathOf("b"), revision(3))
        assert.isTrue(Option.isSome(yield* inventory.why(pathOf("b"))))
      }))

    debts(test)

    test("looks at many paths at once, in their order", (inventory) =>
      Effect.gen(function*() {
        yield* inventory.apply([owe(file("a", 1), 0)])
        const pending = { entry: file("b", 0).entry, token: "sealed.1" }
        yield* inventory.pend(pending)
        const locals = yield* inventory.look([pathOf("b"), pathOf("none"), pathOf("a"), pathOf("a")])
        const row = Option.getOrUndefined(yield* inventory.why(pathOf("a")))
        assert.deepStrictEqual(locals, [
          { row: undefined, pending },
          { row: undefined, pending: undefined },
          { row, pending: undefined },
          { row, pending: undefined }
        ])
      }))

    test("pages through all rows in the order of their paths' bytes", (inventory) =>
      Effect.gen(function*() {
        // U+FFFF sorts behind U+10000 by UTF-16 and before it by bytes.
        const paths = ["\u{10000}", "\uffff", "a/b", "a", "a-b", "Z", "ä"]
        yield* inventory.apply(paths.map((path, n) => owe(file(path, n + 1), 0)))
        const sorted = paths.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
        const seen: Array<string> = []
        for (let after = Option.none<ReturnType<typeof pathOf>>();;) {
          const rows = yield* inventory.page(after, 3)
          const last = rows.at(-1)
          if (last === undefined) break
          for (const row of rows) seen.push(row._tag === "Unlinking" ? row.path : row.file.entry.path)
          after = Option.some(pathOf(seen.at(-1) ?? ""))
        }
        assert.deepStrictEqual(seen, sorted)
      }))

    test("counts sizes that no number holds exactly without failing", (inventory) =>
      Effect.gen(function*() {
        const huge = Array.from({ length: 2000 }, (_, n) => {
          const { entry, revision } = file(`huge/${n}`, n + 1)
          return { entry: { ...entry, size_bytes: Number.MAX_SAFE_INTEGER }, revision }
        })
        yield* inventory.apply(huge.map((each) => owe(each, 0)))
        yield* inventory.apply(huge.slice(1).map((each) => forget(each.entry.path, each.revision, 0)))
        assert.deepStrictEqual((yield* inventory.progress).owed, { files: 1, bytes: Number.MAX_SAFE_INTEGER })
      }))

    test("does not claim revisions that its cursor has not reached", (inventory) =>
      Effect.gen(function*() {
        yield* inventory.apply([owe(file("a", 10), 0)])
        assert.strictEqual((yield* inventory.progress).verifiedThrough, 0)
        yield* inventory.apply([], cursorAt(5))
        assert.strictEqual((yield* inventory.progress).verifiedThrough, 5)
        yield* inventory.apply([], cursorAt(20))
        assert.strictEqual((yield* inventory.progress).verifiedThrough, 9)
      }))

    test("shows whoever has written, and asks at once, nothing older than that write", (inventory) =>
      Effect.forEach(
        Array.from({ length: 50 }, (_, n) => n + 1),
        Effect.fnUntraced(function*(n) {
          yield* Stream.runHead(inventory.changes)
          yield* inventory.apply([owe(file(`f${n}`, n), 0)])
          const seen = yield* Stream.runHead(inventory.changes)
          assert.deepStrictEqual(Option.map(seen, ({ owed }) => owed.files), Option.some(n))
        }),
        { discard: true }
      ))

    test("shows each subscriber the progress at once, and in the end the last", (inventory) =>
      Effect.gen(function*() {
        const first = yield* Stream.runHead(inventory.changes)
        assert.deepStrictEqual(Option.map(first, ({ cursor }) => cursor), Option.some(Option.none()))
        const watchers = yield* Effect.forEach([1, 2, 3], () =>
          Effect.forkChild(
            inventory.changes.pipe(
              Stream.takeUntil(({ verifiedThrough }) => verifiedThrough === 200),
              Stream.runCollect
            )
          ))
        yield* Effect.forEach(
          Array.from({ length: 200 }, (_, n) => n + 1),
          (n) => inventory.apply([], cursorAt(n)),
          { discard: true }
        )
        for (const watcher of watchers) {
          const seen = (yield* Fiber.join(watcher)).map(({ verifiedThrough }) => Number(verifiedThrough))
          assert.deepStrictEqual(seen, [...seen].sort((a, b) => a - b))
          assert.strictEqual(seen.at(-1), 200)
        }
      }))
  })
}
