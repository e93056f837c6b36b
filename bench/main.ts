/**
 * Measures this software beside others on the same machine, in the same run.
 *
 *     npm run bench                      everything; half an hour and 20 GB of disk
 *     npm run bench -- --short           less of everything, under five minutes
 *     npm run bench -- --only a,c        some cases
 *     npm run bench -- --baseline FILE   beside the JSON of an earlier run on the same machine
 *     PROFILE=FOLDER npm run bench -- …  with a CPU profile of each process that is measured
 *     --runs N  --scratch FOLDER  --json FILE
 *
 * Text goes to standard output, progress to standard error, and the figures into a file of JSON.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Console, Data, Effect } from "effect"
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs"
import { cpus, release, tmpdir, totalmem } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { cases, type Line } from "./cases.ts"
import { table } from "./figures.ts"
import { clean, rsyncVersion, startNode } from "./processes.ts"

class Unusable extends Data.TaggedError("Unusable")<{ readonly detail: string }> {
  override get message(): string {
    return this.detail
  }
}

const { values: flags } = parseArgs({
  options: {
    short: { type: "boolean", default: false },
    only: { type: "string" },
    runs: { type: "string" },
    scratch: { type: "string", default: tmpdir() },
    json: { type: "string", default: "bench.json" },
    baseline: { type: "string" }
  }
})

const machine = {
  processor: cpus()[0]?.model ?? "unknown",
  cores: cpus().length,
  memoryGiB: Math.round(totalmem() / 1024 ** 3),
  kernel: release(),
  node: process.version,
  rsync: rsyncVersion() ?? "none"
}

const mark = (met: boolean | undefined) => met === undefined ? "" : met ? "met" : "NOT MET"

/** A median that is worse than a fifth beyond the baseline's. */
const regressions = (lines: ReadonlyArray<Line>, file: string): ReadonlyArray<string> => {
  const before: { readonly lines: ReadonlyArray<Line> } = JSON.parse(readFileSync(file, "utf8"))
  const speedOf = ({ values }: Line): number | undefined => {
    const { other, ours } = values
    const middle = (all: ReadonlyArray<number>) =>
      [...all].sort((a, b) => a - b)[Math.floor(all.length / 2)] ?? Number.NaN
    if (ours !== undefined && other !== undefined) return middle(other) / middle(ours)
    const alone = Object.values(values)[0]
    return alone === undefined ? undefined : 1 / middle(alone)
  }
  return lines.flatMap((line) => {
    const known = before.lines.find((each) => each.case === line.case && each.what === line.what)
    const then = known === undefined ? undefined : speedOf(known)
    const now = speedOf(line)
    if (then === undefined || now === undefined || now >= then * 0.8) return []
    return [`${line.case}, ${line.what}: ${(now / then).toFixed(2)} of what it was`]
  })
}

const program = Effect.gen(function*() {
  if (machine.rsync === "none") {
    return yield* new Unusable({ detail: "rsync is not installed: there is nothing to compare with" })
  }
  const wanted = flags.only === undefined ? Object.keys(cases) : flags.only.split(",")
  const unknown = wanted.filter((id) => cases[id] === undefined)
  if (unknown.length > 0) {
    return yield* new Unusable({
      detail: `no such case: ${unknown.join(", ")}; there are ${Object.keys(cases).join(", ")}`
    })
  }
  const runs = Number(flags.runs ?? (flags.short ? 3 : 5))
  yield* Console.log(
    `${machine.cores} × ${machine.processor}, ${machine.memoryGiB} GiB, kernel ${machine.kernel}, node ${machine.node}, `
      + `rsync ${machine.rsync}; medians of ${runs} runs, in turns${flags.short ? "; the short form" : ""}\n`
  )
  const scratch = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(flags.scratch, "file-replication-bench-"))),
    clean
  )
  // What these have compiled is kept for the nodes that are measured. The second has a file to look at, by other threads.
  const home = join(scratch, "first")
  const first = startNode({
    name: "first",
    role: "writer",
    folder: home,
    manifest: join(home, "manifest.db"),
    fsync: false,
    workers: 1,
    walkIntervalMillis: 0
  })
  yield* Effect.scoped(Effect.flatMap(first, (node) => node.ask({ _tag: "PublishOne", path: "first", size: 1 })))
  yield* Effect.scoped(Effect.flatMap(first, (node) => node.ask({ _tag: "Ready" })))
  const lines: Array<Line> = []
  for (const id of wanted) {
    const found = cases[id]
    if (found === undefined) continue
    yield* Console.error(`  ${id}: ${found.title}`)
    lines.push(...yield* Effect.scoped(found.run({ scratch, runs, short: flags.short })))
  }
  yield* Console.log(table([
    ["case", "what", "figure", "target", ""],
    ...lines.map((line) => [line.case, line.what, line.figure, line.target, mark(line.met)])
  ]))
  writeFileSync(flags.json, `${JSON.stringify({ machine, runs, short: flags.short, lines }, undefined, 2)}\n`)
  yield* Console.log(`\nEverything that was measured is in ${flags.json}`)
  if (flags.baseline === undefined) return
  const worse = regressions(lines, flags.baseline)
  yield* Console.log(
    worse.length === 0
      ? `Nothing is more than a fifth behind ${flags.baseline}`
      : `Behind ${flags.baseline}:\n${worse.join("\n")}`
  )
  if (worse.length > 0) return yield* new Unusable({ detail: `${worse.length} figures are more than a fifth behind` })
}).pipe(
  Effect.scoped,
  Effect.tapError((error) => Console.error(`bench: ${error.message}`))
)

NodeRuntime.runMain(program, { disableErrorReporting: true })
