import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber } from "effect"
import { ask, type Asked } from "../../src/internal/asked.ts"

describe("many questions", () => {
  it.effect("are waited for to the last, when one of them has failed too, and answered in order", () =>
    Effect.gen(function*() {
      const offered: Array<Asked<string, string>> = []
      const asking = yield* Effect.forkChild(
        Effect.exit(ask<string, string>(["a", "b", "c"], (asked) => void offered.push(...asked))),
        { startImmediately: true }
      )
      const [a, b, c] = offered
      c?.answer(Exit.succeed("C"))
      b?.answer(Exit.die("no b"))
      yield* Effect.yieldNow
      // Whoever answers may still be at work on what it was asked.
      assert.isUndefined(asking.pollUnsafe())
      a?.answer(Exit.die("no a"))
      assert.deepStrictEqual(yield* Fiber.join(asking), Exit.die("no b"))

      const answers = yield* ask<string, string>(["a", "b"], (asked) => {
        for (const { answer, question } of asked.toReversed()) answer(Exit.succeed(question.toUpperCase()))
      })
      assert.deepStrictEqual(answers, ["A", "B"])
    }))
})
