/** Nodes whose manifest and members are in etcd. */
import { assert, it } from "@effect/vitest"
import { Context, Effect, Exit, Option, Schedule, Scope } from "effect"
import { Membership } from "../src/ports/Membership.ts"
import { Copies } from "../src/replication/Copies.ts"
import { hasEtcd, missing, startCluster } from "./support/etcd.ts"
import { temporaryFolder } from "./support/folder.ts"
import { publish, start, untilComplete } from "./support/realNode.ts"

if (!hasEtcd) it("runs on real etcd", () => assert.fail(missing("nodes on etcd")))
else {
  it.live(
    "find each other by cluster.manifest alone, know who holds what, and go on with those they know while etcd is away",
    () =>
      Effect.gen(function*() {
        const cluster = yield* startCluster()
        const folder = yield* temporaryFolder
        const settings = { manifest: "etcd", etcdEndpoints: cluster.endpoints } as const
        const one = yield* start(folder, "one", settings)
        const leaving = yield* Scope.make()
        const two = yield* Scope.provide(start(folder, "two", settings), leaving)
        const file = yield* publish(one, "db/a", "bytes")
        const copies = Context.get(one, Copies)
        const found = yield* copies.await(file, 2)
        assert.deepStrictEqual(found.map(({ kind, node }) => [node, kind]), [["one", "Held"], ["two", "Held"]])
        yield* untilComplete(two)
        yield* Effect.repeat(copies.survey, { until: ({ covered }) => covered >= file.revision })

        yield* cluster.killAll
        const { members, trouble } = Context.get(one, Membership)
        yield* Effect.repeat(trouble, { until: Option.isSome, schedule: Schedule.spaced("50 millis") })
        assert.isTrue((yield* members).every(({ alive }) => alive))
        // A node that stops while etcd is away stops.
        yield* Scope.close(leaving, Exit.void)
        yield* cluster.startAll
        yield* Effect.repeat(trouble, { until: Option.isNone, schedule: Schedule.spaced("50 millis") })
        // It could not sign off: its lease says that it is gone.
        yield* Effect.repeat(members, {
          until: (all) => all.some(({ alive, id }) => id === "two" && !alive),
          schedule: Schedule.spaced("50 millis")
        })
        const [, gone] = yield* Effect.flatMap(copies.survey, ({ find }) => find(file))
        assert.deepStrictEqual([gone?.node, gone?.kind], ["two", "Away"])
      }),
    90_000
  )
}
