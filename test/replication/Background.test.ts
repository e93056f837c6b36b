import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { Background, layer } from "../../src/replication/Background.ts"

describe("what runs in the background", () => {
  for (
    const [how, effect] of [
      ["by a defect", Effect.die("a broken invariant")],
      ["without a reason", Effect.void],
      ["by an interruption that is not the end of its layer", Effect.interrupt]
    ] as const
  ) {
    it.effect(`fails the node when it ends ${how}`, () =>
      Effect.gen(function*() {
        const background = yield* Background
        yield* background.run("the task", effect)
        const error = yield* Effect.flip(background.failure)
        assert.isTrue(error.message.startsWith("the task ended:"))
      }).pipe(Effect.provide(layer)))
  }

  it.effect("fails nothing when its layer closes", () =>
    Effect.gen(function*() {
      const background = yield* Background
      const scope = yield* Scope.make()
      yield* Scope.provide(background.run("the task", Effect.never), scope)
      yield* Scope.close(scope, Exit.void)
      const error = yield* Effect.flip(Effect.timeout(background.failure, 0))
      assert.strictEqual(error._tag, "TimeoutError")
    }).pipe(Effect.provide(layer)))
})
