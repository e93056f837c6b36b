import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { make, siblingModule } from "../../src/sqlite/SqliteThread.ts"
import { temporaryFolder } from "../support/folder.ts"
import type { CounterOperations } from "./counterOperations.ts"

const operations = siblingModule(import.meta, "counterOperations")

describe("SqliteThread", () => {
  it.live("runs operations in order and keeps their effect across a close", () =>
    Effect.gen(function*() {
      const path = join(yield* temporaryFolder, "counter.db")
      yield* Effect.scoped(Effect.gen(function*() {
        const thread = yield* make<CounterOperations>({ path, operations })
        const sums = yield* Effect.forEach([1, 2, 3], (amount) => thread.call("add", amount), { concurrency: 3 })
        assert.deepStrictEqual(sums, [1, 3, 6])
      }))
      const again = yield* make<CounterOperations>({ path, operations })
      assert.strictEqual(yield* again.call("add", 0), 6)
    }))

  it.live("gives SQLite's failure to the one who asked, and goes on", () =>
    Effect.gen(function*() {
      const thread = yield* make<CounterOperations>({ path: join(yield* temporaryFolder, "counter.db"), operations })
      const error = yield* Effect.flip(thread.call("fail"))
      assert.strictEqual(error.reason, "Failed")
      assert.include(error.detail, "nowhere")
      assert.strictEqual(yield* thread.call("add", 1), 1)
    }))

  it.live("opens the database anew when the thread died, which undoes what it was at", () =>
    Effect.gen(function*() {
      const path = join(yield* temporaryFolder, "counter.db")
      const scope = yield* Scope.make()
      const thread = yield* Scope.provide(make<CounterOperations>({ path, operations }), scope)
      yield* thread.call("add", 1)
      for (const sum of [2, 3]) {
        const error = yield* Effect.flip(thread.call("die"))
        assert.deepInclude(error, { reason: "Failed", detail: "the thread died: it exited with code 1" })
        assert.strictEqual(yield* thread.call("add", 1), sum)
      }
      yield* Effect.flip(thread.call("die"))
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(
        yield* Effect.flatMap(make<CounterOperations>({ path, operations }), (t) => t.call("add", 0)),
        3
      )
    }))

  it.live("says of a file that is no database that it is corrupt", () =>
    Effect.gen(function*() {
      const path = join(yield* temporaryFolder, "counter.db")
      writeFileSync(path, "this is no database, and it is long enough to be looked at".repeat(20))
      const error = yield* Effect.flip(make<CounterOperations>({ path, operations }))
      assert.strictEqual(error.reason, "Corrupt")
    }))

  it.live("lets several processes' worth of threads open one new file at once", () =>
    Effect.gen(function*() {
      const path = join(yield* temporaryFolder, "counter.db")
      const threads = yield* Effect.all(
        Array.from({ length: 4 }, () => make<CounterOperations>({ path, operations })),
        { concurrency: 4 }
      )
      yield* Effect.forEach(threads, (thread) => thread.call("add", 1))
      assert.strictEqual(
        yield* make<CounterOperations>({ path, operations }).pipe(Effect.flatMap((t) => t.call("add", 0))),
        4
      )
    }))

  it.live("fails what is asked after it was closed instead of waiting for ever", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const thread = yield* make<CounterOperations>({ path: join(yield* temporaryFolder, "counter.db"), operations })
        .pipe(
          Scope.provide(scope)
        )
      yield* Scope.close(scope, Exit.void)
      const error = yield* Effect.flip(thread.call("add", 1))
      assert.strictEqual(error.reason, "Failed")
    }))
})
