/**
 * A peer that has just appeared, or can be reached again, may have what is owed: debts that rest are tried sooner then.
 * Spread over some seconds, and for each member at most once in 30 s, so that one that comes and goes starts no storm.
 */
import { Clock, Duration, Effect, Option, Queue, Random, Stream } from "effect"
import type { Scope } from "effect"
import type { NodeId } from "../ports/FileEntry.ts"
import { Inventory } from "../ports/Inventory.ts"
import { addressText, type Member, Membership } from "../ports/Membership.ts"
import type { Background } from "./Background.ts"

/** No member wakes what rests more often, milliseconds. */
export const memberInterval = 30_000

/** What is known of the members, as far as debts are concerned. Times are milliseconds since 1970. */
export interface Watch {
  /** Who could be asked when last looked at, and where. */
  readonly reachable: ReadonlyMap<NodeId, string>
  /** When each has last woken what rests. */
  readonly woke: ReadonlyMap<NodeId, number>
  /** Who has appeared and has not woken anything yet. */
  readonly waiting: ReadonlySet<NodeId>
}

export const nobody: Watch = { reachable: new Map(), woke: new Map(), waiting: new Set() }

/** Pure: the members were looked at. Who could not be asked there before has appeared; who is gone waits no more. */
export const seen = (watch: Watch, members: ReadonlyArray<Member>, self: NodeId): Watch => {
  const reachable = new Map<NodeId, string>()
  for (const { address, alive, id } of members) {
    if (id !== self && alive && Option.isSome(address)) reachable.set(id, addressText(address.value))
  }
  const waiting = new Set<NodeId>()
  for (const [id, address] of reachable) {
    if (watch.waiting.has(id) || watch.reachable.get(id) !== address) waiting.add(id)
  }
  return { ...watch, reachable, waiting }
}

/** Pure: these can be reached again. */
export const back = (watch: Watch, ids: Iterable<NodeId>): Watch => {
  const waiting = new Set(watch.waiting)
  for (const id of ids) if (watch.reachable.has(id)) waiting.add(id)
  return { ...watch, waiting }
}

/** Pure: who wakes what rests now, and when to look again for those whose interval is not over. */
export const wakers = (
  watch: Watch,
  now: number
): { readonly watch: Watch; readonly now: ReadonlyArray<NodeId>; readonly next: Option.Option<number> } => {
  const woke = new Map([...watch.woke].filter(([, at]) => at + memberInterval > now))
  const early = [...watch.waiting].filter((id) => woke.has(id))
  const due = [...watch.waiting].filter((id) => !woke.has(id))
  const next = early.map((id) => (woke.get(id) ?? now) + memberInterval)
  for (const id of due) woke.set(id, now)
  return {
    watch: { ...watch, woke, waiting: new Set(early) },
    now: due,
    next: next.length === 0 ? Option.none() : Option.some(Math.min(...next))
  }
}

/** Over how long so many debts are spread, milliseconds: some 200 a second, a second at least and a minute at most. */
export const spreadMillis = (files: number): number => Math.min(60_000, Math.max(1000, files * 5))

/** Debts that are brought forward in one transaction. */
const batch = 500

/** Before a membership or an inventory that failed is asked again. */
const pause = Duration.seconds(5)

export interface Rearmed {
  /** How often debts were woken so far. */
  readonly times: () => number
  /** A peer that could not be reached before has answered. */
  readonly reached: (id: NodeId) => void
}

/** Watches the members in the background, and tells after each time that debts were brought forward. */
export const start = Effect.fnUntraced(function*(
  background: Background["Service"],
  onRearmed: () => void
): Effect.fn.Return<Rearmed, never, Inventory | Membership | Scope.Scope> {
  const inventory = yield* Inventory
  const membership = yield* Membership
  const news = yield* Queue.sliding<void>(1)
  let watch = nobody
  let times = 0

  const update = (next: Watch): void => {
    watch = next
    if (watch.waiting.size > 0) Queue.offerUnsafe(news, undefined)
  }

  const rearm = Effect.fnUntraced(function*(now: number) {
    const { owed } = yield* inventory.progress
    const spread = spreadMillis(owed.files)
    // Nodes that see a member appear in the same moment do not begin with it in the same moment.
    const from = now + (yield* Random.nextIntBetween(0, 1000))
    const end = from + spread
    const slice = owed.files > batch ? Math.ceil(spread * batch / owed.files) : spread
    let moved = batch
    for (let at = from; moved === batch && at < end; at += slice) {
      moved = yield* inventory.rearm({ from: at, until: Math.min(at + slice, end), behind: end, limit: batch })
    }
  })

  const look = Effect.gen(function*() {
    const now = yield* Clock.currentTimeMillis
    const due = wakers(watch, now)
    if (due.now.length > 0) {
      yield* rearm(now)
      times++
      onRearmed()
    }
    // Read again: the members may have changed meanwhile, and who has come since waits on.
    watch = { ...due.watch, reachable: watch.reachable, waiting: without(watch.waiting, due.now) }
    const rest = Option.match(due.next, { onNone: () => undefined, onSome: (at) => at - now })
    const next = Queue.take(news)
    yield* rest === undefined ? next : Effect.timeoutOption(next, Duration.millis(rest))
  })

  yield* background.run(
    "the waking of debts",
    look.pipe(
      Effect.catchTag(
        "InventoryError",
        (error) => Effect.logWarning(`debts are not woken: ${error.message}`).pipe(Effect.andThen(Effect.sleep(pause)))
      ),
      Effect.forever
    )
  )
  yield* background.run(
    "the watch over members",
    Stream.runForEach(
      membership.changes,
      (members) => Effect.sync(() => update(seen(watch, members, membership.self.id)))
    ).pipe(
      Effect.catchTag(
        "MembershipError",
        (error) => Effect.logWarning(`the members can't be watched: ${error.message}`)
      ),
      Effect.andThen(Effect.sleep(pause)),
      Effect.forever
    )
  )
  // Whoever was cut off from the membership was cut off from its members too, most of the time.
  let troubled = false
  const recover = Effect.map(membership.trouble, (trouble) => {
    if (troubled && Option.isNone(trouble)) update(back(watch, watch.reachable.keys()))
    troubled = Option.isSome(trouble)
  })
  yield* background.run(
    "the watch over the membership",
    Effect.forever(Effect.andThen(recover, Effect.sleep(pause)))
  )
  return { times: () => times, reached: (id) => update(back(watch, [id])) }
})

const without = (ids: ReadonlySet<NodeId>, gone: ReadonlyArray<NodeId>): ReadonlySet<NodeId> => {
  const left = new Set(ids)
  for (const id of gone) left.delete(id)
  return left
}
