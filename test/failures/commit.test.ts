/** kill -9 before every single step of what puts a file in place: each time either the whole file shows, or none. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { execFile } from "node:child_process"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { FilePath } from "../../src/ports/FilePath.ts"
import { inManifest } from "../../src/replication/FileReport.ts"
import { temporaryFolder } from "../support/folder.ts"
import { program } from "../support/program.ts"
import { dataOf, publish, start, stateOf, untilComplete } from "../support/realNode.ts"
import { bytesOf } from "./behaviours.ts"

const child = program(join(import.meta.dirname, "killChild.ts"))
const hook = program(join(import.meta.dirname, "killHook.ts"))

interface Life {
  readonly signal: NodeJS.Signals | null
  readonly code: number | null
  readonly complaint: string
  /** What the life did for its file, in order; the last may be what it did not come to do. */
  readonly steps: ReadonlyArray<string>
}

/** One life of the victim, which ends before a step, or when everything is done. */
const live = (folder: string, task: string, path: string, size: number, at: number): Effect.Effect<Life> =>
  Effect.promise((signal) =>
    new Promise((resolve) => {
      const log = join(folder, `log-${at}`)
      const running = execFile(
        process.execPath,
        ["--disable-warning=ExperimentalWarning", child, folder, task, path, String(size)],
        {
          signal,
          killSignal: "SIGKILL",
          env: {
            PATH: process.env["PATH"],
            NODE_OPTIONS: `--disable-warning=ExperimentalWarning --import=${hook}`,
            NODE_COMPILE_CACHE: process.env["NODE_COMPILE_CACHE"],
            KILL_PATH: path,
            KILL_AT: String(at),
            KILL_LOG: log
          }
        },
        (_error, stdout, stderr) =>
          resolve({
            signal: running.signalCode,
            code: running.exitCode,
            complaint: `${stdout}${stderr}`,
            steps: existsSync(log) ? readFileSync(log, "utf8").trimEnd().split("\n") : []
          })
      )
    })
  )

const contentOf = (size: number): Buffer => bytesOf(size, size)

const shows = (folder: string, node: string, path: string): Buffer | undefined => {
  const file = join(dataOf(folder, node), path)
  return existsSync(file) ? readFileSync(file) : undefined
}

/** Each life finishes what the last one left, and dies one step later than that. Gives the steps of a whole one. */
const killAtEveryStep = Effect.fnUntraced(function*(task: "pull" | "publish", size: number) {
  const folder = yield* temporaryFolder
  const other = yield* start(folder, "other")
  const files: Array<{ readonly path: string; readonly size: number }> = []
  for (let at = 0;; at++) {
    const file = { path: `db/${task}-${at}/file`, size: size + at }
    files.push(file)
    if (task === "pull") yield* publish(other, file.path, contentOf(file.size))
    const { code, complaint, signal, steps } = yield* live(folder, task, file.path, file.size, at)
    for (const { path, size } of files) {
      const found = shows(folder, "victim", path)
      assert.isTrue(found === undefined || found.equals(contentOf(size)), `${path} is not whole: ${steps.join(" ")}`)
    }
    if (signal === null) {
      assert.strictEqual(code, 0, complaint)
      assert.isAtMost(steps.length, at)
      break
    }
    assert.strictEqual(signal, "SIGKILL", complaint)
    assert.strictEqual(steps.length, at + 1)
  }
  // What was published last is pulled from it yet.
  yield* start(folder, "victim")
  yield* untilComplete(other)
  for (const { path, size } of files) {
    const { state } = yield* Effect.provide(inManifest(FilePath.make(path)), other)
    if (task === "pull") assert.strictEqual(state, "listed")
    const [here, there] = ["victim", "other"].map((node) => shows(folder, node, path))
    // Nobody was told that an interrupted publish succeeded; but what is registered is whole everywhere.
    const expected = state === "listed" ? contentOf(size) : undefined
    assert.deepStrictEqual([here, there], [expected, expected], path)
  }
  const staged = readdirSync(join(stateOf(folder, "victim"), "staging"), { recursive: true, encoding: "utf8" })
  assert.deepStrictEqual(staged.filter((name) => name.includes(".")), [])
  return readFileSync(join(folder, `log-${files.length - 1}`), "utf8").trimEnd().split("\n")
})

/** What the files of `fileThreads.ts` and of `staged.ts` go through once their bytes are there, in this order. */
const order = ["create", "write", "link", "unlink", "COMMIT"]

describe.concurrent("kill -9 at every step leaves the whole file or none, and the next start goes on, of", () => {
  for (
    const [what, task, size] of [["a small pull", "pull", 1000], ["a large pull", "pull", 300_000], [
      "a publish",
      "publish",
      1000
    ]] as const
  ) {
    it.live(what, () =>
      Effect.gen(function*() {
        const steps = yield* killAtEveryStep(task, size)
        assert.deepStrictEqual(order.filter((step) => steps.includes(step)), order)
      }), 240_000)
  }
})
