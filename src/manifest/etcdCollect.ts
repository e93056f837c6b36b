/** Dropping the tombstones of a manifest in etcd. No event is made of it, and events that etcd still keeps stay. */
import { Clock, Duration, Effect } from "effect"
import type { EtcdClient } from "../etcd/EtcdClient.ts"
import type { EtcdError } from "../etcd/EtcdError.ts"
import type { Compare, KeyValue, Operation } from "../etcd/messages.ts"
import type { Revision } from "../ports/FileEntry.ts"
import { type Damaged, type Keys, tombstoneOf } from "./etcdKeys.ts"

/** Tombstones that are read together, and that are dropped in one transaction. */
const pageSize = 1000
const dropSize = 100

export const makeCollect = (client: EtcdClient["Service"], keys: Keys) => {
  /** Each only as it was read; when another node was first, the rest waits for the next time. */
  const drop = Effect.fnUntraced(function*(kvs: ReadonlyArray<KeyValue>) {
    let dropped = 0
    for (let at = 0; at < kvs.length; at += dropSize) {
      const some = kvs.slice(at, at + dropSize)
      const { succeeded } = yield* client.txn({
        compare: some.map(({ key, modRevision }): Compare => ({
          key,
          target: "MOD",
          result: "EQUAL",
          value: modRevision
        })),
        success: some.map(({ key }): Operation => ({ _tag: "Delete", delete: { key } }))
      })
      if (succeeded) dropped += some.length
    }
    return dropped
  })

  return Effect.fnUntraced(function*(
    through: Revision,
    age: Duration.Input
  ): Effect.fn.Return<number, Damaged | EtcdError> {
    const madeBy = (yield* Clock.currentTimeMillis) - Duration.toMillis(age)
    let dropped = 0
    for (let key = keys.tombstone("");;) {
      const { kvs, more } = yield* client.range({ key, rangeEnd: keys.tombstonesEnd, limit: pageSize })
      const old: Array<KeyValue> = []
      for (const kv of kvs) {
        if (kv.modRevision <= through && (yield* Effect.fromResult(tombstoneOf(kv))).at <= madeBy) old.push(kv)
      }
      dropped += yield* drop(old)
      const last = kvs.at(-1)
      if (!more || last === undefined) return dropped
      key = `${last.key}\0`
    }
  })
}
