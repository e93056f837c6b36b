/**
 * A process that is a member in etcd: `memberEtcd.ts ENDPOINT NAMESPACE ID`. Prints its process number once it is
 * announced; ends when its standard input closes.
 */
import { Effect, Layer, Option } from "effect"
import { once } from "node:events"
import * as EtcdClient from "../../src/etcd/EtcdClient.ts"
import * as MembershipEtcd from "../../src/membership/MembershipEtcd.ts"
import { NodeId } from "../../src/ports/FileEntry.ts"
import { Membership } from "../../src/ports/Membership.ts"
import { watermark } from "../../src/testing/membership/marks.ts"

const [endpoint = "", namespace = "", id = ""] = process.argv.slice(2)
const self = { id: NodeId.make(id), role: "reader" } as const

await Effect.runPromise(
  Effect.gen(function*() {
    const membership = yield* Membership
    yield* membership.announce({ host: "10.0.0.2", port: 4002 })
    yield* membership.publish(Option.some(watermark(3)))
    yield* Effect.sync(() => process.stdout.write(`${process.pid}\n`))
    process.stdin.resume()
    yield* Effect.promise(() => once(process.stdin, "end"))
  }).pipe(Effect.provide(
    MembershipEtcd.layer({ namespace, self, version: "1", ttlSeconds: 2 }).pipe(
      Layer.provide(EtcdClient.layer({ endpoints: [endpoint] }))
    )
  ))
)
