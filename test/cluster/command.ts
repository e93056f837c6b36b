/** The command as a user runs it: a real process, its output, its exit. */
import { Deferred, Effect, Queue, type Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { join } from "node:path"
import { program } from "../support/program.ts"

const main = program(join(import.meta.dirname, "../../src/main.ts"))

export interface Running {
  readonly child: ChildProcess
  /** Lines of standard output and of standard error, as they come. */
  readonly lines: Queue.Queue<string>
  /** Everything that was printed so far. */
  readonly output: () => { readonly stdout: string; readonly stderr: string }
  /** The exit code, or the signal that ended it. */
  readonly exit: Effect.Effect<number | string>
}

/** What a command line becomes that runs elsewhere on this machine. */
export type Elsewhere = (command: ReadonlyArray<string>) => ReadonlyArray<string>

/** In a mount namespace of its own, with one thing mounted. */
const mounted = (mount: string, at: string): Elsewhere => (command) => {
  const script = `at=$1; shift; ${mount} && exec "$@"`
  return ["unshare", process.getuid?.() === 0 ? "-m" : "-rm", "sh", "-c", script, "sh", at, ...command]
}

/** Where a disk of 16 MiB lies at a folder. */
export const onDisk = (folder: string): Elsewhere => mounted("mount -t tmpfs -o size=16m tmpfs \"$at\"", folder)

/** Where a file or a folder can't be written. */
export const whereReadOnly = (path: string): Elsewhere =>
  mounted("mount --bind \"$at\" \"$at\" && mount -o remount,bind,ro \"$at\"", path)

/** Starts the command; the scope kills what is still running. Its environment is what is given, and a path. HTTP takes a free port. */
export const start = (
  args: ReadonlyArray<string>,
  environment: Readonly<Record<string, string>> = {},
  cwd?: string,
  elsewhere: Elsewhere = (command) => command
): Effect.Effect<Running, never, Scope.Scope> =>
  Effect.gen(function*() {
    const lines = yield* Queue.unbounded<string>()
    const exit = yield* Deferred.make<number | string>()
    let stdout = ""
    let stderr = ""
    const child = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const command = [process.execPath, "--disable-warning=ExperimentalWarning", main, ...args]
        const [program = "", ...rest] = elsewhere(command)
        return spawn(program, rest, {
          env: { PATH: process.env["PATH"] ?? "", ARC_SERVER_PORT: "0", ...environment },
          stdio: ["pipe", "pipe", "pipe"],
          ...(cwd === undefined ? {} : { cwd })
        })
      }),
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
export const run = (
  args: ReadonlyArray<string>,
  environment: Readonly<Record<string, string>> = {},
  cwd?: string,
  elsewhere?: Elsewhere
) =>
  Effect.scoped(Effect.gen(function*() {
    const running = yield* start(args, environment, cwd, elsewhere)
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
