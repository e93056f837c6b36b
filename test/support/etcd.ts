/**
 * Real etcd for tests: one or three members on the loopback, in temporary folders, that can be killed, frozen, started
 * again and put back to an earlier snapshot.
 */
import { Effect, Exit, Random, Redacted, Schedule, Scope } from "effect"
import { execFile, execFileSync, spawnSync } from "node:child_process"
import { readdirSync, readFileSync } from "node:fs"
import { rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { type EtcdFailed, type Member, type MemberPlan, planMembers, startMember } from "../../src/cli/demo/etcd.ts"
import * as EtcdClient from "../../src/etcd/EtcdClient.ts"
import type { TlsIdentity } from "../../src/peer/transport/Tls.ts"
import { makeAuthority } from "../peer/support/certificates.ts"
import { temporaryFolder } from "./folder.ts"

const works = (command: string) => spawnSync(command, ["version"], { stdio: "ignore" }).error === undefined

/** Whether this machine has what the tests on etcd need. */
export const hasEtcd = works("etcd") && works("etcdctl")

/** The one test that a suite has in place of its own on a machine without etcd: it fails, and says what is left out. */
export const missing = (what: string): string =>
  `etcd and etcdctl are missing here (Debian: apt-get install etcd-server etcd-client), so this is not tested: ${what}`

export interface TestMember {
  readonly name: string
  readonly endpoint: string
  readonly pid: () => number
  readonly kill: Effect.Effect<void>
  readonly freeze: Effect.Effect<void>
  readonly thaw: Effect.Effect<void>
  /** Starts it again, after it was killed; waits until it serves. */
  readonly start: Effect.Effect<void>
}

export interface Cluster {
  readonly members: ReadonlyArray<TestMember>
  readonly endpoints: ReadonlyArray<string>
  /** Runs etcdctl against one or all members; gives what it prints. */
  readonly etcdctl: (...args: ReadonlyArray<string>) => Effect.Effect<string>
  /** From now on etcdctl is this user, `name:password`. */
  readonly login: (user: string) => Effect.Effect<void>
  readonly leader: Effect.Effect<TestMember>
  /** Waits until one of these leads. */
  readonly leaderAmong: (members: ReadonlyArray<TestMember>) => Effect.Effect<TestMember>
  readonly killAll: Effect.Effect<void>
  readonly startAll: Effect.Effect<void>
  readonly save: (file: string) => Effect.Effect<void>
  /** Ends every member, and starts them again with a snapshot and the same flags. */
  readonly restore: (file: string) => Effect.Effect<void>
  readonly compact: Effect.Effect<void>
  /** Certificates of the members' authority; only of a cluster with TLS. */
  readonly identity: (name: string) => TlsIdentity
}

export interface ClusterOptions {
  readonly members?: 1 | 3
  readonly tls?: boolean
  readonly flags?: ReadonlyArray<string>
}

const orDie = <A, R>(effect: Effect.Effect<A, EtcdFailed, R>) => Effect.orDie(effect)

/** What a read gives of something that is still there. */
const ifThere = <A>(read: () => A): A | undefined => {
  try {
    return read()
  } catch {
    return undefined
  }
}

/** Waits until every thread of a process is stopped: some may go on for a moment behind the signal, and answer. */
const standsStill = (pid: number | undefined): Effect.Effect<void> =>
  Effect.suspend(() => {
    const threads = `/proc/${pid}/task`
    const stopped = (ifThere(() => readdirSync(threads)) ?? []).every((thread) => {
      const stat = ifThere(() => readFileSync(`${threads}/${thread}/stat`, "utf8"))
      return stat === undefined || /\) [Tt] [^)]*$/.test(stat)
    })
    return stopped ? Effect.void : Effect.andThen(Effect.yieldNow, standsStill(pid))
  })

/** Starts a cluster in the scope around it. */
export const startCluster = Effect.fnUntraced(function*(
  options: ClusterOptions = {}
): Effect.fn.Return<Cluster, never, Scope.Scope> {
  const folder = yield* temporaryFolder
  const authority = options.tls === true ? yield* makeAuthority : undefined
  const identity = (name: string): TlsIdentity => {
    if (authority === undefined) throw new Error("this cluster has no TLS")
    return authority(name)
  }
  const scheme = options.tls === true ? "https" : "http"
  const files = options.tls === true ? yield* keepIdentity(identity("IP:127.0.0.1")) : undefined
  const flags = [
    ...(files === undefined
      ? []
      : ["--cert-file", files.cert, "--key-file", files.key, "--trusted-ca-file", files.ca, "--client-cert-auth"]),
    ...(options.flags ?? [])
  ]
  const plans = yield* planMembers({ folder, count: options.members ?? 1, scheme, flags })
  const endpoints = plans.map(({ endpoint }) => endpoint)

  const scope = yield* Effect.scope
  const running = new Map<string, { readonly member: Member; readonly scope: Scope.Closeable }>()
  const begin = Effect.fnUntraced(function*(plan: MemberPlan) {
    const own = yield* Scope.fork(scope)
    const member = yield* startMember(plan).pipe(Scope.provide(own))
    running.set(plan.name, { member, scope: own })
    return member
  })
  const stop = (plan: MemberPlan) =>
    Effect.suspend(() => {
      const one = running.get(plan.name)
      running.delete(plan.name)
      return one === undefined ? Effect.void : Scope.close(one.scope, Exit.void)
    })
  const signal = (plan: MemberPlan, signal: NodeJS.Signals) =>
    Effect.sync(() => running.get(plan.name)?.member.signal(signal))

  const killAll = Effect.forEach(plans, stop, { discard: true, concurrency: "unbounded" })
  const startAll = Effect.gen(function*() {
    const members = yield* Effect.forEach(plans, begin)
    yield* Effect.forEach(members, ({ serving }) => serving, { concurrency: "unbounded", discard: true })
  }).pipe(orDie)
  yield* startAll

  let user: string | undefined
  const etcdctl = (...args: ReadonlyArray<string>) =>
    Effect.callback<string>((resume) => {
      const tls = files === undefined ? [] : ["--cacert", files.ca, "--cert", files.cert, "--key", files.key]
      const at = args.includes("--endpoints")
        ? []
        : ["--endpoints", endpoints.map((one) => `${scheme}://${one}`).join()]
      const as = user === undefined || args.includes("--user") ? [] : ["--user", user]
      execFile("etcdctl", [...at, ...tls, ...as, ...args], {
        env: { PATH: process.env["PATH"], ETCDCTL_API: "3" },
        maxBuffer: 1e8
      }, (failure, stdout, stderr) =>
        resume(failure === null ? Effect.succeed(stdout) : Effect.die(new Error(`${args.join(" ")}: ${stderr}`))))
    })

  const members = plans.map((plan): TestMember => ({
    name: plan.name,
    endpoint: plan.endpoint,
    pid: () => running.get(plan.name)?.member.pid ?? 0,
    kill: stop(plan),
    freeze: Effect.andThen(
      signal(plan, "SIGSTOP"),
      Effect.suspend(() => standsStill(running.get(plan.name)?.member.pid))
    ),
    thaw: signal(plan, "SIGCONT"),
    start: Effect.flatMap(begin(plan), ({ serving }) => serving).pipe(orDie)
  }))

  const leaderAmong = (some: ReadonlyArray<TestMember>): Effect.Effect<TestMember> =>
    Effect.findFirst(
      some,
      ({ endpoint }) =>
        etcdctl("--endpoints", `${scheme}://${endpoint}`, "--write-out", "json", "endpoint", "status").pipe(
          Effect.map((line) => {
            const member = /"member_id":(\d+)/.exec(line)?.[1]
            return member !== undefined && member === /"leader":(\d+)/.exec(line)?.[1]
          })
        )
    ).pipe(
      Effect.flatMap((found) => Effect.fromOption(found)),
      Effect.retry(Schedule.spaced("50 millis")),
      Effect.orDie
    )

  return {
    members,
    endpoints,
    identity,
    etcdctl,
    login: (name) =>
      Effect.sync(() => {
        user = name
      }),
    killAll,
    startAll,
    leader: leaderAmong(members),
    leaderAmong,
    save: (file) => Effect.asVoid(etcdctl("--endpoints", `${scheme}://${endpoints[0]}`, "snapshot", "save", file)),
    restore: Effect.fnUntraced(function*(file) {
      yield* killAll
      for (const plan of plans) {
        yield* Effect.promise(() => rm(plan.dataFolder, { recursive: true, force: true }))
        // What a cluster is made of, without what a running member listens on.
        const wanted = ["--name", "--data-dir", "--initial-advertise-peer-urls", "--initial-cluster"]
        const again = plan.arguments.flatMap((argument, index) =>
          [...wanted, "--initial-cluster-token"].includes(argument) ? [argument, plan.arguments[index + 1] ?? ""] : []
        )
        yield* Effect.sync(() =>
          execFileSync("etcdctl", ["snapshot", "restore", file, ...again], {
            env: { PATH: process.env["PATH"], ETCDCTL_API: "3" },
            stdio: "ignore"
          })
        )
      }
      yield* startAll
    }),
    compact: Effect.gen(function*() {
      const status = yield* etcdctl("--write-out", "json", "endpoint", "status")
      const revision = Math.max(...[...status.matchAll(/"revision":(\d+)/g)].map(([, text]) => Number(text)))
      yield* etcdctl("compact", String(revision))
    })
  }
})

/**
 * From now on only users get in: `root`, and `node`, whose role may read and write a namespace and nothing else. Gives
 * how the role loses that permission and how it gets it back.
 */
export const guard = Effect.fnUntraced(function*({ etcdctl, login }: Cluster, namespace: string) {
  const allow = ["role", "grant-permission", "files", "--prefix=true", "readwrite", `/${namespace}/`]
  for (
    const command of [
      ["user", "add", "root:secret"],
      ["role", "add", "root"],
      ["user", "grant-role", "root", "root"],
      ["role", "add", "files"],
      allow,
      ["user", "add", "node:password"],
      ["user", "grant-role", "node", "files"],
      ["auth", "enable"]
    ]
  ) yield* etcdctl(...command)
  yield* login("root:secret")
  return {
    user: { name: "node", password: Redacted.make("password") },
    revoke: etcdctl("role", "revoke-permission", "files", "--prefix=true", `/${namespace}/`),
    grant: etcdctl(...allow)
  }
})

/** PEM files of an identity. */
export const keepIdentity = Effect.fnUntraced(function*(identity: TlsIdentity) {
  const folder = yield* temporaryFolder
  const file = (name: string, text: string) =>
    Effect.as(Effect.promise(() => writeFile(join(folder, name), text, { mode: 0o600 })), join(folder, name))
  return {
    cert: yield* file("cert.pem", identity.certificate),
    key: yield* file("key.pem", Redacted.value(identity.key)),
    ca: yield* file("ca.pem", identity.authority)
  }
})

/** Chance that always falls on the `index`th of three. */
const chance = (index: number) => ({ nextDoubleUnsafe: () => index / 3, nextIntUnsafe: () => index })

/** A client of a cluster without TLS, which begins at the first of its members unless told. */
export const clientOf = (cluster: Cluster, options: Partial<EtcdClient.Options> = {}, first = 0) =>
  Effect.provideService(EtcdClient.make({ endpoints: cluster.endpoints, ...options }), Random.Random, chance(first))
