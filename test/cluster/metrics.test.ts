/** `GET /metrics` of real nodes. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schedule } from "effect"
import { open, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { temporaryFolder } from "../support/folder.ts"
import { scrape, valueOf } from "../support/metrics.ts"
import { promtool } from "../support/promtool.ts"
import { lineOf, run, type Running, start } from "./command.ts"
import { configure } from "./configure.ts"

const urlOf = (node: Running) =>
  Effect.map(lineOf(node, /it serves http/), (line) => /(http:\S+)\/health/.exec(line)?.[1] ?? "")

/** Asks again until a series has a value that is wanted, and gives everything that was said then. */
const until = (url: string, series: string, wanted: (value: number) => boolean) =>
  Effect.gen(function*() {
    let last = ""
    return yield* Effect.repeat(Effect.tap(scrape(url), ({ text }) => Effect.sync(() => (last = text))), {
      until: ({ text }) => wanted(valueOf(text, series) ?? Number.NaN),
      schedule: Schedule.spaced("100 millis")
    }).pipe(
      Effect.timeoutOrElse({
        duration: "20 seconds",
        orElse: () => Effect.die(new Error(`${series} has not become what is wanted:\n${last}`))
      })
    )
  })

const of = (name: string) => `file_replication_${name}`

describe("the metrics of a node", () => {
  it.live(
    "are what Prometheus takes, and tell what was moved, who sent wrong bytes, and who does not know the secret",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const sources = [join(folder, "good"), join(folder, "spoilt")]
        for (const source of sources) yield* Effect.promise(() => writeFile(source, new Uint8Array(200_000).fill(7)))
        const config = yield* configure(folder, "writer")
        const published = yield* run(["publish", ...sources, "--as", "db", "--config", config])
        assert.strictEqual(published.code, 0, published.stderr)
        const writer = yield* start(["node", "--config", config])
        const writerUrl = yield* urlOf(writer)
        // What is wrong on the disk is only found when somebody hashes it.
        yield* until(writerUrl, of("ready"), (value) => value === 1)
        yield* Effect.promise(async () => {
          const file = await open(join(folder, "writer/data/db/spoilt"), "r+")
          await file.write(new Uint8Array([8]), 0, 1, 100)
          await file.close()
        })

        const reader = yield* start(["node", "--config", yield* configure(folder, "reader")])
        const readerUrl = yield* urlOf(reader)
        const { code, text, type } = yield* until(
          readerUrl,
          of("mismatches_total{peer=\"writer\"}"),
          (value) => value > 0
        )
        assert.strictEqual(code, 200)
        assert.strictEqual(type, "text/plain; version=0.0.4; charset=utf-8")
        const checked = yield* promtool(["check", "metrics"], text)
        assert.deepStrictEqual(checked, { code: 0, output: "" })
        assert.match(
          text,
          /^file_replication_build_info\{version="[^"]+",node="reader",role="reader",runtime="v[^"]+"\} 1$/m
        )
        assert.match(text, /^# HELP file_replication_pulls_total .+\n# TYPE file_replication_pulls_total counter$/m)

        const pulled = yield* until(
          readerUrl,
          of("pulls_total{outcome=\"pulled\",reason=\"\"}"),
          (value) => value === 1
        )
        const said = (series: string) => valueOf(pulled.text, of(series))
        assert.strictEqual(said("ready"), 0)
        assert.strictEqual(said("owed_files"), 1)
        assert.strictEqual(said("owed_bytes"), 200_000)
        assert.strictEqual(said("verified_bytes"), 200_000)
        assert.isAbove(said("oldest_owed_seconds") ?? 0, 0)
        assert.strictEqual(said("members_alive"), 2)
        assert.isAtLeast(said("received_bytes_total{peer=\"writer\"}") ?? 0, 400_000)
        assert.strictEqual(said("pull_duration_seconds_count"), 1)
        assert.strictEqual(said("pull_duration_seconds_bucket{le=\"+Inf\"}"), 1)
        assert.strictEqual(said("manifest_cursor_revision"), 2)
        assert.strictEqual(said("watch_gap_revisions"), 0)

        const serving = yield* scrape(writerUrl)
        assert.isAtLeast(valueOf(serving.text, of("serves_total{outcome=\"sent\"}")) ?? 0, 2)
        assert.isAtLeast(valueOf(serving.text, of("sent_bytes_total{peer=\"reader\"}")) ?? 0, 400_000)
        assert.strictEqual(valueOf(serving.text, of("auth_rejections_total{cause=\"secret\"}")), 0)

        const stranger = yield* start(["node", "--config", yield* configure(folder, "stranger")], {
          ARC_CLUSTER_SHARED_SECRET: "another secret"
        })
        yield* until(yield* urlOf(stranger), of("rejected_by_peer_total"), (value) => value > 0)
        const refusing = yield* scrape(writerUrl)
        assert.isAbove(valueOf(refusing.text, of("auth_rejections_total{cause=\"secret\"}")) ?? 0, 0)
        assert.isAbove(valueOf(refusing.text, of("serves_total{outcome=\"auth\"}")) ?? 0, 0)
        assert.isUndefined(valueOf(refusing.text, of("sent_bytes_total{peer=\"nobody\"}")))
      }),
    120_000
  )
})
