/**
 * A manifest on three members of etcd, with many files: 100,000 registrations and 15,000 deletions while one follower
 * is away half of the time and the leader is killed in between; then a walk over 200,000 files. Ends with 1 when a
 * follower holds anything else than the manifest. Prints what it measures.
 *
 *     npm run soak:etcd                   FILES=100000 DELETES=15000 WALK=200000 are its settings
 */
import { Clock, Console, Deferred, Effect, Fiber, Option, Schema, Stream } from "effect"
import { EtcdError } from "../../src/etcd/EtcdError.ts"
import type { FilePath } from "../../src/ports/FilePath.ts"
import type { Cursor, Manifest } from "../../src/ports/Manifest.ts"
import { openManifest } from "../manifest/etcd.ts"
import { entryOf, pathOf } from "../support/entries.ts"
import { hasEtcd, missing, startCluster } from "../support/etcd.ts"

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

const pathAt = (n: number) => `db/m${n % 7}/2026/04/${String(n % 28).padStart(2, "0")}/${n}.parquet`
const batchAt = (from: number, count: number) =>
  Array.from({ length: Math.max(0, count) }, (_, n) => entryOf(pathAt(from + n)))

/** What somebody holds who takes every event: paths with their revisions. Fails on an event that comes twice or late. */
const makeFollower = (manifest: Manifest["Service"], start: Cursor) => {
  const state = new Map<string, number>()
  let cursor = start
  let events = 0
  let lastSeen = 0
  let longestGap = 0
  const follow = Effect.suspend(() =>
    manifest.events(cursor).pipe(
      Stream.runForEach(Effect.fnUntraced(function*(next) {
        const now = yield* Clock.currentTimeMillis
        if (lastSeen !== 0) longestGap = Math.max(longestGap, now - lastSeen)
        lastSeen = now
        if (next.cursor.revision <= cursor.revision) return yield* new SoakFailed({ detail: "a batch came twice" })
        for (const event of next.events) {
          if (event._tag === "Put") {
            if (event.file.revision <= cursor.revision) return yield* new SoakFailed({ detail: "an event came twice" })
            state.set(event.file.entry.path, event.file.revision)
          } else state.delete(event.path)
          events++
        }
        cursor = next.cursor
      }))
    )
  )
  return {
    follow,
    state,
    at: () => cursor,
    events: () => events,
    gap: () => longestGap,
    forgetGap: () => {
      longestGap = 0
      lastSeen = 0
    }
  }
}

const untilAt = (follower: ReturnType<typeof makeFollower>, revision: number) =>
  Effect.repeat(Effect.sleep("20 millis"), { until: () => follower.at().revision >= revision })

const seconds = (millis: number) => (millis / 1000).toFixed(1)

const timed = Effect.fnUntraced(function*<A, E, R>(body: Effect.Effect<A, E, R>) {
  const began = yield* Clock.currentTimeMillis
  const value = yield* body
  return { value, millis: (yield* Clock.currentTimeMillis) - began }
})

const walk = Effect.fnUntraced(function*(manifest: Manifest["Service"], pageSize: number, keep: boolean) {
  let count = 0
  let most = 0
  const state = new Map<string, number>()
  for (let after = Option.none<FilePath>();;) {
    const page = yield* manifest.page(after, pageSize)
    count += page.files.length
    if (keep) { for (const { entry, revision } of page.files) state.set(entry.path, revision) }
    most = Math.max(most, process.memoryUsage.rss())
    if (Option.isNone(page.next)) return { count, most, state }
    after = page.next
  }
})

const soak = Effect.gen(function*() {
  if (!hasEtcd) return yield* new SoakFailed({ detail: missing("the soak of a manifest on etcd") })
  const cluster = yield* startCluster({ members: 3 })
  const open = Effect.map(openManifest({ endpoints: cluster.endpoints }), ({ manifest }) => manifest)
  const manifest = yield* open
  const start = yield* manifest.head
  const steady = makeFollower(yield* open, start)
  const away = makeFollower(yield* open, start)
  yield* Effect.forkChild(steady.follow)

  // Here for a second, away for a second.
  const over = yield* Deferred.make<void>()
  const flapping = yield* Effect.forkChild(Effect.gen(function*() {
    while (!(yield* Deferred.isDone(over))) {
      yield* Effect.timeoutOption(away.follow, "1 second")
      yield* Effect.sleep("1 second")
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
  yield* Effect.forkChild(away.follow)
  const { revision } = yield* manifest.head
  yield* untilAt(steady, revision)
  yield* untilAt(away, revision)
  const truth = yield* walk(manifest, 5000, true)
  for (const [name, follower] of [["the steady follower", steady], ["the one that was away", away]] as const) {
    const same = follower.state.size === truth.state.size
      && [...truth.state].every(([path, revision]) => follower.state.get(path) === revision)
    yield* Console.log(
      `${name}: ${follower.events()} events, ${follower.state.size} files, ${same ? "equal" : "NOT EQUAL"}`
    )
    if (!same) return yield* new SoakFailed({ detail: `${name} holds something else than the manifest` })
  }

  // A leader's kill under a steady load of single registrations.
  for (let round = 0; round < 3; round++) {
    const stop = yield* Deferred.make<void>()
    let acknowledged = 0
    const writing = yield* Effect.forEach(
      [0, 1, 2, 3],
      Effect.fnUntraced(function*(writer) {
        const own = yield* open
        for (let n = 0; !(yield* Deferred.isDone(stop)); n++) {
          yield* Effect.retry(own.register(entryOf(`kill/${round}/${writer}/${n}`)), {
            while: (error) => error._tag === "Unavailable"
          })
          acknowledged++
        }
      }),
      { concurrency: "unbounded", discard: true }
    ).pipe(Effect.forkChild)
    const before = steady.state.size
    yield* Effect.sleep("1 second")
    steady.forgetGap()
    const leader = yield* cluster.leader
    yield* leader.kill
    yield* Effect.sleep("5 seconds")
    yield* Deferred.succeed(stop, undefined)
    yield* Fiber.join(writing)
    yield* untilAt(steady, (yield* manifest.head).revision)
    yield* Console.log(
      `leader killed: longest gap in events ${steady.gap()} ms, ${acknowledged} acknowledged, `
        + `${steady.state.size - before} events`
    )
    if (steady.state.size - before !== acknowledged) return yield* new SoakFailed({ detail: "registrations were lost" })
    yield* leader.start
  }

  const singles = yield* timed(Effect.forEach(batchAt(10_000_000, 1000), manifest.register, { discard: true }))
  yield* Console.log(`1000 single registrations one after another: ${Math.round(1e6 / singles.millis)}/s`)
  const crowd = yield* timed(
    Effect.forEach(batchAt(11_000_000, 5000), manifest.register, { discard: true, concurrency: "unbounded" })
  )
  yield* Console.log(`5000 single registrations at once: ${Math.round(5e6 / crowd.millis)}/s`)

  const standing = truth.count
  for (let n = standing; n < walked; n += 5000) yield* manifest.registerTogether(batchAt(20_000_000 + n, 5000))
  for (const pageSize of [500, 5000]) {
    const before = process.memoryUsage.rss()
    const { millis, value } = yield* timed(walk(manifest, pageSize, false))
    yield* Console.log(
      `${value.count} files walked by pages of ${pageSize}: ${seconds(millis)} s, `
        + `memory at most ${Math.round((value.most - before) / 1e6)} MB above before`
    )
  }
}).pipe(
  Effect.scoped,
  Effect.tapError((error) =>
    Console.error(error instanceof EtcdError || error instanceof SoakFailed ? error.message : String(error))
  )
)

Effect.runPromise(soak).then(() => process.exit(0), () => process.exit(1))
