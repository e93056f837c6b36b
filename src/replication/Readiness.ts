/**
 * Whether this node holds everything, computed from `Inventory` and never from counters.
 *
 * At its start a node asks the manifest for its newest position, the *barrier*. It is ready once every file that it
 * believed to hold has been compared with the disk, every event up to the barrier has been taken, and nothing has been
 * owed for longer than is allowed. From then on it stays so while it follows: a position that the manifest has told and
 * that is not reached in time is as good as a debt. The manifest goes on all the time, so it is one position that is
 * waited for, not the newest one. A node of which a part has ended is not ready any more.
 */
import { Clock, Context, Duration, Effect, Layer, Option, Schedule, Schema, Stream, SubscriptionRef } from "effect"
import { filesAre } from "../internal/files.ts"
import { Inventory, type InventoryError, type Progress } from "../ports/Inventory.ts"
import { type Cursor, Manifest, Unavailable } from "../ports/Manifest.ts"
import { Membership } from "../ports/Membership.ts"
import { Background } from "./Background.ts"
import { CatchUp } from "./CatchUp.ts"
import { Contact, type Gap, gapBehind } from "./Contact.ts"
import { LocalCheck } from "./LocalCheck.ts"
import type { PauseReason } from "./Pauses.ts"
import { Puller } from "./Puller.ts"
import { retryAfterMillis, Status } from "./Status.ts"
import { bytesPerSecond, etaMillis, observe, type Sample } from "./throughput.ts"

/** This node does not hold everything yet: a query could miss rows. */
export class NotReady extends Schema.TaggedError<NotReady>()("NotReady", {
  reason: Schema.String,
  /** `none` when the inventory could not be read. */
  status: Schema.Option(Status),
  /** When it is worth asking again, milliseconds. */
  retryAfterMillis: Schema.Natural
}) {
  override get message(): string {
    return `this node is not ready: ${this.reason}`
  }
}

export class Readiness extends Context.Service<Readiness, {
  readonly status: Effect.Effect<Status, InventoryError>
  readonly ready: Effect.Effect<boolean, InventoryError>
  /** The status now, then whenever it may have changed, at least once a second. */
  readonly changes: Stream.Stream<Status, InventoryError>
  /** Waits until everything up to a position is verified here; for ever, once {@link Background} has failed. */
  readonly await: (at: Cursor) => Effect.Effect<void, InventoryError>
  /**
   * For an application to put before its queries. With `cluster.query_gate_on_catchup` it passes only when this node is
   * known to be ready: an inventory that can't be read is no reason to pass. Without, it always passes.
   */
  readonly gate: Effect.Effect<void, NotReady>
}>()("file-replication/Readiness") {}

export interface ReadinessOptions {
  /** How long something may be owed while the node stays ready, milliseconds; 0: nothing may be. */
  readonly readyMaxLagMillis: number
  /** Whether the gate is shut while this node is not ready. */
  readonly gated: boolean
}

/** What readiness is decided from. */
export interface Evidence {
  readonly progress: Progress
  readonly barrier: Option.Option<Cursor>
  /** Whether this start has compared every verified file with the disk. */
  readonly checked: boolean
  /** Others that could be asked, when that is known. Only the sentence depends on it. */
  readonly peers: Option.Option<number>
  /** Whether the manifest has said, since this start, that it still has the history of the cursor. */
  readonly confirmed: boolean
  /** What the manifest has told and this node has not taken. */
  readonly gap: Option.Option<Gap>
  /** What part of this node has ended, in a sentence. */
  readonly failed: Option.Option<string>
  /** What keeps new pulls from beginning. */
  readonly paused: ReadonlyArray<PauseReason>
  /** Milliseconds since 1970. */
  readonly now: number
}

/** Pure: why a node is not ready; `""` when it is. */
export const unreadyReason = (evidence: Evidence, readyMaxLagMillis: number): string => {
  const { barrier, checked, confirmed, failed, gap, now, paused, peers, progress } = evidence
  if (Option.isSome(failed)) return `${failed.value}; see the log, and start this node again`
  // What is owed from now on is not known, so "nothing is owed" would mean nothing.
  if (paused.includes("inventory")) return whyPaused.inventory
  if (Option.isNone(barrier)) return "the manifest has not answered yet"
  if (Option.isNone(progress.cursor)) return "the manifest has not been walked yet"
  if (!confirmed) return "the manifest has not confirmed yet that it has the history of what is here"
  const { epoch, revision } = progress.cursor.value
  if (epoch !== barrier.value.epoch) return "the manifest has another history; it is being walked again"
  if (revision < barrier.value.revision) return `caught up to revision ${revision} of ${barrier.value.revision}`
  if (!checked) return "the files on this disk have not all been compared with the inventory yet"
  if (Option.isSome(gap) && now - gap.value.since > Math.max(followMillis, readyMaxLagMillis)) {
    const seconds = Math.floor((now - gap.value.since) / 1000)
    return `the manifest has told of revision ${gap.value.at.revision}, and for ${seconds} s what was followed is ${revision}`
  }
  const owedFor = Option.match(progress.oldestOwed, { onNone: () => undefined, onSome: (since) => now - since })
  if (owedFor === undefined || (readyMaxLagMillis > 0 && owedFor <= readyMaxLagMillis)) return ""
  const owes = `${filesAre(progress.owed.files)} owed, ${progress.owed.bytes} bytes`
  if (paused.length > 0) return `${owes}, and pulling pauses: ${paused.map((reason) => whyPaused[reason]).join("; ")}`
  return Option.contains(peers, 0) ? `${owes}, and no peer is known that could have them` : owes
}

const whyPaused: Readonly<Record<PauseReason, string>> = {
  operator: "an operator has said so",
  disk: "what is owed has no room on the disk beside storage.min_free_bytes",
  inventory: "the inventory can't be written; see the log"
}

/** How long the events up to a position may take to come and be recorded, milliseconds, before that is worth a word. */
const followMillis = 10_000

/** How long the manifest may take to tell its newest position before it is asked again. */
const patience = Duration.seconds(10)

/** Between two looks at what only time or the disk changes. */
const interval = Duration.seconds(1)

export const layer = (
  options: ReadinessOptions
): Layer.Layer<
  Readiness,
  never,
  Background | CatchUp | Contact | Inventory | LocalCheck | Manifest | Membership | Puller
> =>
  Layer.effect(
    Readiness,
    Effect.gen(function*() {
      const inventory = yield* Inventory
      const manifest = yield* Manifest
      const membership = yield* Membership
      const background = yield* Background
      const catchUp = yield* CatchUp
      const contact = yield* Contact
      const localCheck = yield* LocalCheck
      const puller = yield* Puller
      const barrier = yield* SubscriptionRef.make(Option.none<Cursor>())

      // ---------------------------------------------------------------------
      // What it stands on
      // ---------------------------------------------------------------------

      // An answer may be lost for good: whoever does not answer at all is asked again like one that refuses.
      const takeBarrier = manifest.head.pipe(
        Effect.timeoutOrElse({
          duration: patience,
          orElse: () => Effect.fail(new Unavailable({ operation: "head", detail: "it does not answer" }))
        }),
        Effect.tapError((error) => Effect.logDebug(error.message)),
        Effect.retry(Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("5 seconds")])),
        Effect.flatMap((head) => SubscriptionRef.set(barrier, Option.some(head))),
        Effect.ignore
      )

      // Another history makes the barrier worthless. The cursor is dropped for one, whatever its epoch is called: a
      // backup that was put back keeps it.
      const renewBarrier = inventory.changes.pipe(
        Stream.map(({ cursor }) => Option.map(cursor, ({ epoch }) => epoch)),
        Stream.changes,
        Stream.runForEach(() => takeBarrier),
        Effect.catchTag("InventoryError", (error) => Effect.logError(error.message))
      )
      yield* background.run("the barrier", Effect.forever(Effect.andThen(renewBarrier, Effect.sleep("5 seconds"))))

      let samples: ReadonlyArray<Sample> = []
      const sample = Effect.gen(function*() {
        const { bytes } = yield* puller.stats
        samples = observe(samples, { at: yield* Clock.currentTimeMillis, bytes })
      })
      yield* background.run("the rate of pulls", Effect.forever(Effect.andThen(sample, Effect.sleep(interval))))

      const peers = membership.members.pipe(
        Effect.map((members) =>
          members.filter(({ address, alive, id }) => alive && id !== membership.self.id && Option.isSome(address))
            .length
        ),
        Effect.option
      )

      // ---------------------------------------------------------------------
      // What it says
      // ---------------------------------------------------------------------

      // The check before the inventory: what it finds lost is owed before it says that it has ended, so that an
      // inventory read behind that word knows of it.
      const gather = Effect.fnUntraced(function*(peers: Option.Option<number>) {
        const checked = yield* localCheck.checked
        const confirmed = yield* catchUp.confirmed
        const { gap } = yield* contact.state
        const progress = yield* inventory.progress
        return {
          checked,
          confirmed,
          paused: yield* puller.paused,
          barrier: yield* SubscriptionRef.get(barrier),
          progress,
          gap: gapBehind(gap, progress.cursor),
          failed: Option.map(yield* background.failed, ({ summary }) => summary),
          peers,
          now: yield* Clock.currentTimeMillis
        } satisfies Evidence
      })

      const status = Effect.gen(function*() {
        const evidence = yield* gather(yield* peers)
        const { progress } = evidence
        const reason = unreadyReason(evidence, options.readyMaxLagMillis)
        const rate = bytesPerSecond(samples)
        return {
          node: membership.self.id,
          ready: reason === "",
          reason,
          barrier: evidence.barrier,
          cursor: progress.cursor,
          verifiedThrough: progress.verifiedThrough,
          checked: evidence.checked,
          verified: progress.verified,
          owed: progress.owed,
          oldestOwed: progress.oldestOwed,
          failed: yield* inventory.failed,
          inFlight: (yield* puller.stats).inFlight,
          paused: evidence.paused,
          unlinking: progress.unlinking,
          bytesPerSecond: rate,
          eta: Option.fromUndefinedOr(etaMillis(progress.owed.bytes, evidence.paused.length > 0 ? 0 : rate)),
          peers: evidence.peers,
          manifestTrouble: (yield* contact.state).trouble,
          membershipTrouble: yield* membership.trouble,
          catchUp: yield* catchUp.status
        } satisfies Status
      })

      const ready = Effect.map(
        gather(Option.none()),
        (evidence) => unreadyReason(evidence, options.readyMaxLagMillis) === ""
      )

      const refusal = status.pipe(
        Effect.matchEffect({
          onFailure: ({ message }) =>
            Effect.fail(new NotReady({ reason: message, status: Option.none(), retryAfterMillis: 5000 })),
          onSuccess: (status) =>
            status.ready ? Effect.void : Effect.fail(
              new NotReady({
                reason: status.reason,
                status: Option.some(status),
                retryAfterMillis: retryAfterMillis(status)
              })
            )
        })
      )

      /** Something that it stands on may have changed; the barrier aside. */
      const moves = Stream.merge(inventory.changes, localCheck.changes).pipe(Stream.merge(Stream.tick(interval)))

      return {
        status,
        ready,
        changes: Stream.merge(moves, SubscriptionRef.changes(barrier)).pipe(Stream.mapEffect(() => status)),
        await: (at) =>
          moves.pipe(
            Stream.mapEffect(() => gather(Option.none())),
            Stream.filter(({ checked, confirmed, progress: { cursor, verifiedThrough } }) =>
              checked && confirmed && Option.exists(cursor, ({ epoch }) => epoch === at.epoch)
              && verifiedThrough >= at.revision
            ),
            Stream.take(1),
            Stream.runDrain
          ),
        // The common case costs one look at the inventory.
        gate: options.gated
          ? Effect.flatMap(Effect.orElseSucceed(ready, () => false), (open) => open ? Effect.void : refusal)
          : Effect.void
      }
    })
  )
