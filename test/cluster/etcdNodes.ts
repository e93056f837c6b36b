/** Nodes as processes on one etcd, a load that never rests, and what must hold when a trouble is over. */
import { Effect, Option, Schedule, Schema, type Scope, Semaphore } from "effect"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { assert } from "vitest"
import { Registration } from "../../src/http/answers.ts"
import { Files } from "../../src/replication/FileList.ts"
import { Status } from "../../src/replication/Status.ts"
import { lineOf, type Running, start } from "./command.ts"

export interface EtcdNode {
  readonly name: string
  readonly url: string
  readonly process: Running
}

/** Starts a node; waits until it serves HTTP, ready or not. */
export const startNode = Effect.fnUntraced(function*(
  name: string,
  config: string
): Effect.fn.Return<EtcdNode, never, Scope.Scope> {
  const process = yield* start(["node", "--config", config])
  const line = yield* lineOf(process, /it serves http/)
  return { name, process, url: /(http:\S+)\/health/.exec(line)?.[1] ?? "" }
})

const ask = (url: string, request: RequestInit = {}) =>
  Effect.tryPromise(async (signal) => {
    const timely = AbortSignal.any([signal, AbortSignal.timeout(20_000)])
    const response = await fetch(url, { ...request, signal: timely })
    return { code: response.status, body: await response.text() }
  })

const decodeStatus = Schema.decodeUnknownEffect(Schema.fromJsonString(Status))
const decodeFiles = Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.toCodecJson(Files)))
const decodeRegistration = Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.toCodecJson(Registration)))

/** Where a node stands, ready or not. */
export const statusOf = ({ url }: EtcdNode) => Effect.flatMap(ask(`${url}/ready`), ({ body }) => decodeStatus(body))

/** The node begins no more pulls. */
export const pause = ({ url }: EtcdNode) =>
  Effect.asVoid(Effect.orDie(ask(`${url}/api/v1/cluster/pause`, { method: "POST" })))

const often = Schedule.spaced("100 millis")

/** Waits until a node's status is as it should be, and gives it. */
export const untilStatus = (node: EtcdNode, is: (status: Status) => boolean): Effect.Effect<Status> =>
  statusOf(node).pipe(
    Effect.retry(often),
    Effect.repeat({ until: is, schedule: often }),
    Effect.orDie
  )

/** The manifest as a node reads it: each path with its revision and what of it is here. */
const listOf = Effect.fnUntraced(function*({ url }: EtcdNode) {
  const all = new Map<string, { readonly revision: number; readonly state: string }>()
  for (let cursor = "";;) {
    const { body } = yield* ask(
      `${url}/api/v1/cluster/files?limit=1000${cursor === "" ? "" : `&cursor=${encodeURIComponent(cursor)}`}`
    )
    const { files, next } = yield* decodeFiles(body)
    for (const { entry, local, revision } of files) all.set(entry.path, { revision, state: local.state })
    if (next === null) return all
    cursor = next
  }
})

/** Publishes file after file on each node, whatever happens to it; a file that is refused is sent again. */
export const startLoad = Effect.fnUntraced(function*(folder: string, nodes: () => ReadonlyArray<EtcdNode>) {
  const count = nodes().length
  const turn = yield* Semaphore.make(count)
  const acknowledged = new Map<string, number>()
  let sent = 0

  const publish = Effect.fnUntraced(function*(node: EtcdNode, path: string) {
    const { body, code } = yield* ask(`${node.url}/api/v1/files/${path}`, { method: "PUT", body: `bytes of ${path}` })
    if (code !== 200 && code !== 201) return false
    acknowledged.set(path, (yield* decodeRegistration(body)).revision)
    return true
  })

  yield* Effect.forkScoped(Effect.forEach(
    nodes(),
    (_, index) =>
      Effect.forever(Effect.suspend(() => {
        const path = `load/${index}/${sent++}`
        const once = Effect.suspend(() => {
          const node = nodes()[index]
          return node === undefined ? Effect.succeed(false) : publish(node, path)
        })
        return turn.withPermit(
          Effect.repeat(Effect.orElseSucceed(once, () => false), { until: (done) => done, schedule: often })
        ).pipe(Effect.andThen(Effect.sleep("150 millis")))
      })),
    { concurrency: "unbounded", discard: true }
  ))

  /** Each holds all that was acknowledged, verified, byte by byte; and all say the same of every file. */
  const agree = Effect.gen(function*() {
    const newest = Math.max(0, ...acknowledged.values())
    for (const node of nodes()) {
      yield* untilStatus(
        node,
        ({ cursor, ready, verifiedThrough }) =>
          ready && verifiedThrough >= newest && Option.exists(cursor, ({ revision }) => revision >= newest)
      )
    }
    const [first, ...others] = yield* Effect.forEach(
      nodes(),
      (node) =>
        Effect.repeat(Effect.retry(listOf(node), often), {
          until: (all) => [...all.values()].every(({ state }) => state === "verified"),
          schedule: often
        })
    )
    assert(first !== undefined)
    for (const other of others) assert.deepStrictEqual(other, first)
    for (const [path, revision] of acknowledged) {
      assert.strictEqual(first.get(path)?.revision, revision, path)
      for (const { name } of nodes()) {
        assert.strictEqual(readFileSync(join(folder, name, "data", path), "utf8"), `bytes of ${path}`)
      }
    }
    return first
  })

  return {
    acknowledged,
    /** Waits for so many more acknowledgements. */
    more: (count: number) =>
      Effect.suspend(() => {
        const before = acknowledged.size
        return Effect.repeat(Effect.sleep("20 millis"), { until: () => acknowledged.size >= before + count })
      }),
    settled: turn.withPermits(count)(agree),
    /** Behind that, before anything new is written. */
    whenSettled: <A, E, R>(effect: Effect.Effect<A, E, R>) => turn.withPermits(count)(Effect.andThen(agree, effect))
  }
})
