/** Two hosts with a network between them that is cut, and joined again. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Option, Schedule, Schema, type Scope } from "effect"
import { spawn } from "node:child_process"
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { encodeCommand } from "../../src/cli/Supervision.ts"
import { Status } from "../../src/replication/Status.ts"
import { lineOf, run, start } from "../cluster/command.ts"
import { configure } from "../cluster/configure.ts"
import { hasEtcd, missing } from "../support/etcd.ts"
import { temporaryFolder } from "../support/folder.ts"
import { type Host, startHosts, whyNoHosts } from "../support/hosts.ts"
import { bytesOf } from "./behaviours.ts"

/** One member of etcd on a host. */
const startEtcd = (host: Host, folder: string): Effect.Effect<string, never, Scope.Scope> =>
  Effect.gen(function*() {
    const url = `http://${host.address}:2379`
    const serves = yield* Deferred.make<void>()
    const ended = yield* Deferred.make<void>()
    const flags = ["--data-dir", join(folder, "etcd"), "--listen-client-urls", url, "--advertise-client-urls", url]
    const [program = "", ...args] = host.there(["etcd", ...flags])
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn(program, args, { env: { PATH: process.env["PATH"] }, stdio: ["ignore", "ignore", "pipe"] })
      ),
      (child) =>
        Effect.suspend(() => {
          child.kill("SIGKILL")
          return Deferred.await(ended)
        })
    )
    child.stderr.on("data", (chunk: Buffer) => {
      if (chunk.includes("ready to serve client requests")) Deferred.doneUnsafe(serves, Effect.void)
    })
    child.on("close", () => Deferred.doneUnsafe(ended, Effect.void))
    yield* Effect.raceFirst(
      Deferred.await(serves),
      Effect.andThen(Deferred.await(ended), Effect.die(new Error("etcd has ended")))
    )
    return url
  })

const decodeStatus = Schema.decodeUnknownEffect(Schema.fromJsonString(Status))

const startNode = Effect.fnUntraced(function*(host: Host, folder: string, name: string, more: string) {
  const config = yield* configure(folder, name, more)
  const address = { ARC_CLUSTER_COORDINATOR_ADDR: `${host.address}:9100` }
  const node = yield* start(["node", "--supervised", "--config", config], address, undefined, host.there)
  const url = /(http:\S+)\/health/.exec(yield* lineOf(node, /it serves http/))?.[1] ?? ""
  let id = 0
  return {
    url,
    /** Waits until the node's status is as it should be, and gives it. */
    until: (is: (status: Status) => boolean) =>
      Effect.flatMap(host.ask(`${url}/ready`), decodeStatus).pipe(
        Effect.repeat({ until: is, schedule: Schedule.spaced("100 millis") })
      ),
    /** Gives the files in its data folder, each with its bytes. */
    shows: () =>
      readdirSync(join(folder, name, "data"), { recursive: true, withFileTypes: true })
        .filter((file) => file.isFile() && !file.parentPath.includes(".replication"))
        .map((file) => [file.name, readFileSync(join(file.parentPath, file.name))] as const)
        .sort(([a], [b]) => a < b ? -1 : 1),
    /** Begins to publish; gives what waits until that is done. */
    publish: (as: string, content: Uint8Array) =>
      Effect.sync(() => {
        const file = join(folder, `${as}.source`)
        writeFileSync(file, content)
        node.child.stdin?.write(`${encodeCommand({ _tag: "Publish", id: ++id, file, as: `db/${as}` })}\n`)
        return lineOf(node, new RegExp(`"_tag":"(Done|Failed)","id":${id}\\b`))
      })
  }
})

const what = "two hosts that are cut apart say what is missing, and once they are joined again both hold everything"
const whyNot = whyNoHosts()

if (!hasEtcd) it(what, () => assert.fail(missing("hosts that are cut apart")))
else if (whyNot !== undefined) {
  process.stderr.write(`not tested here, for there can be no network namespaces (${whyNot}): ${what}\n`)
  it.skip(`${what} (${whyNot})`, () => undefined)
} else {
  it.live(
    what,
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const { cut, join, left: here, right: there } = yield* startHosts
        const etcd = yield* startEtcd(here, folder)
        const more = `manifest = "etcd"
etcd_endpoints = ["${etcd}"]
replication_fetch_timeout_ms = 1000
replication_max_serve_bytes_per_second = 65536`
        const left = yield* startNode(here, folder, "left", more)
        const right = yield* startNode(there, folder, "right", more)
        yield* yield* left.publish("before", bytesOf(1, 1000))
        yield* right.until(({ ready, verified }) => ready && verified.files === 1)

        // Some seconds' worth of bytes, of which the first are there.
        yield* yield* left.publish("underway", bytesOf(2, 256 * 1024))
        yield* right.until(({ inFlight }) => inFlight === 1)
        yield* cut
        yield* yield* left.publish("left", bytesOf(3, 1000))
        const written = yield* Effect.forkChild(yield* right.publish("right", bytesOf(4, 1000)))
        const { reason } = yield* right.until(({ failed, manifestTrouble, ready }) =>
          !ready && failed === 1 && Option.isSome(manifestTrouble)
        )
        assert.match(reason, /^1 file is owed, 262144 bytes/)
        const alone = yield* left.until(({ verified }) => verified.files === 3)
        assert.deepStrictEqual([alone.ready, Option.isNone(alone.manifestTrouble)], [true, true])
        const why = yield* run(["why", "db/underway", "--url", right.url], {}, undefined, there.there)
        assert.match(why.stdout, /left +(Stalled|PeerUnreachable)/)
        assert.isUndefined(written.pollUnsafe())

        yield* join
        for (const node of [left, right]) {
          yield* node.until(({ manifestTrouble, ready, verified }) =>
            ready && verified.files === 4 && Option.isNone(manifestTrouble)
          )
        }
        assert.deepStrictEqual(left.shows().map(([name]) => name), ["before", "left", "right", "underway"])
        assert.deepStrictEqual(right.shows(), left.shows())
      }),
    // Connections that a cut has broken, and what rests, are tried again after longer and longer.
    300_000
  )
}
