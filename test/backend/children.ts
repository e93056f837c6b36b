/** Starting the child process of these tests. */
import { Effect, type Scope } from "effect"
import { type ChildProcessByStdio, spawn } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"
import type { Readable, Writable } from "node:stream"
import { fileURLToPath } from "node:url"
import { program } from "../support/program.ts"

const script = program(fileURLToPath(new URL("./localChild.ts", import.meta.url)))

export interface Child {
  /** The next line it says; fails when it ends instead, with what it complained about. */
  readonly line: Effect.Effect<Record<string, unknown>>
  /** Ends it at once, as a crash would, and waits until it has ended. */
  readonly kill: Effect.Effect<void>
}

/** Runs a scenario on two folders; with `mount`, where a disk of 4 MiB of the child's own lies at that folder. */
export const startChild = (
  scenario: string,
  folders: { readonly data: string; readonly state: string; readonly mount?: string }
): Effect.Effect<Child, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => start([process.execPath, script, scenario, folders.data, folders.state], folders.mount)),
      ({ child }) => Effect.promise(() => end(child))
    ),
    ({ child, lines, complaint }) => ({
      line: Effect.promise(async () => {
        const { done, value } = await lines.next()
        if (done === true) throw new Error(`the child ended: ${complaint()}`)
        return JSON.parse(value)
      }),
      kill: Effect.promise(() => end(child))
    })
  )

const start = (command: ReadonlyArray<string>, mount: string | undefined) => {
  // A mount namespace of the child's own: the disk is gone with it.
  const [program = "", ...args] = mount === undefined
    ? command
    : [
      "unshare",
      ...(process.getuid?.() === 0 ? ["-m"] : ["-rm"]),
      "sh",
      "-c",
      "disk=$1; shift; mount -t tmpfs -o size=4m tmpfs \"$disk\" && exec \"$@\"",
      "sh",
      mount,
      ...command
    ]
  const child = spawn(program, args, { stdio: ["pipe", "pipe", "pipe"], env: { PATH: process.env["PATH"] } })
  let said = ""
  child.stderr.setEncoding("utf8").on("data", (text: string) => (said += text))
  child.on("error", (error) => (said += error.message))
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  return { child, lines, complaint: () => said }
}

const end = async (child: ChildProcessByStdio<Writable, Readable, Readable>): Promise<void> => {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return
  const ended = once(child, "exit")
  child.kill("SIGKILL")
  await ended
}
