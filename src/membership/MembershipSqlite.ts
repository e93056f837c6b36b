/**
 * Members in a SQLite file that all nodes of one machine share, the manifest's own for example.
 *
 * Each node that has announced itself renews its row from time to time. A row that was not renewed for `ttlMillis`
 * has lapsed: its node is not asked for files any more. Another run of the node may then take the id, unless the
 * holder is a process that can be seen to run on this host, however long it gave no sign of life.
 */
import { Clock, Effect, Layer, Option, Schema, type Scope, Semaphore } from "effect"
import { randomUUID } from "node:crypto"
import * as Bell from "../internal/Bell.ts"
import { explain } from "../ports/explain.ts"
import { NodeId } from "../ports/FileEntry.ts"
import { Address, type Member, Membership, MembershipError, NodeIdTaken } from "../ports/Membership.ts"
import { NotRemoved, Role } from "../ports/Membership.ts"
import { retryBusy, sentence } from "../sqlite/retryBusy.ts"
import * as SqliteThread from "../sqlite/SqliteThread.ts"
import { changesOf } from "./changes.ts"
import { heard, quiet, toText } from "./said.ts"
import type { Claimed, MembershipOperations } from "./sqliteOperations.ts"
import { supplanted } from "./supplanted.ts"
import * as Troubles from "./trouble.ts"

export interface Options {
  /** The database file; its folder must exist, on a local disk. */
  readonly path: string
  readonly self: { readonly id: NodeId; readonly role: Role }
  /** The version of the software that this node runs. */
  readonly version: string
  /** How often this node renews its row and looks for changes. 3 s unless told. */
  readonly heartbeatMillis?: number
  /** After how long without a renewal a member counts as lapsed. 10 s unless told. */
  readonly ttlMillis?: number
}

export const layer = (options: Options): Layer.Layer<Membership, MembershipError> =>
  Layer.effect(Membership, make(options))

const operations = SqliteThread.siblingModule(import.meta, "sqliteOperations")

const make = Effect.fnUntraced(function*(
  { heartbeatMillis = 3000, path, self, ttlMillis = 10_000, version }: Options
): Effect.fn.Return<Membership["Service"], MembershipError, Scope.Scope> {
  const thread = yield* SqliteThread.make<MembershipOperations>({ path, operations }).pipe(failing("open"))
  const call: SqliteThread.SqliteThread<MembershipOperations>["call"] = (name, ...args) =>
    retryBusy(thread.call(name, ...args))

  const instance = randomUUID()
  const bell = Bell.make()
  const troubles = Troubles.make("the list of members")
  // What this node says of itself. `lost`: who took its id, while it gave no sign of life.
  let announced = Option.none<Address>()
  let said = quiet
  let lost = Option.none<string>()

  const claim = Effect.fnUntraced(function*(
    address: Address,
    givenUp: number | null
  ): Effect.fn.Return<Claimed, MembershipError> {
    const now = yield* Clock.currentTimeMillis
    return yield* call(
      "claim",
      {
        ...address,
        ...self,
        instance,
        version,
        said: toText(said),
        expiresAt: now + ttlMillis
      },
      now,
      givenUp
    ).pipe(failing("announce"))
  })

  const stillMember = Effect.suspend(() =>
    Option.match(lost, {
      onNone: () => Effect.void,
      onSome: (holder) => Effect.fail(supplanted(self.id, holder))
    })
  )

  const renew = Effect.suspend(() =>
    Option.match(announced, {
      onNone: () => Effect.void,
      onSome: (address) =>
        Effect.map(claim(address, null), (claimed) => {
          lost = claimed._tag === "Claimed" ? Option.none() : Option.some(claimed.holder)
        })
    })
  )

  const others = Effect.gen(function*() {
    const now = yield* Clock.currentTimeMillis
    const rows = yield* call("members").pipe(failing("members"), Effect.flatMap(decodeRows))
    return rows.filter(({ id }) => id !== self.id).map((row): Member => {
      const { draining, watermark } = heard(row.said)
      return {
        id: row.id,
        role: row.role,
        address: Option.some({ host: row.address_host, port: row.address_port }),
        alive: row.alive === 1 && row.expires_at > now,
        version: row.version,
        watermark,
        draining
      }
    })
  })

  const members = Effect.andThen(
    stillMember,
    Effect.map(others, (others): ReadonlyArray<Member> => [
      { ...self, address: announced, alive: true, version, ...said },
      ...others
    ])
  )

  yield* Effect.addFinalizer(() =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => call("leave", self.id, instance, now)).pipe(
      Effect.catch((error) => Effect.logWarning(`${self.id} could not sign off; it lapses instead: ${sentence(error)}`))
    )
  )
  // One at a time, so that a renewal does not bring back the address that an announcement has just replaced.
  const turn = yield* Semaphore.make(1)
  // Begun behind the finalizer above, and so ended before it: nothing renews a row that was signed off.
  yield* Effect.sleep(heartbeatMillis).pipe(
    Effect.andThen(turn.withPermit(renew)),
    Effect.andThen(stillMember),
    Effect.andThen(troubles.clear),
    Effect.catch((error) => troubles.note(error.message)),
    Effect.andThen(Effect.sync(bell.ring)),
    Effect.forever,
    Effect.forkScoped
  )

  return Membership.of({
    self,
    members,
    changes: changesOf(members, bell),
    announce: Effect.fn("Membership.announce")(function*(address) {
      // A holder on another host may have crashed or may be well. One that is well renews its row meanwhile. Its clock
      // may have been far ahead of ours, so the wait for a row that does not change is bounded by our own time.
      let first: number | undefined
      let left = ttlMillis + heartbeatMillis
      while (true) {
        const givenUp = left <= 0 ? first ?? null : null
        const claimed = yield* turn.withPermit(
          Effect.tap(claim(address, givenUp), ({ _tag }) =>
            Effect.sync(() => {
              if (_tag === "Claimed") announced = Option.some(address)
            }))
        )
        if (claimed._tag === "Claimed") break
        if (claimed._tag === "Taken" || (first !== undefined && claimed.expiresAt !== first)) {
          return yield* new NodeIdTaken({ id: self.id, detail: claimed.holder })
        }
        if (first === undefined) {
          yield* Effect.logWarning(
            `another node goes by the id ${self.id} (${claimed.holder}); waiting to see whether it still runs`
          )
        }
        first = claimed.expiresAt
        const untilLapse = Math.max(1, first - (yield* Clock.currentTimeMillis))
        const before = yield* Clock.monotonicTimeNanos
        yield* Effect.sleep(Math.min(heartbeatMillis, untilLapse, left))
        left -= Number((yield* Clock.monotonicTimeNanos) - before) / 1e6
      }
      lost = Option.none()
      bell.ring()
    }),
    publish: Effect.fn("Membership.publish")(function*(watermark) {
      yield* stillMember
      said = { ...said, watermark }
      yield* call("say", self.id, instance, toText(said)).pipe(failing("publish"))
    }),
    drain: Effect.fn("Membership.drain")(function*(draining) {
      yield* stillMember
      said = { ...said, draining }
      yield* call("say", self.id, instance, toText(said)).pipe(failing("drain"))
      bell.ring()
    }),
    remove: Effect.fn("Membership.remove")(function*(id) {
      const now = yield* Clock.currentTimeMillis
      const outcome = yield* call("remove", id, now).pipe(failing("remove"))
      if (outcome !== "Removed") return yield* new NotRemoved({ id, detail: whyNot[outcome] })
      bell.ring()
    }),
    trouble: troubles.current,
    departed: Effect.fn("Membership.departed")(function*(id) {
      const now = yield* Clock.currentTimeMillis
      yield* call("departed", id, now).pipe(failing("departed"))
      bell.ring()
    })
  })
})

const whyNot = {
  Alive: "it is alive; stop it first, and wait until it counts as gone",
  Unknown: "no member goes by this id"
}

const decodeRows = (rows: unknown) =>
  Effect.mapError(
    decode(rows),
    (error) =>
      new MembershipError({ operation: "members", detail: `the file holds what no node writes: ${explain(error)}` })
  )

const decode = Schema.decodeUnknownEffect(Schema.Array(Schema.Struct({
  id: NodeId,
  role: Role,
  address_host: Address.fields.host,
  address_port: Address.fields.port,
  version: Schema.String,
  said: Schema.NullOr(Schema.String),
  alive: Schema.Literals([0, 1]),
  expires_at: Schema.Int
})))

const failing = (operation: string) => <A, R>(self: Effect.Effect<A, SqliteThread.SqliteError, R>) =>
  Effect.mapError(self, (error) => new MembershipError({ operation, detail: sentence(error) }))
