/** Real processes for tests: node runs a script of the test's own, talked to by lines. */
import { Effect, Queue, type Scope } from "effect"
import { spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { program } from "../support/program.ts"

export interface Child {
  /** What it printed, line by line; `undefined` when it has ended. */
  readonly lines: Queue.Queue<string | undefined>
  /** A line on its standard input. */
  readonly send: (line: string) => Effect.Effect<void>
  /** Ends it at once, without a chance to tidy up, and waits until it is gone. */
  readonly kill: Effect.Effect<void>
}

/** Starts a script. It must end when its standard input closes, which the scope's end does. */
export const start = (
  script: URL,
  args: ReadonlyArray<string>
): Effect.Effect<Child, never, Scope.Scope> =>
  Effect.gen(function*() {
    const lines = yield* Queue.unbounded<string | undefined>()
    const { child, ended } = yield* Effect.acquireRelease(
      Effect.sync(() => {
        // Not this process's environment: a test runner's variables change what libraries do.
        const child = spawn(process.execPath, [program(fileURLToPath(script)), ...args], {
          env: { PATH: process.env["PATH"] },
          stdio: ["pipe", "pipe", "inherit"]
        })
        child.stdin.on("error", () => undefined)
        createInterface({ input: child.stdout }).on("line", (line) => Queue.offerUnsafe(lines, line))
        const ended = new Promise<void>((resolve) => child.on("close", () => resolve()))
        void ended.then(() => Queue.offerUnsafe(lines, undefined))
        return { child, ended }
      }),
      ({ child, ended }) =>
        Effect.promise(() => {
          child.stdin.end()
          return ended
        })
    )
    return {
      lines,
      send: (line) =>
        Effect.sync(() => {
          child.stdin.write(`${line}\n`)
        }),
      kill: Effect.promise(() => {
        child.kill("SIGKILL")
        return ended
      })
    }
  })
