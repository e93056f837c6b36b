import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as BackendMemory from "../../src/backend/BackendMemory.ts"
import { Backend } from "../../src/ports/Backend.ts"
import { suite } from "../../src/testing/backend/suite.ts"
import { bytes, pathOf, sha256Of, write } from "../../src/testing/backend/support.ts"

suite("BackendMemory", BackendMemory.layer)

describe("BackendMemory", () => {
  it.effect("says that there is no space left beyond its capacity, and takes more when some is freed", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      yield* write(pathOf("a"), bytes(600))
      const staged = yield* backend.stage(pathOf("b"))
      const error = yield* Effect.flip(staged.write(bytes(600)))
      assert.strictEqual(error.reason, "NoSpace")
      yield* backend.remove(pathOf("a"))
      yield* staged.write(bytes(600))
      yield* staged.commit(sha256Of(bytes(600)))
      assert.strictEqual(yield* backend.freeSpace, 400)
    }).pipe(Effect.provide(BackendMemory.layerWith({ capacity: 1000 }))))
})
