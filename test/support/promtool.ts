/** Prometheus' own tool, which says whether Prometheus will take what we write. */
import { Effect } from "effect"
import { spawnSync } from "node:child_process"

/** Runs it to its end; without it the test fails, and says how to get it. */
export const promtool = (args: ReadonlyArray<string>, input = ""): Effect.Effect<{ code: number; output: string }> =>
  Effect.sync(() => {
    const { error, status, stderr, stdout } = spawnSync("promtool", args, { input, encoding: "utf8" })
    if (error !== undefined) throw new Error(`promtool can't be run (${error.message}): apt-get install prometheus`)
    return { code: status ?? 1, output: stdout + stderr }
  })
