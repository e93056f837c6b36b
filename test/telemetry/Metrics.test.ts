import { assert, describe, it } from "@effect/vitest"
import { Effect, Metric } from "effect"
import * as Metrics from "../../src/telemetry/Metrics.ts"
import { namesIn, valueOf } from "../support/metrics.ts"
import { promtool } from "../support/promtool.ts"

/** A registry of one's own, as an application may give a node. */
const alone = Effect.provideService(Metric.MetricRegistry, new Map())
const seeded = Metrics.seed({ version: "1.2.3", node: "n", role: "reader" })

describe("the metrics", () => {
  it.effect("all appear at a start, and Prometheus takes them", () =>
    Effect.gen(function*() {
      yield* seeded
      const text = yield* Metrics.render
      const names = namesIn(text)
      for (const name of Object.values(Metrics.state)) assert.isTrue(names.has(name.id), name.id)
      assert.strictEqual(valueOf(text, "file_replication_auth_rejections_total{cause=\"replay\"}"), 0)
      assert.strictEqual(valueOf(text, "file_replication_register_duration_seconds_count"), 0)
      assert.deepStrictEqual(yield* promtool(["check", "metrics"], text), { code: 0, output: "" })
    }).pipe(alone))

  it.effect("tell no more than so many peers apart, and none whose name is not one", () =>
    Effect.gen(function*() {
      for (let peer = 0; peer < 200; peer++) yield* Metrics.sent(`peer-${peer}`, 1)
      yield* Metrics.sent("bad\nname\"} 1", 1)
      yield* Metrics.sent("x".repeat(10_000), 1)
      const text = yield* Metrics.render
      const series = text.split("\n").filter((line) => line.startsWith("file_replication_sent_bytes_total"))
      assert.isAtMost(series.length, Metrics.manyPeers + 1)
      assert.isAtLeast(valueOf(text, "file_replication_sent_bytes_total{peer=\"(other)\"}") ?? 0, 138)
      assert.isTrue(series.every((line) => line.length < 200))
    }).pipe(alone))

  it.effect("count a connection while it is open, and those that were refused", () =>
    Effect.gen(function*() {
      const open = Effect.map(Metrics.render, (text) => valueOf(text, "file_replication_connections_open"))
      const connections = yield* Metrics.connections
      connections.opened()
      connections.opened()
      connections.closed()
      connections.refused()
      assert.strictEqual(yield* open, 1)
      connections.closed()
      assert.strictEqual(yield* open, 0)
      assert.strictEqual(valueOf(yield* Metrics.render, "file_replication_connections_refused_total"), 1)
    }).pipe(alone))

  it.effect("count a registration with what the manifest said to it", () =>
    Effect.gen(function*() {
      yield* Metrics.registering(Effect.void)
      yield* Effect.exit(Metrics.registering(Effect.fail({ _tag: "Conflict" })))
      const text = yield* Metrics.render
      assert.strictEqual(valueOf(text, "file_replication_registrations_total{outcome=\"registered\"}"), 1)
      assert.strictEqual(valueOf(text, "file_replication_registrations_total{outcome=\"conflict\"}"), 1)
      assert.strictEqual(valueOf(text, "file_replication_register_duration_seconds_count"), 2)
    }).pipe(alone))
})
