/**
 * Pulls what this node owes: a bounded queue, a fixed number of workers, and `Inventory` as the truth behind both. The
 * newest goes first; what failed before waits behind what did not, and is tried sooner when a peer appears.
 *
 * Closing the scope interrupts every pull at once and in parallel; it counts as no failure, and the partial files stay.
 */
import { Context, Effect, Layer, Option, PubSub, Stream } from "effect"
import type { Scope } from "effect"
import type { Backend } from "../ports/Backend.ts"
import { FetchClient } from "../ports/FetchClient.ts"
import type { Registered } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { Inventory, type InventoryError } from "../ports/Inventory.ts"
import type { Membership } from "../ports/Membership.ts"
import type { PeerResolver } from "../ports/PeerResolver.ts"
import * as Asking from "./asking.ts"
import { Background } from "./Background.ts"
import * as Feed from "./Feed.ts"
import * as Pauses from "./Pauses.ts"
import type { Placement } from "./Placement.ts"
import type { Enqueued, PullerStats, Receipt } from "./pulls.ts"
import * as Rearm from "./Rearm.ts"
import type { Room } from "./Room.ts"
import * as Workers from "./Workers.ts"

export type { Enqueued, PullerStats, Receipt } from "./pulls.ts"

export class Puller extends Context.Service<Puller, {
  /** Records a file as owed and queues it, without waiting for room. */
  readonly enqueue: (file: Registered) => Effect.Effect<Enqueued, InventoryError>
  /** Queues what is owed, without waiting for room. */
  readonly offer: (debts: ReadonlyArray<Feed.Debt>) => Effect.Effect<void>
  /** Counts a file that was found to be here before it was ever queued. */
  readonly skipped: (file: Registered) => Effect.Effect<void>
  /**
   * What becomes of a file that no peer has failed to deliver: it waits for room on the disk, or for others, or a peer is
   * asked for it now; `none` unless it is one of these.
   */
  readonly waitsFor: (path: FilePath) => Effect.Effect<Option.Option<string>>
  /** Stops the pull of a path that was deleted. */
  readonly withdraw: (path: FilePath) => Effect.Effect<void>
  /** Lets no new pull begin; those in flight end. An operator's pause outlives this process. */
  readonly pause: Pauses.Pauses["pause"]
  readonly resume: Pauses.Pauses["resume"]
  /** What holds pulls now; empty: nothing does. */
  readonly paused: Pauses.Pauses["reasons"]
  /** `Inventory` refused a write, so that debts can't be recorded: holds pulls, and the node is not ready meanwhile. */
  readonly unwritable: Pauses.Pauses["unwritable"]
  readonly stats: Effect.Effect<PullerStats>
  /** Everything that workers finish from now on. */
  readonly receipts: Effect.Effect<Stream.Stream<Receipt>, never, Scope.Scope>
}>()("file-replication/Puller") {}

export type PullerOptions = Workers.WorkersOptions

export const layer = (
  options: PullerOptions
): Layer.Layer<
  Puller,
  never,
  Background | Backend | FetchClient | Inventory | Membership | PeerResolver | Placement | Room
> =>
  Layer.effect(
    Puller,
    Effect.gen(function*() {
      const inventory = yield* Inventory
      const background = yield* Background

      const pauses = yield* Pauses.make(inventory, background)
      const receipts = yield* PubSub.unbounded<Receipt>()
      const feed = yield* Feed.start(options.queueSize, pauses)
      const rearmed = yield* Rearm.start(background, feed.lookNow)
      const asking = Asking.make(yield* FetchClient)
      const workers = yield* Workers.start(options, { feed, pauses, rearmed, receipts }).pipe(
        Effect.provideService(FetchClient, asking.client)
      )

      return {
        enqueue: feed.enqueue,
        offer: feed.offer,
        skipped: (file) => Effect.sync(() => feed.skip(file)),
        waitsFor: (path) =>
          Effect.sync(() =>
            Option.orElse(
              feed.waitsFor(path),
              () => Option.map(asking.of(path), (peer) => `${peer} is asked for it now`)
            )
          ),
        withdraw: (path) =>
          Effect.sync(() => {
            const file = feed.withdraw(path)
            if (feed.has(path)) workers.withdraw(path)
            if (file !== undefined) PubSub.publishUnsafe(receipts, { _tag: "Withdrawn", file })
          }),
        pause: pauses.pause,
        resume: pauses.resume,
        unwritable: pauses.unwritable,
        paused: Effect.map(
          pauses.reasons,
          (reasons) => feed.parked() > 0 && !reasons.includes("disk") ? [...reasons, "disk" as const] : reasons
        ),
        stats: Effect.sync(() => {
          const { places, waiting, ...into } = feed.stats()
          const { heldBack, ...out } = workers.stats()
          const queueDepth = waiting + heldBack
          return { ...into, ...out, queueDepth, inFlight: places - queueDepth }
        }),
        receipts: Effect.map(PubSub.subscribe(receipts), (subscription) => Stream.fromSubscription(subscription))
      }
    })
  )
