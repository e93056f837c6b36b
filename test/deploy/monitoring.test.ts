/** What `deploy/` offers for monitoring: it names only what a node says, and every alert fires when it should. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Metric, Schema } from "effect"
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { parse, stringify } from "yaml"
import { Monitoring } from "../../src/replication/Monitoring.ts"
import { temporaryFolder } from "../support/folder.ts"
import { namesIn } from "../support/metrics.ts"
import { promtool } from "../support/promtool.ts"
import { start } from "../support/realNode.ts"
import { cases } from "./alertCases.ts"

const deploy = join(import.meta.dirname, "../../deploy")
const rulesFile = join(deploy, "prometheus/alerts.yml")

const Rules = Schema.Struct({
  groups: Schema.Array(Schema.Struct({
    rules: Schema.Array(Schema.Struct({
      alert: Schema.String,
      expr: Schema.String,
      annotations: Schema.Struct({ summary: Schema.String, description: Schema.String }),
      labels: Schema.Struct({ severity: Schema.Literals(["warning", "critical"]) })
    }))
  }))
})

const readRules = Effect.promise(() => readFile(rulesFile, "utf8")).pipe(
  Effect.flatMap((text) => Schema.decodeUnknownEffect(Rules)(parse(text))),
  Effect.map(({ groups }) => groups.flatMap(({ rules }) => rules))
)

const Target = Schema.Struct({ expr: Schema.String, refId: Schema.String })
const Dashboard = Schema.fromJsonString(Schema.Struct({
  uid: Schema.String,
  panels: Schema.Array(Schema.Struct({
    id: Schema.Int,
    type: Schema.Literals(["row", "stat", "timeseries", "table"]),
    title: Schema.String,
    gridPos: Schema.Struct({ x: Schema.Int, y: Schema.Int, w: Schema.Int, h: Schema.Int }),
    targets: Schema.optionalKey(Schema.Array(Target))
  })),
  templating: Schema.Struct({
    list: Schema.Array(Schema.Struct({ name: Schema.String, definition: Schema.optionalKey(Schema.String) }))
  })
}))

const readDashboard = Effect.flatMap(
  Effect.promise(() => readFile(join(deploy, "grafana/dashboard.json"), "utf8")),
  Schema.decodeUnknownEffect(Dashboard)
)

const metricsOf = (expressions: ReadonlyArray<string>) =>
  new Set(expressions.flatMap((text) => text.match(/\b(?:file_replication|process)_\w+/g) ?? []))

/** What a node with everything real says. */
const said = Effect.gen(function*() {
  const node = yield* start(yield* temporaryFolder, "only")
  return namesIn(yield* Context.get(node, Monitoring).render)
}).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))

describe("deploy/", () => {
  it.live("names no metric that a node does not say, in its alerts and in its dashboard", () =>
    Effect.gen(function*() {
      const rules = yield* readRules
      const { panels, templating } = yield* readDashboard
      const alerting = metricsOf(rules.map(({ expr }) => expr))
      const shown = metricsOf([
        ...panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr)),
        ...templating.list.flatMap(({ definition = "" }) => definition)
      ])
      assert.isAbove(alerting.size, 15)
      assert.isAbove(shown.size, 30)
      const names = yield* said
      assert.deepStrictEqual([...alerting, ...shown].filter((name) => !names.has(name)), [])
    }))

  it.effect("has a dashboard whose panels ask what Prometheus understands, and do not overlap", () =>
    Effect.gen(function*() {
      const { panels } = yield* readDashboard
      const expressions = panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr))
      // As recording rules, with Grafana's variables filled in: promtool then reads every expression.
      const rules = expressions.map((expr, index) => ({
        record: `panel:${index}`,
        expr: expr.replaceAll("$__rate_interval", "1m").replaceAll("$job", "job").replaceAll("$instance", ".+")
      }))
      const file = join(yield* temporaryFolder, "panels.yml")
      yield* Effect.promise(() => writeFile(file, stringify({ groups: [{ name: "panels", rules }] })))
      const checked = yield* promtool(["check", "rules", "--lint=none", file])
      assert.strictEqual(checked.code, 0, checked.output)
      assert.strictEqual(new Set(panels.map(({ id }) => id)).size, panels.length)
      const cells = panels.flatMap(({ gridPos: { h, w, x, y } }) =>
        Array.from({ length: h * w }, (_, cell) => `${x + cell % w} ${y + Math.floor(cell / w)}`)
      )
      assert.strictEqual(new Set(cells).size, cells.length)
      for (const { gridPos: { w, x } } of panels) assert.isAtMost(x + w, 24)
    }))

  it.effect("has alerts that Prometheus takes, each of which fires when it should and not before", () =>
    Effect.gen(function*() {
      const rules = yield* readRules
      assert.deepStrictEqual(cases.map(({ alert }) => alert).sort(), rules.map(({ alert }) => alert).sort())
      const checked = yield* promtool(["check", "rules", rulesFile])
      assert.strictEqual(checked.code, 0, checked.output)

      const tests = cases.flatMap(({ alert, bad, firesAt, good, labels = "" }) => {
        const firing = `ALERTS{alertname="${alert}",alertstate="firing"}`
        const severity = rules.find((rule) => rule.alert === alert)?.labels.severity ?? ""
        const all = [`alertname="${alert}"`, `alertstate="firing"`, `severity="${severity}"`, ...labels.split(" ")]
        const series = (of: Readonly<Record<string, string>>) =>
          Object.entries(of).map(([series, values]) => ({ series, values }))
        return [
          {
            interval: "1m",
            input_series: series(bad),
            promql_expr_test: [
              { expr: firing, eval_time: "0m" },
              { expr: firing, eval_time: firesAt, exp_samples: [{ labels: `ALERTS{${all.join(",")}}`, value: 1 }] }
            ]
          },
          { interval: "1m", input_series: series(good), promql_expr_test: [{ expr: firing, eval_time: firesAt }] }
        ]
      })
      const file = join(yield* temporaryFolder, "alerts.test.yml")
      yield* Effect.promise(() =>
        writeFile(file, stringify({ rule_files: [rulesFile], evaluation_interval: "1m", tests }))
      )
      const tested = yield* promtool(["test", "rules", file])
      assert.strictEqual(tested.code, 0, tested.output)
      for (const { annotations } of rules) assert.isAbove(annotations.description.length, 20)
    }))
})
