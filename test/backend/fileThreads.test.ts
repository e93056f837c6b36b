/** Threads for small files that are killed while they are at work. */
import { assert, describe } from "@effect/vitest"
import { Effect, Fiber, Logger, Option, References, Result } from "effect"
import { readdirSync } from "node:fs"
import { join } from "node:path"
import { Backend, type Whole } from "../../src/ports/Backend.ts"
import { bytes, collector, pathOf, sha256Of } from "../../src/testing/backend/support.ts"
import { workersOf } from "../support/workers.ts"
import { local, run } from "./local.ts"

const turn = Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))

const whole = (path: string, n: number): Whole => {
  const content = bytes(50_000, n)
  return { path: pathOf(path), sha256: sha256Of(content), bytes: content }
}

describe("BackendLocal, when a thread dies", () => {
  local("says what was not committed, shows nothing by halves, and commits and reads on", (folders) => {
    const logged: Array<string> = []
    const logger = Logger.make<unknown, void>(({ fiber, message }) =>
      void logged.push(`${message} ${JSON.stringify(fiber.getRef(References.CurrentLogAnnotations))}`)
    )
    return run(
      folders,
      Effect.gen(function*() {
        const backend = yield* Backend
        const workers = yield* workersOf
        const files = Array.from({ length: 128 }, (_, n) => whole(`db/${n % 4}/${n}`, n))
        const committing = yield* Effect.forkChild(Effect.annotateLogs(backend.commitTogether(files), "asked", "first"))
        // Both threads write the 32 that they were given: none of them has its name before all are written.
        const inStaging = () =>
          readdirSync(join(folders.state, "staging"), { recursive: true, encoding: "utf8" })
            .filter((name) => name.includes("."))
        const isBegun = (some: ReadonlyArray<Whole>) => {
          const keys = some.map(({ path }) => sha256Of(Buffer.from(path)))
          return inStaging().some((name) => keys.some((key) => name.includes(key)))
        }
        while (!isBegun(files.slice(0, 32)) || !isBegun(files.slice(32, 64))) yield* turn
        const [first] = workers
        yield* Effect.promise(async () => void (await first?.terminate()))
        const outcomes = yield* Fiber.join(committing)

        const failed = files.filter((_, n) => {
          const outcome = outcomes[n]
          if (outcome === undefined || Result.isSuccess(outcome)) return false
          assert.deepInclude(outcome.failure, { _tag: "BackendError", reason: "Io" })
          assert.include(outcome.failure.message, "the thread died")
          return true
        })
        assert.isAbove(failed.length, 0)
        // The other thread went on meanwhile.
        assert.isAtMost(failed.length, 32)
        for (const { path, sha256 } of files) {
          const held = Option.getOrUndefined(yield* backend.adopt(path))
          if (held === undefined) assert.isTrue(failed.some((each) => each.path === path))
          else assert.strictEqual(held.sha256, sha256)
        }
        assert.deepStrictEqual(inStaging(), [])

        for (const outcome of yield* backend.commitTogether(failed)) {
          if (Result.isFailure(outcome)) assert.strictEqual(outcome.failure._tag, "AlreadyExists")
        }
        yield* Effect.promise(() => Promise.all(workers.map((worker) => worker.terminate())))
        const more = Array.from({ length: 64 }, (_, n) => whole(`db/more/${n}`, n))
        for (const outcome of yield* backend.commitTogether(more)) assert.isTrue(Result.isSuccess(outcome))
        const taken = collector()
        yield* backend.read(pathOf("db/more/1"), 0, 50_000, taken.sink)
        assert.isTrue(taken.bytes().equals(bytes(50_000, 1)))
        // Not as of whoever asked first.
        assert.deepStrictEqual(
          logged.map((line) => line.replace(/\d+ ms/, "a moment")),
          Array.from(
            { length: 3 },
            () => "a thread for files died: it exited with code 1; another one starts in a moment {}"
          )
        )
      })
    ).pipe(Effect.provide(Logger.layer([logger])))
  })
})
