/** The locks of paths, one at a time and many together. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber } from "effect"
import { FilePath } from "../../src/ports/FilePath.ts"
import * as PathLock from "../../src/replication/PathLock.ts"

const [a, b, c] = [FilePath.make("a"), FilePath.make("b"), FilePath.make("c")]

/** Holds something until it is told to let go. */
const holding = Effect.gen(function*() {
  const held = yield* Deferred.make<ReadonlySet<FilePath>>()
  const open = yield* Deferred.make<void>()
  const hold = (free: ReadonlySet<FilePath>) => Effect.andThen(Deferred.succeed(held, free), Deferred.await(open))
  return { hold, held: Deferred.await(held), letGo: Deferred.succeed(open, undefined) }
})

describe("PathLock", () => {
  it.effect("gives of many locks those that nobody holds, and nobody else those meanwhile", () =>
    Effect.gen(function*() {
      const { withFree, withLock } = yield* PathLock.make
      const one = yield* holding
      const first = yield* Effect.forkChild(withLock(a)(one.hold(new Set())))
      yield* one.held
      const many = yield* holding
      const second = yield* Effect.forkChild(withFree([a, b, c], many.hold))
      assert.deepStrictEqual(yield* many.held, new Set([b, c]))
      assert.deepStrictEqual(yield* withFree([b, c], Effect.succeed), new Set())
      const waiting = yield* Effect.forkChild(withLock(b)(Effect.void))
      yield* Effect.yieldNow
      assert.isUndefined(waiting.pollUnsafe())
      yield* many.letGo
      yield* Fiber.join(waiting)
      yield* one.letGo
      yield* Fiber.joinAll([first, second])
      assert.deepStrictEqual(yield* withFree([a, b, c], Effect.succeed), new Set([a, b, c]))
    }))

  it.effect("gives them back when whoever has them fails or is interrupted", () =>
    Effect.gen(function*() {
      const { withFree, withLock } = yield* PathLock.make
      assert.isTrue(Exit.isFailure(yield* Effect.exit(withFree([a], () => Effect.fail("the test's")))))
      const { held, hold } = yield* holding
      const fiber = yield* Effect.forkChild(withFree([a, b], hold))
      yield* held
      const waiting = yield* Effect.forkChild(withLock(b)(Effect.void))
      yield* Fiber.interrupt(fiber)
      yield* Fiber.join(waiting)
      assert.deepStrictEqual(yield* withFree([a, b], Effect.succeed), new Set([a, b]))
    }))
})
