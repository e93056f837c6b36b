/** How every backend compares many files with what was known of them, and what id it carries. */
import { assert } from "@effect/vitest"
import { Effect, Option, Stream } from "effect"
import { Backend } from "../../ports/Backend.ts"
import { bytes, type Live, pathOf, write } from "./support.ts"

export const compare = (live: Live): void => {
  live(
    "says which of many files are not as they were: changed, replaced, gone, or no files",
    () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const names = Array.from({ length: 300 }, (_, n) => pathOf(`${n % 3 === 0 ? "x" : "y/z"}/${n}`))
        yield* Effect.forEach(names, (path, n) => write(path, bytes(n + 1)), { concurrency: 8 })
        const stats = yield* Effect.forEach(names, (path) => Effect.flatMap(backend.stat(path), Effect.fromOption))
        assert.deepStrictEqual(yield* backend.differing([]), [])
        assert.deepStrictEqual(yield* backend.differing(stats), [])
        yield* backend.remove(pathOf("x/0"))
        yield* backend.remove(pathOf("x/3"))
        yield* write(pathOf("x/3"), bytes(4))
        yield* backend.remove(pathOf("y/z/4"))
        yield* write(pathOf("y/z/4/below"), bytes(5))
        const fifth = yield* Effect.fromNullishOr(stats[5])
        const sixth = yield* Effect.fromNullishOr(stats[6])
        const told = stats.toSpliced(5, 2, { ...fifth, size: 7 }, { ...sixth, mtime: sixth.mtime + 1n })
        const absent = [pathOf("nowhere/at/all"), pathOf("x/9/below a file")]
          .map((path) => ({ path, size: 1, mtime: 1n, inode: 1n }))
        assert.deepStrictEqual(
          yield* backend.differing([...told, ...absent]),
          ["x/0", "x/3", "y/z/4", "y/z/5", "x/6", "nowhere/at/all", "x/9/below a file"].map(pathOf)
        )
      })
  )

  live("says under which of many names nothing lies", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      yield* write(pathOf("x/y/held"), bytes(5))
      yield* write(pathOf("held"), bytes(5))
      const absent = ["x/y/gone", "x/gone", "x/z/gone", "gone", "n/o/where"].map(pathOf)
      assert.deepStrictEqual(yield* backend.absent([]), [])
      assert.deepStrictEqual(
        yield* backend.absent([...absent, pathOf("x/y/held"), pathOf("held")]),
        absent
      )
    }))

  live("carries the id that it was given first, and none before", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      assert.deepStrictEqual(yield* backend.id, Option.none())
      assert.strictEqual(yield* backend.claim("one"), "one")
      assert.strictEqual(yield* backend.claim("two"), "one")
      assert.deepStrictEqual(yield* backend.id, Option.some("one"))
      assert.deepStrictEqual(yield* Stream.runCollect(backend.list("")), [])
    }))
}
