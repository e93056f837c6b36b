/** Nodes whose manifest and members are in etcd. */
import { assert, it } from "@effect/vitest"
import { Context, Effect, Exit, Option, Schedule, Scope, Stream } from "effect"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { Inventory } from "../src/ports/Inventory.ts"
import { Membership } from "../src/ports/Membership.ts"
import { Copies } from "../src/replication/Copies.ts"
import { Puller } from "../src/replication/Puller.ts"
import { hasEtcd, missing, startCluster } from "./support/etcd.ts"
import { temporaryFolder } from "./support/folder.ts"
import { dataOf, publish, start, untilComplete } from "./support/realNode.ts"

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

  it.live("give each other what they owe while etcd is away", () =>
    Effect.gen(function*() {
      const cluster = yield* startCluster()
      const folder = yield* temporaryFolder
      const settings = { manifest: "etcd", etcdEndpoints: cluster.endpoints } as const
      const one = yield* start(folder, "one", settings)
      const two = yield* start(folder, "two", settings)
      const puller = Context.get(two, Puller)
      yield* puller.pause("operator")
      for (const name of ["a", "b", "c"]) yield* publish(one, `db/${name}`, `bytes of ${name}`)
      const { changes } = Context.get(two, Inventory)
      yield* Stream.runDrain(Stream.takeUntil(changes, ({ owed }) => owed.files === 3))
      yield* cluster.killAll
      yield* puller.resume("operator")
      yield* Stream.runDrain(
        Stream.takeUntil(changes, ({ owed, verified }) => owed.files === 0 && verified.files === 3)
      )
      for (const name of ["a", "b", "c"]) {
        assert.strictEqual(readFileSync(join(dataOf(folder, "two"), "db", name), "utf8"), `bytes of ${name}`)
      }
      yield* cluster.startAll
      yield* untilComplete(two)
    }), 90_000)
}
