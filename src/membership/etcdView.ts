/**
 * The members as they lie in etcd, kept up to date by a watch. While etcd does not answer, the last of them stay.
 *
 * ```
 * /<namespace>/c/n/<node>   who it is and what it has said; stays when the node goes
 * /<namespace>/c/l/<node>   which run of it holds the id, on that run's lease: while it is there the node is alive
 * ```
 */
import { Deferred, Duration, Effect, Option, Schema, type Scope, Stream } from "effect"
import type { EtcdClient } from "../etcd/EtcdClient.ts"
import type { EtcdError } from "../etcd/EtcdError.ts"
import type { KeyValue } from "../etcd/messages.ts"
import { NodeId } from "../ports/FileEntry.ts"
import { Address, addressText, Role } from "../ports/Membership.ts"
import type { Troubles } from "./trouble.ts"

export const keysOf = (namespace: string) => {
  const root = `/${namespace}/c/`
  return {
    record: (id: string) => `${root}n/${id}`,
    claim: (id: string) => `${root}l/${id}`,
    // "0" is the character behind "/".
    all: { key: root, rangeEnd: `/${namespace}/c0` }
  }
}
export type Keys = ReturnType<typeof keysOf>

/** Which run of a node holds its id. */
export const Claim = Schema.fromJsonString(Schema.Struct({
  instance: Schema.String,
  host: Schema.String,
  pid: Schema.Int,
  started: Schema.String,
  address: Address
}))
export type Claim = typeof Claim.Type

/** A node, and what it has said: as text, which `said.ts` reads. */
export const Record = Schema.fromJsonString(Schema.Struct({
  instance: Schema.String,
  role: Role,
  address: Address,
  version: Schema.String,
  said: Schema.String
}))
export type Record = typeof Record.Type

export interface Known {
  readonly id: NodeId
  readonly record: Record
  readonly alive: boolean
}

export interface View {
  /** The nodes in the order of their ids; `none` while etcd has never answered. Waits for the first answer, or none. */
  readonly nodes: Effect.Effect<Option.Option<ReadonlyArray<Known>>>
  /** The instance that holds an id, as far as the view goes, and how far that is: a revision of etcd. */
  readonly holder: (id: NodeId) => { readonly revision: number; readonly instance: string | undefined }
}

const decodeRecord = Schema.decodeUnknownOption(Record)
const decodeClaim = Schema.decodeUnknownOption(Claim)
const isNodeId = Schema.is(NodeId)

export const claimOf = (kv: KeyValue): Option.Option<Claim> => decodeClaim(kv.value.toString("utf8"))

export const holderText = ({ address, pid }: Claim): string => `at ${addressText(address)}, process ${pid}`

/** Before a watch that has ended is begun again. */
const pause = Duration.millis(500)

export const make = Effect.fnUntraced(function*(
  client: EtcdClient["Service"],
  keys: Keys,
  ring: () => void,
  troubles: Troubles
): Effect.fn.Return<View, never, Scope.Scope> {
  const tried = yield* Deferred.make<void>()
  let entries: Map<string, KeyValue> | undefined
  let revision = 0
  let decoded: ReadonlyArray<Known> | undefined

  const follow = Effect.gen(function*() {
    const { header, kvs } = yield* client.range(keys.all)
    entries = new Map(kvs.map((kv) => [kv.key, kv]))
    revision = header.revision
    decoded = undefined
    ring()
    yield* Deferred.succeed(tried, undefined)
    const { changes } = yield* client.watch({ ...keys.all, startRevision: header.revision + 1 })
    yield* troubles.clear
    yield* Stream.runForEach(changes, ({ complete, events }) =>
      Effect.sync(() => {
        for (const { kv, type } of events) {
          if (type === "PUT") entries?.set(kv.key, kv)
          else entries?.delete(kv.key)
          if (complete) revision = Math.max(revision, kv.modRevision)
        }
        decoded = undefined
        ring()
      }))
  }).pipe(Effect.scoped)

  yield* follow.pipe(
    Effect.catch((error: EtcdError) => troubles.note(`the members can't be watched: ${error.message}`)),
    Effect.andThen(Deferred.succeed(tried, undefined)),
    Effect.andThen(Effect.sleep(pause)),
    Effect.forever,
    Effect.forkScoped
  )

  const decode = (given: ReadonlyMap<string, KeyValue>): ReadonlyArray<Known> => {
    const nodes: Array<Known> = []
    for (const [key, kv] of given) {
      const id = key.slice(keys.record("").length)
      if (!key.startsWith(keys.record("")) || !isNodeId(id)) continue
      const record = decodeRecord(kv.value.toString("utf8"))
      // Of a version that is too new or too old to be understood: nobody to ask.
      if (Option.isNone(record)) continue
      const claim = Option.flatMap(Option.fromUndefinedOr(given.get(keys.claim(id))), claimOf)
      nodes.push({
        id,
        record: record.value,
        alive: Option.exists(claim, ({ instance }) => instance === record.value.instance)
      })
    }
    return nodes.sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  return {
    nodes: Effect.map(Deferred.await(tried), () => {
      decoded ??= entries === undefined ? undefined : decode(entries)
      return Option.fromUndefinedOr(decoded)
    }),
    holder: (id) => {
      const kv = entries?.get(keys.claim(id))
      const claim = kv === undefined ? Option.none() : claimOf(kv)
      return { revision, instance: Option.getOrUndefined(Option.map(claim, ({ instance }) => instance)) }
    }
  }
})
