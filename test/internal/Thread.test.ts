import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Logger, Metric, Queue, Scope } from "effect"
import * as Thread from "../../src/internal/Thread.ts"
import * as Metrics from "../../src/telemetry/Metrics.ts"
import { valueOf } from "../support/metrics.ts"
import { workersOf } from "../support/workers.ts"

/** Starts a thread. `logged`: what it logs, `deaths`: what is counted. */
const started = Effect.gen(function*() {
  const logged = yield* Queue.unbounded<string>()
  const registry = Effect.provideService(Metric.MetricRegistry, new Map())
  const scope = yield* Effect.acquireRelease(Scope.make(), Scope.close)
  const logger = Logger.make<unknown, void>(({ logLevel, message }) =>
    void Queue.offerUnsafe(logged, `${logLevel}: ${message}`)
  )
  const workers = yield* workersOf
  const ask = yield* Thread.start({
    module: new URL("./dyingWorker.ts", import.meta.url),
    data: {},
    what: "files",
    name: "the thread",
    ended: "it is over"
  }).pipe(Scope.provide(scope), Effect.provide(Logger.layer([logger])), registry)
  const deaths = Effect.map(
    registry(Metrics.render),
    (text) => valueOf(text, "file_replication_thread_deaths_total{what=\"files\"}")
  )
  return { ask, workers, scope, deaths, death: Queue.take(logged), said: Queue.size(logged) }
})

const deadOf = (cause: string, rest = 100) => `Error: the thread died: ${cause}; another one starts in ${rest} ms`

describe("a thread that dies", () => {
  it.live("by its own exit fails what it was asked, says so once, and another takes its place", () =>
    Effect.gen(function*() {
      const { ask, death, deaths, said } = yield* started
      const told = yield* Effect.forEach(
        [ask("exit", [3]), ask("echo", ["behind it"])],
        (asked) => Effect.map(Effect.flip(asked), ({ detail }) => detail),
        { concurrency: 2 }
      )
      assert.deepStrictEqual(told, Array.from({ length: 2 }, () => "the thread died: it exited with code 3"))
      assert.strictEqual(yield* ask("echo", ["after"]), "after")
      assert.strictEqual(yield* death, deadOf("it exited with code 3"))
      assert.deepStrictEqual([yield* said, yield* deaths], [0, 1])
    }))

  it.live("by an error of its own between two requests, or killed by another, leaves nobody without an answer", () =>
    Effect.gen(function*() {
      const { ask, death, deaths, workers } = yield* started
      assert.strictEqual(yield* ask("throwLater", []), "answered")
      assert.strictEqual(yield* death, deadOf("a bug"))
      assert.strictEqual(yield* ask("echo", ["again"]), "again")
      const hanging = yield* Effect.forkChild(Effect.flip(ask("hang", [])))
      yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
      yield* Effect.promise(() => Promise.all(workers.map((worker) => worker.terminate())))
      assert.strictEqual((yield* Fiber.join(hanging)).detail, "the thread died: it exited with code 1")
      assert.strictEqual(yield* ask("echo", ["again"]), "again")
      assert.strictEqual(workers.length, 3)
      assert.strictEqual(yield* deaths, 2)
    }))

  it.live("again and again rests for longer each time", () =>
    Effect.gen(function*() {
      const { ask, death } = yield* started
      for (const rest of [100, 200, 400]) {
        yield* Effect.flip(ask("exit", [0]))
        assert.strictEqual(yield* death, deadOf("it exited with code 0", rest))
      }
    }))

  it.live("lets whoever waits for another know when there will be none", () =>
    Effect.gen(function*() {
      const { ask, death, scope, workers } = yield* started
      yield* Effect.flip(ask("exit", [0]))
      yield* death
      const waiting = yield* Effect.forkChild(Effect.flip(ask("echo", ["too late"])), { startImmediately: true })
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* Fiber.join(waiting)).detail, "it is over")
      assert.strictEqual((yield* Effect.flip(ask("echo", ["too late"]))).detail, "it is over")
      assert.strictEqual(workers.length, 1)
    }))
})
