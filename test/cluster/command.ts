/** The command as a user runs it: a real process, its output, its exit. */
import { Deferred, Effect, Queue, type Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { join } from "node:path"

const main = join(import.meta.dirname, "../../src/main.ts")

export interface Running {
  readonly child: ChildProcess
  /** Lines of standard output and of standard error, as they come. */
  readonly lines: Queue.Queue<string>
  /** Everything that was printed so far. */
  readonly output: () => { readonly stdout: string; readonly stderr: string }
  /** The exit code, or the signal that ended it. */
  readonly exit: Effect.Effect<number | string>
}

/** With `disk`, a command in a mount namespace of its own, where a disk of 16 MiB lies at that folder. */
const onDisk = (disk: string | undefined, [program = "", ...args]: ReadonlyArray<string>): [string, Array<string>] => {
  if (disk === undefined) return [program, args]
  const mount = "disk=$1; shift; mount -t tmpfs -o size=16m tmpfs \"$disk\" && exec \"$@\""
  return ["unshare", [process.getuid?.() === 0 ? "-m" : "-rm", "sh", "-c", mount, "sh", disk, program, ...args]]
}

/** Starts the command; the scope kills what is still running. Its environment is what is given, and a path. HTTP takes a free port. */
export const start = (
  args: ReadonlyArray<string>,
  environment: Readonly<Record<string, string>> = {},
  cwd?: string,
  disk?: string
): Effect.Effect<Running, never, Scope.Scope> =>
  Effect.gen(function*() {
    const lines = yield* Queue.unbounded<string>()
    const exit = yield* Deferred.make<number | string>()
    let stdout = ""
    let stderr = ""
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn(...onDisk(disk, [process.execPath, "--disable-warning=ExperimentalWarning", main, ...args]), {
          env: { PATH: process.env["PATH"] ?? "", ARC_SERVER_PORT: "0", ...environment },
          stdio: ["pipe", "pipe", "pipe"],
          ...(cwd === undefined ? {} : { cwd })
        })
      ),
      (child) =>
        Effect.suspend(() => {
          child.kill("SIGKILL")
          return Deferred.await(exit)
        })
    )
    const take = (keep: (text: string) => void) => {
      let rest = ""
      return (chunk: Buffer) => {
        keep(chunk.toString())
        const parts = (rest + chunk.toString()).split("\n")
        rest = parts.pop() ?? ""
        for (const line of parts) Queue.offerUnsafe(lines, line)
      }
    }
    child.stdout.on("data", take((text) => (stdout += text)))
    child.stderr.on("data", take((text) => (stderr += text)))
    child.on("close", (code, signal) => Deferred.doneUnsafe(exit, Effect.succeed(code ?? signal ?? "gone")))
    return { child, lines, output: () => ({ stdout, stderr }), exit: Deferred.await(exit) }
  })

/** Runs the command to its end. */
export const run = (args: ReadonlyArray<string>, environment: Readonly<Record<string, string>> = {}, cwd?: string) =>
  Effect.scoped(Effect.gen(function*() {
    const running = yield* start(args, environment, cwd)
    running.child.stdin?.end()
    const code = yield* running.exit
    return { code, ...running.output() }
  }))

/** Waits for a line that matches, and gives it. */
export const lineOf = (running: Running, pattern: RegExp): Effect.Effect<string> =>
  Effect.repeat(
    Effect.raceFirst(
      Queue.take(running.lines),
      Effect.flatMap(running.exit, (code) =>
        Effect.die(new Error(`ended (${code}) before a line matched ${pattern}:\n${running.output().stderr}`)))
    ),
    {
      until: (line) =>
        pattern.test(line)
    }
  )
