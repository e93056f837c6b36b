import { assert, describe, it } from "@effect/vitest"
import { Effect, Tracer } from "effect"
import { TestClock } from "effect/testing"
import * as Traces from "../../src/telemetry/Traces.ts"
import { entryOf } from "../../src/testing/entries.ts"

/** When a span of a file begins, in nanoseconds, at 10 s since 1970. */
const beginning = Effect.fnUntraced(function*(created_at: string) {
  const begun: Array<bigint> = []
  const tracer = Tracer.make({
    span: (options) => {
      begun.push(options.startTime)
      return new Tracer.NativeSpan(options)
    }
  })
  yield* TestClock.setTime(10_000)
  const told = yield* Effect.succeed("told").pipe(
    Traces.sinceRegistration(
      "replicate",
      entryOf("db/a", "a", { created_at }),
      "node",
      (outcome: string) => ({ outcome })
    ),
    Effect.withTracer(tracer)
  )
  assert.strictEqual(told, "told")
  return begun
})

describe("the span of a file", () => {
  it.effect("begins when the file was registered, and now when that is yet to come or no computer's time", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* beginning("1970-01-01T00:00:01.000000002Z"), [1_000_000_002n])
      assert.deepStrictEqual(yield* beginning("1970-01-01T00:00:11Z"), [10_000_000_000n])
      // A leap second, and what only looks like a time: an entry may say either.
      for (const odd of ["2016-12-31T23:59:60Z", "2026-13-45T25:61:61Z"]) {
        assert.deepStrictEqual(yield* beginning(odd), [10_000_000_000n], odd)
      }
    }))
})
