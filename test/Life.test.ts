/** What docs/operations.md tells an operator to do, done with nodes that are real. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Option, Redacted, Schedule, Scope } from "effect"
import { cpSync } from "node:fs"
import { Membership } from "../src/ports/Membership.ts"
import { Copies } from "../src/replication/Copies.ts"
import { Puller } from "../src/replication/Puller.ts"
import type { Settings } from "../src/ReplicationConfig.ts"
import { temporaryFolder } from "./support/folder.ts"
import { dataOf, type Node, publish, start, untilComplete } from "./support/realNode.ts"

/** Nodes that can be stopped and started again, by their names. */
const cluster = Effect.gen(function*() {
  const folder = yield* temporaryFolder
  const around = yield* Effect.scope
  const running = new Map<string, { readonly node: Node; readonly scope: Scope.Closeable }>()
  const stop = (name: string) =>
    Effect.suspend(() => {
      const one = running.get(name)
      running.delete(name)
      return one === undefined ? Effect.void : Scope.close(one.scope, Exit.void)
    })
  return {
    folder,
    stop,
    /** Starts it, in place of the one of its name that runs. */
    start: Effect.fnUntraced(function*(name: string, settings: Partial<Settings> = {}) {
      yield* stop(name)
      const scope = yield* Scope.fork(around)
      const node = yield* Scope.provide(start(folder, name, settings), scope)
      running.set(name, { node, scope })
      return node
    }),
    running: () => [...running.values()].map(({ node }) => node)
  }
})

describe("the life of a node", () => {
  it.live(
    "replacing one that is lost for good: it is removed, and another takes its place with everything",
    () =>
      Effect.gen(function*() {
        const nodes = yield* cluster
        const one = yield* nodes.start("one")
        const two = yield* nodes.start("two")
        const file = yield* publish(one, "db/a", "a")
        yield* untilComplete(two)
        yield* nodes.stop("two")
        yield* Context.get(one, Membership).remove(Context.get(two, Membership).self.id)
        const three = yield* nodes.start("three")
        yield* untilComplete(three)
        const found = yield* Context.get(one, Copies).await(file, 2)
        assert.deepStrictEqual(found.map(({ kind, node }) => [node, kind]), [["one", "Held"], ["three", "Held"]])
      }),
    30_000
  )

  it.live(
    "seeding one from a disk that was copied by hand: what is right is taken as it lies, without a byte fetched",
    () =>
      Effect.gen(function*() {
        const nodes = yield* cluster
        const one = yield* nodes.start("one")
        for (let n = 0; n < 20; n++) yield* publish(one, `db/${n}`, `the bytes of ${n}`)
        // As `rsync -a --exclude .replication` does; the state of the other node is not copied.
        yield* Effect.sync(() => cpSync(dataOf(nodes.folder, "one"), dataOf(nodes.folder, "two"), { recursive: true }))
        const two = yield* nodes.start("two")
        yield* untilComplete(two)
        const { bytes, pulled } = yield* Context.get(two, Puller).stats
        assert.deepStrictEqual([bytes, pulled], [0, 0])
      }),
    30_000
  )

  it.live(
    "changing the secret of a running cluster, one node at a time, in three rounds: every node pulls meanwhile",
    () =>
      Effect.gen(function*() {
        const nodes = yield* cluster
        const names = ["one", "two", "three"]
        const before = Redacted.make("the old secret of all nodes")
        const after = Redacted.make("the new secret of all nodes")
        const secrets = (sharedSecret: Redacted.Redacted, previous?: Redacted.Redacted): Partial<Settings> => ({
          sharedSecret: Option.some(sharedSecret),
          sharedSecretPrevious: Option.fromUndefinedOr(previous),
          requireSignedAcks: true
        })
        for (const name of names) yield* nodes.start(name, secrets(before))
        // Accept the new one; sign with it; drop the old one.
        for (const [round, settings] of [secrets(before, after), secrets(after, before), secrets(after)].entries()) {
          for (const name of names) {
            const restarted = yield* nodes.start(name, settings)
            for (const [n, node] of nodes.running().entries()) yield* publish(node, `db/${round}-${name}-${n}`, name)
            for (const node of nodes.running()) yield* untilComplete(node)
            const { failed } = yield* Context.get(restarted, Puller).stats
            assert.strictEqual(failed, 0)
          }
        }
      }),
    180_000
  )

  it.live(
    "a member that never comes back holds up nobody but those that wait for it, and is named until it is removed",
    () =>
      Effect.gen(function*() {
        const nodes = yield* cluster
        const one = yield* nodes.start("one")
        yield* nodes.start("two")
        yield* nodes.stop("two")
        const file = yield* publish(one, "db/a", "a")
        const { survey } = Context.get(one, Copies)
        const { members, remove } = Context.get(one, Membership)
        const sightings = yield* Effect.flatMap(survey, ({ find }) => find(file))
        assert.deepStrictEqual(sightings.map(({ kind, node }) => [node, kind]), [["one", "Held"], ["two", "Away"]])
        const [, gone] = yield* members
        assert(gone !== undefined)
        yield* remove(gone.id)
        yield* Effect.repeat(members, { until: (all) => all.length === 1, schedule: Schedule.spaced("20 millis") })
      }),
    30_000
  )
})
