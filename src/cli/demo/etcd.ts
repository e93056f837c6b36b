/** Members of an etcd cluster on this machine: real processes on free ports of the loopback, gone with their scope. */
import { Deferred, Effect, Runtime, Schema, type Scope } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { createServer } from "node:net"
import { join } from "node:path"

/** There is no `etcd`, or it does not start. */
export class EtcdFailed extends Schema.TaggedError<EtcdFailed>()("EtcdFailed", { detail: Schema.String }) {
  override readonly [Runtime.errorExitCode] = 1
  override get message(): string {
    return `etcd can't be started: ${this.detail}`
  }
}

/** What a member is started with, again and again. */
export interface MemberPlan {
  readonly name: string
  /** `127.0.0.1:port`, for clients. */
  readonly endpoint: string
  readonly arguments: ReadonlyArray<string>
  readonly dataFolder: string
}

export interface Member {
  readonly pid: number
  /** Waits until it serves, and so for the cluster to have a leader. */
  readonly serving: Effect.Effect<void, EtcdFailed>
  readonly end: Effect.Effect<void>
  readonly signal: (signal: NodeJS.Signals) => void
}

/** Free ports of the loopback, as the system chooses them. */
const freePorts = (count: number): Effect.Effect<ReadonlyArray<number>> =>
  Effect.promise(async () => {
    const servers = await Promise.all(
      Array.from({ length: count }, () =>
        new Promise<ReturnType<typeof createServer>>((resolve, reject) => {
          const server = createServer()
          server.on("error", reject)
          server.listen(0, "127.0.0.1", () => resolve(server))
        }))
    )
    const ports = servers.map((server) => {
      const address = server.address()
      return typeof address === "object" && address !== null ? address.port : 0
    })
    await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))))
    return ports
  })

/** Plans for the members of a new cluster in a folder. `flags` go to each of them. */
export const planMembers = Effect.fn("planMembers")(function*(options: {
  readonly folder: string
  readonly count: number
  readonly scheme?: "http" | "https"
  readonly flags?: ReadonlyArray<string>
}) {
  const { count, flags = [], folder, scheme = "http" } = options
  const ports = yield* freePorts(2 * count)
  const members = Array.from({ length: count }, (_, index) => ({
    name: `etcd-${index + 1}`,
    client: `${scheme}://127.0.0.1:${ports[index]}`,
    peer: `http://127.0.0.1:${ports[count + index]}`
  }))
  const cluster = members.map(({ name, peer }) => `${name}=${peer}`).join(",")
  return members.map(({ client, name, peer }): MemberPlan => {
    const dataFolder = join(folder, name)
    return {
      name,
      endpoint: client.slice(client.lastIndexOf("/") + 1),
      dataFolder,
      arguments: [
        ["--name", name, "--data-dir", dataFolder],
        ["--listen-client-urls", client, "--advertise-client-urls", client],
        ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
        ["--initial-cluster", cluster, "--initial-cluster-state", "new", "--initial-cluster-token", "file-replication"],
        flags
      ].flat()
    }
  })
})

/** Starts a member; its scope, and the end of this process, end it. */
export const startMember = (plan: MemberPlan): Effect.Effect<Member, EtcdFailed, Scope.Scope> =>
  Effect.gen(function*() {
    const serving = yield* Deferred.make<void, EtcdFailed>()
    const end = yield* Deferred.make<void>()
    const started = yield* Effect.acquireRelease(
      Effect.callback<{ readonly child: ChildProcess; readonly pid: number }, EtcdFailed>((resume) => {
        const child = spawn("etcd", plan.arguments, {
          env: { PATH: process.env["PATH"] },
          stdio: ["ignore", "ignore", "pipe"]
        })
        let last = ""
        child.stderr.on("data", (chunk: Buffer) => {
          last = (last + chunk.toString()).slice(-2000)
          if (last.includes("ready to serve client requests")) Deferred.doneUnsafe(serving, Effect.void)
        })
        child.on("error", (cause) =>
          resume(Effect.fail(
            new EtcdFailed({
              detail: "code" in cause && cause.code === "ENOENT"
                ? "there is no command etcd here; install it (Debian: apt-get install etcd-server)"
                : cause.message
            })
          )))
        child.on("close", () => {
          Deferred.doneUnsafe(serving, Effect.fail(new EtcdFailed({ detail: `${plan.name} ended: ${last}` })))
          Deferred.doneUnsafe(end, Effect.void)
        })
        child.on("spawn", () => resume(Effect.succeed({ child, pid: child.pid ?? 0 })))
      }),
      ({ child }) => {
        child.kill("SIGKILL")
        return Deferred.await(end)
      }
    )
    // Its standard input closes when this process is gone, however that came about.
    yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn("sh", ["-c", "cat > /dev/null; kill -9 $0 2> /dev/null", String(started.pid)], {
          stdio: ["pipe", "ignore", "ignore"]
        })
      ),
      (guard) => Effect.sync(() => guard.kill("SIGKILL"))
    )
    return {
      pid: started.pid,
      serving: Deferred.await(serving),
      end: Deferred.await(end),
      signal: (signal) => {
        started.child.kill(signal)
      }
    }
  })
