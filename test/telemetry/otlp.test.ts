/** Two nodes with everything real, and a collector. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Option, Schedule } from "effect"
import { Registrar } from "../../src/replication/Registrar.ts"
import { lineOf, start as startCommand } from "../cluster/command.ts"
import { configure } from "../cluster/configure.ts"
import { collector, silentCollector } from "../support/collector.ts"
import { temporaryFolder } from "../support/folder.ts"
import { living, publish, untilComplete } from "../support/realNode.ts"

describe("telemetry by OTLP", () => {
  it.live(
    "joins a file's publishing, serving and pulling in one trace, from its registration to its commit",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const { bodies, logs, metrics, refused, spans, url } = yield* collector
        const given = { otlpEndpoint: Option.some(url) }
        yield* living(
          folder,
          "writer",
          (writer) =>
            Effect.gen(function*() {
              yield* publish(writer, "db/a", "some bytes")
              yield* publish(writer, "db/b", "other bytes")
              yield* Context.get(writer, Registrar).replace(
                [{ path: "db/c", bytes: new TextEncoder().encode("in its place") }],
                [{ path: "db/b", reason: "merged" }]
              )
              yield* publish(writer, "db/d", "other bytes")
              yield* living(folder, "reader", untilComplete, given)
            }),
          given
        )
        assert.deepStrictEqual(refused, [])
        const named = (name: string, path: string) =>
          spans.filter((span) => span.name === name && span.attributes["file.path"] === path)

        const [published] = named("publish", "db/a")
        const [replicated] = named("replicate", "db/a")
        const [served] = named("serve", "db/a")
        assert.isDefined(published)
        assert.isDefined(replicated)
        assert.isDefined(served)
        assert.deepStrictEqual([published?.service, replicated?.service, served?.service], [
          "writer",
          "reader",
          "writer"
        ])
        assert.strictEqual(replicated?.traceId, published?.traceId)
        assert.strictEqual(served?.traceId, published?.traceId)
        assert.notStrictEqual(named("replicate", "db/d")[0]?.traceId, replicated?.traceId)
        assert.strictEqual(named("publish", "db/c")[0]?.traceId, named("replicate", "db/c")[0]?.traceId)
        assert.isDefined(named("publish", "db/c")[0]?.attributes["revision"])
        // Nobody's children: what has no parent shows as the beginning of its part.
        assert.deepStrictEqual([published?.parentSpanId, replicated?.parentSpanId], ["", ""])
        assert.strictEqual(replicated?.startTimeUnixNano, published?.startTimeUnixNano)
        assert.isTrue((replicated?.endTimeUnixNano ?? 0n) > (published?.startTimeUnixNano ?? 0n))
        assert.include(replicated?.attributes ?? {}, { outcome: "Pulled", from: "writer", node: "reader" })

        const byId = new Map(spans.map((span) => [span.spanId, span]))
        const isBelow = (span: typeof spans[number] | undefined): boolean =>
          span !== undefined && (span === replicated || isBelow(byId.get(span.parentSpanId ?? "")))
        const below = spans.filter(isBelow)
        for (const name of ["dial", "transfer", "verify and commit"]) {
          const span = below.find((span) => span.name === name)
          assert.isDefined(span, name)
          assert.isTrue((span?.endTimeUnixNano ?? 0n) <= (replicated?.endTimeUnixNano ?? 0n), name)
        }
        assert.strictEqual(below.every(({ traceId }) => traceId === replicated?.traceId), true)

        assert.isTrue(metrics.has("file_replication_ready"))
        assert.isTrue(metrics.has("file_replication_pulls_total"))
        assert.isAbove(bodies.length, 3)
        assert.isFalse(bodies.some((body) => body.includes("a secret of the tests")))

        // Nobody is left who could have it.
        const told = Effect.repeat(Effect.sync(() => logs), {
          until: (logs) => logs.some((text) => String(text).startsWith("db/a is still owed: ")),
          schedule: Schedule.spaced("50 millis")
        })
        yield* living(folder, "late", () => told, given)
      }),
    30_000
  )

  it.live(
    "keeps no node from its work nor from its end when the collector never answers",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const url = yield* silentCollector
        const environment = { ARC_TELEMETRY_OTLP_ENDPOINT: url, ARC_SERVER_SHUTDOWN_TIMEOUT_MS: "15000" }
        const node = yield* startCommand(
          ["node", "--config", yield* configure(folder, "alone"), "--supervised"],
          environment
        )
        yield* lineOf(node, /"ready":true/)
        yield* lineOf(node, /telemetry can't be sent to http:\S+ and is dropped: .*no answer for 5s/)
        node.child.kill("SIGTERM")
        // One that had not ended in time would have left with 1.
        assert.strictEqual(yield* node.exit, 0)
      }),
    60_000
  )
})
