/**
 * A manifest on three members of etcd, with many files: 100,000 registrations and 15,000 deletions while two nodes
 * follow, processes of which one is away half of the time, killed again and again; then leaders that are killed and
 * frozen under a steady load; then a walk over 200,000 files. Prints what it measures, and ends with 1 when somebody
 * holds anything else than the manifest, an event comes twice or out of order, an acknowledged registration is lost,
 * events pause for 3 s or more when a leader is killed, or the walk's memory grows with the manifest.
 *
 *     npm run soak:etcd                   FILES=100000 DELETES=15000 WALK=200000 are its settings
 */
import { Clock, Console, Context, Deferred, Effect, Fiber, Layer, Option, Schema, type Scope, Stream } from "effect"
import { join } from "node:path"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { EtcdError } from "../../src/etcd/EtcdError.ts"
import * as InventorySqlite from "../../src/inventory/InventorySqlite.ts"
import type { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import type { Cursor, CursorLost, Manifest, Unavailable } from "../../src/ports/Manifest.ts"
import { configure } from "../cluster/configure.ts"
import { pause, startNode, untilStatus } from "../cluster/etcdNodes.ts"
import { openManifest } from "../manifest/etcd.ts"
import { entryOf, pathOf } from "../support/entries.ts"
import { hasEtcd, missing, startCluster, type TestMember } from "../support/etcd.ts"
import { temporaryFolder } from "../support/folder.ts"

class SoakFailed extends Schema.TaggedError<SoakFailed>()("SoakFailed", { detail: Schema.String }) {
  override get message(): string {
    return this.detail
  }
}

const setting = (name: string, fallback: number) => Number(process.env[name] ?? fallback)
const files = setting("FILES", 100_000)
const deletes = setting("DELETES", 15_000)
const walked = setting("WALK", 200_000)
const batch = 500

/** The longest pause in events when a leader is killed, and when one is frozen, milliseconds. */
const killedLimit = 3000
const frozenLimit = 10_000

/** What a walk may keep in memory, whatever the manifest's size, bytes: a few pages of 5000 entries. */
const walkLimit = 30e6

setFlagsFromString("--expose-gc")
const collectGarbage = runInNewContext("gc")

/** Bytes that are in use, not those that only wait for their collection. */
const inUse = (): number => {
  collectGarbage()
  const { external, heapUsed } = process.memoryUsage()
  return heapUsed + external
}

const pathAt = (n: number) => `db/m${n % 7}/2026/04/${String(n % 28).padStart(2, "0")}/${n}.parquet`
const batchAt = (from: number, count: number) =>
  Array.from({ length: Math.max(0, count) }, (_, n) => entryOf(pathAt(from + n)))

const timely = (what: string, minutes: number) => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.timeoutOrElse(effect, {
    duration: `${minutes} minutes`,
    orElse: () => Effect.fail(new SoakFailed({ detail: `${what} did not end within ${minutes} minutes` }))
  })

/** Takes every event in this process. Fails on one that comes twice or late, and so does whoever waits for it. */
const startFollower = Effect.fnUntraced(function*(manifest: Manifest["Service"], start: Cursor) {
  const state = new Map<string, number>()
  let cursor = start
  let lastSeen = 0
  let longestGap = 0
  const following: Fiber.Fiber<void, CursorLost | SoakFailed | Unavailable> = yield* manifest.events(start).pipe(
    Stream.runForEach(Effect.fnUntraced(function*(next) {
      const now = yield* Clock.currentTimeMillis
      if (lastSeen !== 0) longestGap = Math.max(longestGap, now - lastSeen)
      lastSeen = now
      if (next.cursor.revision <= cursor.revision) return yield* new SoakFailed({ detail: "a batch came twice" })
      for (const event of next.events) {
        const revision = event._tag === "Put" ? event.file.revision : event.revision
        if (revision <= cursor.revision) return yield* new SoakFailed({ detail: "an event came twice" })
        if (event._tag === "Put") state.set(event.file.entry.path, revision)
        else state.delete(event.path)
      }
      cursor = next.cursor
    })),
    Effect.forkScoped
  )
  return {
    state,
    untilAt: (revision: number) =>
      Effect.repeat(Effect.sleep("20 millis"), { until: () => cursor.revision >= revision }).pipe(
        Effect.raceFirst(
          Effect.andThen(Fiber.join(following), new SoakFailed({ detail: "the stream of events has ended" }))
        ),
        timely("the follower", 3)
      ),
    gap: () => longestGap,
    forgetGap: () => {
      longestGap = 0
      lastSeen = 0
    }
  }
})

/** A node of its own process that follows and pulls nothing: there are no bytes behind these entries. */
const startPaused = Effect.fnUntraced(function*(name: string, config: string) {
  const node = yield* startNode(name, config)
  yield* pause(node)
  return node
})

/** What a node that has ended owes: all that its manifest lists, when it took every event. */
const owedBy = (folder: string, name: string) =>
  Effect.gen(function*() {
    const path = join(folder, name, "data", ".replication", "inventory.db")
    const inventory = Context.get(yield* Layer.build(InventorySqlite.layer({ path })), Inventory)
    const owed = new Map<string, number>()
    for (let after = Option.none<FilePath>();;) {
      const briefs = yield* inventory.briefs(after, 5000)
      for (const { path, revision, state } of briefs) if (state === "Owed") owed.set(path, revision)
      const last = briefs.at(-1)
      if (last === undefined) return owed
      after = Option.some(last.path)
    }
  }).pipe(Effect.scoped)

const same = (a: ReadonlyMap<string, number>, b: ReadonlyMap<string, number>): boolean =>
  a.size === b.size && [...a].every(([path, revision]) => b.get(path) === revision)

const seconds = (millis: number) => (millis / 1000).toFixed(1)

const timed = Effect.fnUntraced(function*<A, E, R>(body: Effect.Effect<A, E, R>) {
  const began = yield* Clock.currentTimeMillis
  const value = yield* body
  return { value, millis: (yield* Clock.currentTimeMillis) - began }
})

const walk = Effect.fnUntraced(function*(manifest: Manifest["Service"], pageSize: number, keep: boolean) {
  let count = 0
  let most = 0
  let looked = 0
  const state = new Map<string, number>()
  for (let after = Option.none<FilePath>();;) {
    const page = yield* manifest.page(after, pageSize)
    count += page.files.length
    if (keep) { for (const { entry, revision } of page.files) state.set(entry.path, revision) }
    if (!keep && count >= looked + 5000) {
      most = Math.max(most, inUse())
      looked = count
    }
    if (Option.isNone(page.next)) return { count, most, state }
    after = page.next
  }
})

const soak = Effect.gen(function*() {
  if (!hasEtcd) return yield* new SoakFailed({ detail: missing("the soak of a manifest on etcd") })
  const cluster = yield* startCluster({ members: 3 })
  const folder = yield* temporaryFolder
  const open = Effect.map(openManifest({ endpoints: cluster.endpoints }, "arc-cluster"), ({ manifest }) => manifest)
  const manifest = yield* open
  const follower = yield* startFollower(yield* open, yield* manifest.head)
  const more = `manifest = "etcd"\netcd_endpoints = ${JSON.stringify(cluster.endpoints)}`
  const steadyConfig = yield* configure(folder, "steady", more)
  const awayConfig = yield* configure(folder, "away", more)
  const steady = yield* startPaused("steady", steadyConfig)

  // Here for some seconds, killed, and away for as long.
  const over = yield* Deferred.make<void>()
  let lives = 0
  const flapping = yield* Effect.forkChild(Effect.gen(function*() {
    while (!(yield* Deferred.isDone(over))) {
      yield* Effect.scoped(Effect.andThen(startPaused("away", awayConfig), Effect.sleep("4 seconds")))
      lives++
      yield* Effect.sleep("4 seconds")
    }
  }))

  const load = yield* timed(Effect.gen(function*() {
    let removed = 0
    for (let n = 0; n < files; n += batch) {
      yield* manifest.registerAll(batchAt(n, Math.min(batch, files - n)))
      const due = Math.floor(((n + batch) / files) * deletes)
      const gone = Array.from(
        { length: due - removed },
        (_, i) => ({ path: pathOf(pathAt((removed + i) * 5)), reason: "merged" })
      )
      for (let at = 0; at < gone.length; at += 100) {
        yield* manifest.replace({ add: [], remove: gone.slice(at, at + 100) })
      }
      removed = due
    }
  }))
  yield* Console.log(
    `${files} registrations and ${deletes} deletions: ${seconds(load.millis)} s, `
      + `${Math.round((files + deletes) / load.millis * 1000)} changes/s`
  )
  yield* Deferred.succeed(over, undefined)
  yield* Fiber.join(flapping)
  const away = yield* startPaused("away", awayConfig)
  const { revision } = yield* manifest.head
  yield* follower.untilAt(revision)
  const truth = yield* walk(manifest, 5000, true)
  if (!same(follower.state, truth.state)) {
    return yield* new SoakFailed({ detail: "the events say something else than the manifest" })
  }
  for (const node of [steady, away]) {
    yield* untilStatus(
      node,
      ({ catchUp, cursor }) => !catchUp.running && Option.exists(cursor, (at) => at.revision >= revision)
    ).pipe(timely(node.name, 5))
    node.process.child.kill("SIGTERM")
    yield* timely(`the end of ${node.name}`, 1)(node.process.exit)
    const owed = yield* owedBy(folder, node.name)
    const equal = same(owed, truth.state)
    const killed = node === away ? `, killed ${lives} times` : ""
    yield* Console.log(`the node ${node.name}${killed}: ${owed.size} files, ${equal ? "equal" : "NOT EQUAL"}`)
    if (!equal) return yield* new SoakFailed({ detail: `${node.name} holds something else than the manifest` })
  }

  /** Trouble with the leader under a steady load of single registrations. */
  const trouble = Effect.fnUntraced(function*(
    name: string,
    limit: number,
    body: (leader: TestMember) => Effect.Effect<Effect.Effect<void>>
  ): Effect.fn.Return<void, SoakFailed | CursorLost | Unavailable, Scope.Scope> {
    const stop = yield* Deferred.make<void>()
    let acknowledged = 0
    const writing = yield* Effect.forEach(
      [0, 1, 2, 3],
      Effect.fnUntraced(function*(writer) {
        const own = yield* open
        for (let n = 0; !(yield* Deferred.isDone(stop)); n++) {
          yield* own.register(entryOf(`${name}/${writer}/${n}`)).pipe(
            Effect.retry({ while: ({ _tag }) => _tag === "Unavailable" }),
            Effect.mapError(({ message }) => new SoakFailed({ detail: message }))
          )
          acknowledged++
        }
      }),
      { concurrency: "unbounded", discard: true }
    ).pipe(Effect.forkChild)
    const before = follower.state.size
    yield* Effect.sleep("1 second")
    follower.forgetGap()
    const restore = yield* body(yield* cluster.leader)
    yield* Effect.sleep(limit === frozenLimit ? "12 seconds" : "5 seconds")
    yield* Deferred.succeed(stop, undefined)
    yield* timely("the writers", 2)(Fiber.join(writing))
    yield* follower.untilAt((yield* manifest.head).revision)
    const seen = follower.state.size - before
    yield* Console.log(
      `${name}: longest gap in events ${follower.gap()} ms, ${acknowledged} acknowledged, ${seen} events`
    )
    if (seen !== acknowledged) return yield* new SoakFailed({ detail: `${name}: registrations were lost` })
    if (follower.gap() >= limit) {
      return yield* new SoakFailed({ detail: `${name}: no event for ${follower.gap()} ms; ${limit} are allowed` })
    }
    yield* restore
  })
  for (const round of [1, 2, 3]) {
    yield* trouble(`leader killed ${round}`, killedLimit, (leader) => Effect.as(leader.kill, leader.start))
  }
  yield* trouble("leader frozen", frozenLimit, (leader) => Effect.as(leader.freeze, leader.thaw))

  const singles = yield* timed(Effect.forEach(batchAt(10_000_000, 1000), manifest.register, { discard: true }))
  yield* Console.log(`1000 single registrations one after another: ${Math.round(1e6 / singles.millis)}/s`)
  const crowd = yield* timed(
    Effect.forEach(batchAt(11_000_000, 5000), manifest.register, { discard: true, concurrency: "unbounded" })
  )
  yield* Console.log(`5000 single registrations at once: ${Math.round(5e6 / crowd.millis)}/s`)

  const standing = truth.count
  for (let n = standing; n < walked; n += 5000) yield* manifest.registerTogether(batchAt(20_000_000 + n, 5000))
  for (const pageSize of [500, 5000]) {
    const before = inUse()
    const { millis, value } = yield* timed(walk(manifest, pageSize, false))
    yield* Console.log(
      `${value.count} files walked by pages of ${pageSize}: ${seconds(millis)} s, `
        + `memory at most ${Math.round((value.most - before) / 1e6)} MB above before`
    )
    if (value.most - before > walkLimit) {
      return yield* new SoakFailed({ detail: `the walk took more than ${walkLimit / 1e6} MB` })
    }
  }
}).pipe(
  Effect.scoped,
  Effect.tapError((error) =>
    Console.error(error instanceof EtcdError || error instanceof SoakFailed ? error.message : String(error))
  )
)

Effect.runPromise(soak).then(() => process.exit(0), () => process.exit(1))
