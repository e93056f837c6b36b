import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Scope } from "effect"
import { TestClock } from "effect/testing"
import { groupCommit } from "../../src/manifest/groupCommit.ts"
import { Revision } from "../../src/ports/FileEntry.ts"
import { entryOf } from "../support/entries.ts"

describe("the commit of many registrations together", () => {
  it.effect("finishes on close what was asked before, when the engine answers", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const answers = yield* Deferred.make<void>()
      const asked = yield* Deferred.make<void>()
      const register = yield* groupCommit(
        (entries) =>
          Deferred.succeed(asked, undefined).pipe(
            Effect.andThen(Deferred.await(answers)),
            Effect.as(entries.map((entry) => ({ entry, revision: Revision.make(1) })))
          ),
        2
      ).pipe(Scope.provide(scope))
      const callers = yield* Effect.forkChild(
        Effect.forEach(["a", "b", "c", "d"], (path) => register(entryOf(path)), { concurrency: "unbounded" })
      )
      yield* Deferred.await(asked)
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* Deferred.succeed(answers, undefined)
      yield* Fiber.join(closing)
      assert.strictEqual((yield* Fiber.join(callers)).length, 4)
    }))

  it.effect("does not wait for ever for an engine that does not answer: every caller is told", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const asked = yield* Deferred.make<void>()
      const register = yield* groupCommit(() => Effect.andThen(Deferred.succeed(asked, undefined), Effect.never), 2)
        .pipe(Scope.provide(scope))
      // Two are under way, eight wait in the queue, and the last ones for room in it.
      const callers = yield* Effect.forkChild(
        Effect.forEach(
          Array.from({ length: 12 }, (_, n) => entryOf(`${n}`)),
          (entry) => Effect.flip(register(entry)),
          { concurrency: "unbounded" }
        )
      )
      yield* Deferred.await(asked)
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(closing)
      const errors = yield* Fiber.join(callers)
      assert.deepStrictEqual(errors.map(({ _tag }) => _tag), Array.from({ length: 12 }, () => "Unavailable"))
      assert.include(errors[0]?.message, "the manifest was closed")
      assert.strictEqual((yield* Effect.flip(register(entryOf("late"))))._tag, "Unavailable")
    }))
})
