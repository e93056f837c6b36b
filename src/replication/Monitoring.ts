/**
 * Keeps the gauges of `telemetry/Metrics` true: what is computed from the state of this node, not counted as it
 * happens. They are read when somebody asks for the metrics, and every few seconds for whoever is sent them.
 *
 * Nothing here waits for the manifest: one that does not answer shows in the gauges, and holds up none of them.
 */
import { Clock, Context, Duration, Effect, Layer, Option } from "effect"
import { monitorEventLoopDelay } from "node:perf_hooks"
import { Inventory } from "../ports/Inventory.ts"
import { Membership } from "../ports/Membership.ts"
import * as Metrics from "../telemetry/Metrics.ts"
import { Background } from "./Background.ts"
import { Contact, gapBehind } from "./Contact.ts"
import { Drain } from "./Drain.ts"
import { Puller } from "./Puller.ts"
import { Readiness } from "./Readiness.ts"
import { Room } from "./Room.ts"
import { lastCompleted } from "./Scrub.ts"

export class Monitoring extends Context.Service<Monitoring, {
  /** Every metric as it is now, in the text format of Prometheus. */
  readonly render: Effect.Effect<string>
}>()("file-replication/Monitoring") {}

export interface MonitoringOptions {
  readonly version: string
  /** Within how long every byte is to be hashed again, milliseconds; 0: only on demand. */
  readonly scrubIntervalMillis: number
}

/** Between two readings of all gauges that nobody asked for. */
const interval = Duration.seconds(5)

/** An inventory, disk or list of members that does not answer in this time keeps its gauges as they were. */
const patience = Duration.seconds(2)

/** How exactly delays of the event loop are measured, milliseconds; a delay below is none. */
const resolution = 10

export const layer = (
  options: MonitoringOptions
): Layer.Layer<
  Monitoring,
  never,
  Background | Contact | Drain | Inventory | Membership | Puller | Readiness | Room
> =>
  Layer.effect(
    Monitoring,
    Effect.gen(function*() {
      const room = yield* Room
      const drain = yield* Drain
      const inventory = yield* Inventory
      const contact = yield* Contact
      const membership = yield* Membership
      const background = yield* Background
      const puller = yield* Puller
      const readiness = yield* Readiness

      const { id: node, role } = membership.self
      yield* Metrics.seed({ version: options.version, node, role })
      yield* Metrics.set("scrubInterval", options.scrubIntervalMillis / 1000)
      const began = yield* Clock.currentTimeMillis
      yield* Metrics.set("started", began / 1000 - process.uptime())

      const status = Effect.gen(function*() {
        const status = yield* readiness.status
        const now = yield* Clock.currentTimeMillis
        const { cursor } = status
        const known = yield* contact.state
        yield* Metrics.set("ready", status.ready ? 1 : 0)
        yield* Metrics.set("owedFiles", status.owed.files)
        yield* Metrics.set("owedBytes", status.owed.bytes)
        const oldest = Option.match(status.oldestOwed, { onNone: () => 0, onSome: (since) => now - since })
        yield* Metrics.set("oldestOwed", Math.max(0, oldest) / 1000)
        yield* Metrics.set("failedFiles", status.failed)
        yield* Metrics.set("verifiedFiles", status.verified.files)
        yield* Metrics.set("verifiedBytes", status.verified.bytes)
        yield* Metrics.set("unlinkingFiles", status.unlinking)
        yield* Metrics.set("verifiedRevision", status.verifiedThrough)
        const gap = Option.match(gapBehind(known.gap, cursor), { onNone: () => 0, onSome: ({ since }) => now - since })
        yield* Metrics.set("gapSeconds", gap / 1000)
        const at = Option.match(cursor, { onNone: () => 0, onSome: ({ revision }) => revision })
        // An answer is older than what has been taken since.
        const head = Option.match(known.head, { onNone: () => at, onSome: ({ revision }) => Math.max(revision, at) })
        yield* Metrics.set("cursorRevision", at)
        yield* Metrics.set("headRevision", head)
        yield* Metrics.set("gap", head - at)
        yield* Metrics.set("walking", status.catchUp.running ? 1 : 0)
        yield* Metrics.set("orphans", status.catchUp.orphans)
      }).pipe(
        // What can't be known is not ready.
        Effect.catchTag("InventoryError", () => Metrics.set("ready", 0))
      )

      const disk = Effect.flatMap(room.free, (bytes) => Metrics.set("diskFree", bytes))

      const members = Effect.gen(function*() {
        const all = yield* membership.members
        yield* Metrics.set("members", all.length)
        yield* Metrics.set("membersAlive", all.filter(({ alive }) => alive).length)
        yield* Effect.forEach(all.filter(({ id }) => id !== node), ({ id }) => Metrics.seedPeer(id), { discard: true })
      })

      const own = Effect.gen(function*() {
        const { inFlight, queueDepth } = yield* puller.stats
        yield* Metrics.set("queued", queueDepth)
        yield* Metrics.set("inFlight", inFlight)
        yield* Metrics.set("paused", (yield* puller.paused).length > 0 ? 1 : 0)
        const { left, since } = yield* drain.status
        yield* Metrics.set("draining", Option.isSome(since) ? 1 : 0)
        yield* Metrics.set("drainLeft", left)
        yield* Metrics.set("memory", process.memoryUsage.rss())
        yield* Metrics.set("contact", ((yield* Clock.currentTimeMillis) - (yield* contact.state).answered) / 1000)
      })

      // One that ran beside this node has left its word in the inventory too.
      const scrub = Effect.flatMap(
        Effect.provideService(lastCompleted, Inventory, inventory),
        Option.match({ onNone: () => Effect.void, onSome: Metrics.scrubCompleted })
      )

      const bounded = <E>(each: Effect.Effect<void, E>) => Effect.ignore(Effect.timeoutOption(each, patience))
      const refresh = Effect.all(
        [bounded(status), bounded(disk), bounded(members), bounded(scrub), own],
        { concurrency: "unbounded", discard: true }
      )

      yield* background.run("the gauges", Effect.forever(Effect.andThen(refresh, Effect.sleep(interval))))
      yield* background.run("the measure of the event loop", Effect.scoped(measureLoop))

      const context = yield* Effect.context<never>()
      return {
        // The registry of the node, whoever asks.
        render: Effect.andThen(refresh, Metrics.render).pipe(Effect.provide(context))
      }
    })
  )

/** The longest delay of each second. What the histogram calls a delay is the time between two looks. */
const measureLoop = Effect.gen(function*() {
  const delays = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const delays = monitorEventLoopDelay({ resolution })
      delays.enable()
      return delays
    }),
    (delays) => Effect.sync(() => delays.disable())
  )
  return yield* Effect.forever(Effect.gen(function*() {
    yield* Effect.sleep("1 second")
    const longest = delays.max / 1e6 - resolution
    delays.reset()
    yield* Metrics.eventLoopLagged(Math.max(0, longest) / 1000)
  }))
})
