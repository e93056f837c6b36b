/** Two hosts on this machine: network namespaces, and one cable between them. They are gone with the processes in them. */
import { Deferred, Effect, Queue, type Scope } from "effect"
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process"
import { createInterface } from "node:readline"
import type { Elsewhere } from "../cluster/command.ts"

/** What makes a cable; with process ids, between the namespaces of these. */
const cable = (left?: number, right?: number): Array<string> => {
  const within = (pid: number | undefined) => pid === undefined ? [] : ["netns", String(pid)]
  return ["link", "add", "left", ...within(left), "type", "veth", "peer", "name", "right", ...within(right)]
}

/** Why there can be no such hosts here; `undefined` when there can. */
export const whyNoHosts = (): string | undefined => {
  const { error, status, stderr } = spawnSync("unshare", ["-n", "ip", ...cable()], { encoding: "utf8" })
  return error?.message ?? (status === 0 ? undefined : stderr.trim())
}

export interface Host {
  readonly address: string
  /** Runs a command there. */
  readonly there: Elsewhere
  /** What is answered there to a GET; `""` when nothing is. */
  readonly ask: (url: string) => Effect.Effect<string>
}

export interface Hosts {
  readonly left: Host
  readonly right: Host
  readonly cut: Effect.Effect<void>
  readonly join: Effect.Effect<void>
}

/** Holds the namespace open for as long as its input is, and asks there what each line says. */
const gateway = `
  require("node:readline").createInterface({ input: process.stdin }).on("line", (url) =>
    fetch(url, { signal: AbortSignal.timeout(5000) })
      .then((response) => response.text())
      .catch(() => "")
      .then((text) => console.log(JSON.stringify(text))))
  console.log(JSON.stringify("here"))
`

const startHost = (address: string): Effect.Effect<Host & { readonly pid: number }, never, Scope.Scope> =>
  Effect.gen(function*() {
    const ended = yield* Deferred.make<void>()
    const child: ChildProcess = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn("unshare", ["-n", process.execPath, "-e", gateway], { env: {}, stdio: ["pipe", "pipe", "inherit"] })
      ),
      (child) =>
        Effect.suspend(() => {
          child.kill("SIGKILL")
          return Deferred.await(ended)
        })
    )
    child.on("close", () => Deferred.doneUnsafe(ended, Effect.void))
    const lines = yield* Queue.unbounded<string>()
    if (child.stdout !== null) {
      createInterface({ input: child.stdout }).on("line", (line) => Queue.offerUnsafe(lines, line))
    }
    yield* Queue.take(lines)
    const pid = child.pid ?? 0
    return {
      pid,
      address,
      there: (command) => ["nsenter", "-t", String(pid), "-n", ...command],
      ask: (url) =>
        Effect.suspend(() => {
          child.stdin?.write(`${url}\n`)
          return Effect.map(Queue.take(lines), (line) => String(JSON.parse(line)))
        })
    }
  })

/** Starts both, joined. */
export const startHosts: Effect.Effect<Hosts, never, Scope.Scope> = Effect.gen(function*() {
  const left = yield* startHost("10.0.0.1")
  const right = yield* startHost("10.0.0.2")
  const ip = (args: ReadonlyArray<string>, { there }: { readonly there: Elsewhere } = { there: (same) => same }) =>
    Effect.sync(() => {
      const [program = "", ...rest] = there(["ip", ...args])
      execFileSync(program, rest)
    })
  yield* ip(cable(left.pid, right.pid))
  for (const [host, device] of [[left, "left"], [right, "right"]] as const) {
    yield* ip(["link", "set", "lo", "up"], host)
    yield* ip(["address", "add", `${host.address}/24`, "dev", device], host)
    yield* ip(["link", "set", device, "up"], host)
  }
  return {
    left,
    right,
    cut: ip(["link", "set", "left", "down"], left),
    join: ip(["link", "set", "left", "up"], left)
  }
})
