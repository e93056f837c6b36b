/**
 * Members in etcd, for nodes of several machines.
 *
 * A node that has announced itself holds its id by a key on a lease, which it keeps alive. When the lease lapses the
 * node is not asked for files any more, and that is all: what is known of it stays until somebody removes it. One that
 * was frozen, or cut off, joins again by itself. While etcd does not answer, everybody goes on with the members that
 * were known last.
 */
import { Clock, Duration, Effect, Layer, Option, Schema, type Scope, Semaphore } from "effect"
import { randomUUID } from "node:crypto"
import { EtcdClient } from "../etcd/EtcdClient.ts"
import type { EtcdError } from "../etcd/EtcdError.ts"
import * as Bell from "../internal/Bell.ts"
import type { NodeId } from "../ports/FileEntry.ts"
import { type Address, type Member, Membership, MembershipError } from "../ports/Membership.ts"
import { NodeIdTaken, NotRemoved, type Role } from "../ports/Membership.ts"
import { changesOf } from "./changes.ts"
import * as View from "./etcdView.ts"
import { ownProcess, runs } from "./process.ts"
import { heard, quiet, toText } from "./said.ts"
import { supplanted } from "./supplanted.ts"
import * as Troubles from "./trouble.ts"

export interface Options {
  /** Whose keys these are: several clusters may share one etcd. */
  readonly namespace: string
  readonly self: { readonly id: NodeId; readonly role: Role }
  /** The version of the software that this node runs. */
  readonly version: string
  /** After how long without a sign of life a member counts as gone, seconds. 12 unless told; etcd knows no less than 2. */
  readonly ttlSeconds?: number
}

export const layer = (options: Options): Layer.Layer<Membership, never, EtcdClient> =>
  Layer.effect(Membership, make(options))

/** A claim that stands. */
interface Joined {
  readonly lease: bigint
  /** The revision at which the claim was made: while it is the key's, the claim is this run's. */
  readonly revision: number
}

/** What came of a try to take the id. `running`: whether its holder is a process that can be seen to run here. */
type Outcome =
  | { readonly _tag: "Joined"; readonly joined: Joined }
  | { readonly _tag: "Held"; readonly holder: string; readonly running: boolean | undefined }

/** Signing off must not keep a node that stops. */
const farewell = Duration.seconds(1)

/** Between two looks at an id that somebody else holds. */
const look = Duration.millis(500)

const encodeClaim = Schema.encodeSync(View.Claim)
const encodeRecord = Schema.encodeSync(View.Record)

const unannounced = (why: string) => `this node is not announced to the others: ${why}`

const failing = (operation: string) => <A, R>(self: Effect.Effect<A, EtcdError, R>) =>
  Effect.mapError(self, ({ message }) => new MembershipError({ operation, detail: message }))

const make = Effect.fnUntraced(function*(
  { namespace, self, ttlSeconds = 12, version }: Options
): Effect.fn.Return<Membership["Service"], never, EtcdClient | Scope.Scope> {
  const client = yield* EtcdClient
  const keys = View.keysOf(namespace)
  const claimKey = keys.claim(self.id)
  const bell = Bell.make()
  const watching = Troubles.make("the watch over the members")
  const joining = Troubles.make("the announcement of this node")
  const view = yield* View.make(client, keys, bell.ring, watching)

  const instance = randomUUID()
  let announced = Option.none<Address>()
  let said = quiet
  // What the others have last been told: a word that failed is said again with the next sign of life.
  let told = ""
  let joined = Option.none<Joined>()
  // Who goes by this node's id instead of it, while it gave no sign of life.
  let lost = Option.none<string>()

  const record = (address: Address, words: string) =>
    ({
      _tag: "Put",
      put: {
        key: keys.record(self.id),
        value: encodeRecord({ instance, role: self.role, address, version, said: words })
      }
    }) as const

  /** Takes the id, when nobody holds it, when its holder is a process of this host that has ended, or is this run. */
  const join = Effect.fnUntraced(function*(address: Address): Effect.fn.Return<Outcome, EtcdError> {
    const lease = yield* client.grant(ttlSeconds)
    const words = toText(said)
    const value = encodeClaim({ instance, ...ownProcess(), address })
    let expected = 0
    while (true) {
      const answer = yield* client.txn({
        compare: [{ key: claimKey, target: "MOD", result: "EQUAL", value: expected }],
        success: [{ _tag: "Put", put: { key: claimKey, value, lease: lease.id } }, record(address, words)],
        failure: [{ _tag: "Range", range: { key: claimKey } }]
      })
      if (answer.succeeded) {
        told = words
        return { _tag: "Joined", joined: { lease: lease.id, revision: answer.header.revision } }
      }
      const [response] = answer.responses
      const kv = response?._tag === "Range" ? response.range.kvs[0] : undefined
      expected = kv?.modRevision ?? 0
      // It has lapsed in between.
      if (kv === undefined) continue
      // The answer to this very claim was lost.
      if (kv.lease === lease.id) {
        return { _tag: "Joined", joined: { lease: lease.id, revision: kv.modRevision } }
      }
      const claim = View.claimOf(kv)
      if (Option.isNone(claim)) return { _tag: "Held", holder: "a key that no node has written", running: undefined }
      if (claim.value.instance === instance) continue
      const running = runs(claim.value)
      if (running === false) continue
      yield* Effect.ignore(client.revoke(lease.id))
      return { _tag: "Held", holder: View.holderText(claim.value), running }
    }
  })

  // One at a time: an announcement, a sign of life, a word to the others.
  const turn = yield* Semaphore.make(1)

  /** Whether the key is gone although the lease is not: somebody has taken this node for gone. */
  const forgotten = ({ revision }: Joined): boolean => {
    const known = view.holder(self.id)
    return known.revision >= revision && known.instance !== instance
  }

  /** Tells the others what this node says of itself; when it has not joined, joining tells them. */
  const say = Effect.gen(function*() {
    if (Option.isNone(announced) || Option.isNone(joined)) return
    const words = toText(said)
    told = ""
    const { succeeded } = yield* client.txn({
      compare: [{ key: claimKey, target: "MOD", result: "EQUAL", value: joined.value.revision }],
      success: [record(announced.value, words)]
    })
    if (succeeded) told = words
    else joined = Option.none()
  })

  const beat = Effect.gen(function*() {
    if (Option.isNone(announced)) return
    if (Option.isSome(joined)) {
      const left = yield* client.keepAlive(joined.value.lease)
      if (left > 0 && !forgotten(joined.value)) {
        if (told !== toText(said)) yield* say
        if (Option.isSome(joined)) return
      }
      joined = Option.none()
    }
    const outcome = yield* join(announced.value)
    if (outcome._tag === "Joined") {
      joined = Option.some(outcome.joined)
      lost = Option.none()
    } else lost = Option.some(outcome.holder)
    bell.ring()
  })

  const stillMember = Effect.suspend(() =>
    Option.match(lost, {
      onNone: () => Effect.void,
      onSome: (holder) => Effect.fail(supplanted(self.id, holder))
    })
  )

  const others = Effect.flatMap(view.nodes, (nodes) =>
    Option.match(nodes, {
      onSome: (nodes) =>
        Effect.succeed(
          nodes.filter(({ id }) => id !== self.id).map(({ alive, id, record }): Member => {
            const { draining, watermark } = heard(record.said)
            const { address, role, version } = record
            return { id, role, address: Option.some(address), alive, version, watermark, draining }
          })
        ),
      onNone: () =>
        Effect.flatMap(watching.current, (trouble) =>
          Effect.fail(
            new MembershipError({
              operation: "members",
              detail: Option.match(trouble, {
                onNone: () => "etcd has not answered yet",
                onSome: ({ detail }) => detail
              })
            })
          ))
    }))

  const members = Effect.andThen(
    stillMember,
    Effect.map(others, (others): ReadonlyArray<Member> => [
      { ...self, address: announced, alive: true, version, ...said },
      ...others
    ])
  )

  yield* Effect.addFinalizer(() =>
    Option.match(joined, {
      onNone: () => Effect.void,
      onSome: ({ lease }) =>
        client.revoke(lease).pipe(
          Effect.timeoutOption(farewell),
          Effect.flatMap((done) =>
            Option.isSome(done)
              ? Effect.void
              : Effect.logWarning(`${self.id} could not sign off in time; it lapses instead`)
          ),
          Effect.catch((error) =>
            Effect.logWarning(`${self.id} could not sign off; it lapses instead: ${error.message}`)
          )
        )
    })
  )
  // Begun behind the finalizer above, and so ended before it.
  yield* Effect.sleep(Duration.seconds(ttlSeconds / 3)).pipe(
    Effect.andThen(turn.withPermit(Effect.andThen(failing("heartbeat")(beat), stillMember))),
    Effect.andThen(joining.clear),
    Effect.catch(({ message }) =>
      joining.note(Option.isSome(announced) && Option.isNone(joined) ? unannounced(message) : message)
    ),
    // Whether somebody has lapsed is etcd's to say; nothing is looked for here.
    Effect.forever,
    Effect.forkScoped
  )

  const announce = Effect.fn("Membership.announce")(function*(address: Address) {
    announced = Option.some(address)
    // A lease of a node that has ended lapses within this time; etcd begins it anew when it elects a leader.
    let left = 2 * ttlSeconds * 1000
    for (let first = true;; first = false) {
      const before = yield* Clock.monotonicTimeNanos
      if (Option.isSome(joined)) {
        yield* say
        if (Option.isSome(joined)) return
      }
      const outcome = yield* join(address)
      if (outcome._tag === "Joined") {
        joined = Option.some(outcome.joined)
        lost = Option.none()
        return
      }
      if (outcome.running === true || left <= 0) {
        announced = Option.none()
        return yield* new NodeIdTaken({ id: self.id, detail: outcome.holder })
      }
      if (first) {
        yield* Effect.logWarning(
          `another node goes by the id ${self.id} (${outcome.holder}); waiting to see whether it still runs`
        )
      }
      yield* Effect.sleep(look)
      left -= Number((yield* Clock.monotonicTimeNanos) - before) / 1e6
    }
  })

  return Membership.of({
    self,
    members,
    changes: changesOf(members, bell),
    announce: (address) =>
      turn.withPermit(announce(address)).pipe(
        Effect.catchTag("EtcdError", (error) =>
          // Whatever it is, a full store or a role that is missing, is mended while this node runs: meanwhile it serves
          // and pulls what it knows, and the next sign of life announces it.
          joining.note(unannounced(error.message))),
        Effect.tap(() => Effect.sync(bell.ring))
      ),
    publish: (watermark) =>
      Effect.suspend(() => {
        said = { ...said, watermark }
        return Effect.andThen(stillMember, turn.withPermit(failing("publish")(say)))
      }),
    drain: (draining) =>
      Effect.suspend(() => {
        said = { ...said, draining }
        bell.ring()
        return Effect.andThen(stillMember, turn.withPermit(failing("drain")(say)))
      }),
    trouble: Effect.map(
      Effect.all([joining.current, watching.current]),
      ([joining, watching]) => Option.orElse(joining, () => watching)
    ),
    departed: (id) =>
      client.txn({ success: [{ _tag: "Delete", delete: { key: keys.claim(id) } }] }).pipe(
        failing("departed"),
        Effect.asVoid
      ),
    remove: Effect.fn("Membership.remove")(function*(id) {
      const { responses, succeeded } = yield* client.txn({
        compare: [{ key: keys.claim(id), target: "MOD", result: "EQUAL", value: 0 }],
        success: [{ _tag: "Range", range: { key: keys.record(id) } }, {
          _tag: "Delete",
          delete: { key: keys.record(id) }
        }]
      }).pipe(failing("remove"))
      if (!succeeded) {
        return yield* new NotRemoved({ id, detail: "it is alive; stop it first, and wait until it counts as gone" })
      }
      const [found] = responses
      // An answer that was lost and asked for again finds it removed already; that is said as it is.
      if (found?._tag === "Range" && found.range.kvs.length === 0) {
        return yield* new NotRemoved({ id, detail: "no member goes by this id" })
      }
    })
  })
})
