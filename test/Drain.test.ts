/** A node that leaves, with nodes that are real. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Option, Schedule, Scope } from "effect"
import { rmSync } from "node:fs"
import { join } from "node:path"
import { FilePath } from "../src/ports/FilePath.ts"
import { Membership } from "../src/ports/Membership.ts"
import { PeerResolver } from "../src/ports/PeerResolver.ts"
import { Drain, type DrainStatus } from "../src/replication/Drain.ts"
import { Registrar } from "../src/replication/Registrar.ts"
import { temporaryFolder } from "./support/folder.ts"
import { living, type Node, publish, start, untilComplete } from "./support/realNode.ts"

const until = (node: Node, is: (status: DrainStatus) => boolean) =>
  Effect.repeat(Context.get(node, Drain).status, { until: is, schedule: Schedule.spaced("50 millis") })

describe("Drain", () => {
  it.live(
    "names the files that no other node holds, and is done once every one has another copy",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const one = yield* start(folder, "one")
        const drain = Context.get(one, Drain)
        assert.isTrue(Option.isNone((yield* drain.status).since))
        yield* publish(one, "db/a", "a")
        yield* publish(one, "db/b", "b")
        yield* drain.start
        const alone = yield* until(one, ({ looked }) => Option.isSome(looked))
        assert.deepStrictEqual([alone.files, alone.left, alone.done], [2, 2, false])
        assert.deepStrictEqual(alone.examples.map(({ path }) => String(path)), ["db/a", "db/b"])
        assert.strictEqual(alone.examples[0]?.detail, "there is no other member")

        // Nobody else can be asked, and so the others do ask it.
        const scope = yield* Scope.make()
        const two = yield* Scope.provide(start(folder, "two"), scope)
        yield* untilComplete(two)
        const copied = yield* until(one, ({ done }) => done)
        assert.deepStrictEqual([copied.files, copied.left, copied.examples], [2, 0, []])
        // Not before it has heard of any other that began to drain at the same moment.
        const waited = Option.getOrElse(copied.looked, () => 0) - Option.getOrElse(copied.since, () => Infinity)
        assert.isAtLeast(waited, 7000)

        // A copy on a node that is gone does not count.
        yield* Scope.close(scope, Exit.void)
        const gone = yield* until(one, ({ done, left }) => !done && left === 2)
        assert.match(gone.examples[0]?.detail ?? "", /^two gives no sign of life/)
      }),
    30_000
  )

  it.live("tells what the manifest does not know apart, until it is registered again", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      yield* living(folder, "one", (one) =>
        Effect.all([publish(one, "db/a", "a"), publish(one, "db/b", "b"), untilComplete(one)]))
      // Another manifest altogether, in which one of them is registered again.
      for (const end of ["", "-wal", "-shm"]) {
        rmSync(join(folder, `manifest.db${end}`), { force: true })
      }
      const one = yield* start(folder, "one")
      yield* publish(one, "db/b", "b")
      yield* Context.get(one, Drain).start
      const strange = yield* until(one, ({ orphans }) =>
        orphans === 1)
      assert.deepStrictEqual([strange.files, strange.left, strange.done], [2, 2, false])
      assert.deepStrictEqual(strange.examples, [
        { path: FilePath.make("db/b"), detail: "there is no other member" },
        { path: FilePath.make("db/a"), detail: "it is not in the manifest" }
      ])
      yield* Context.get(one, Registrar).adopt({ path: "db/a" })
      const known = yield* until(one, ({ orphans }) =>
        orphans === 0)
      assert.deepStrictEqual([known.files, known.left], [2, 2])
    }), 30_000)

  it.live("is asked last while it drains, and like any other when it stays after all", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const one = yield* start(folder, "one")
      yield* start(folder, "two")
      const three = yield* start(folder, "three")
      const { self } = Context.get(one, Membership)
      const file = yield* publish(one, "db/a", "a")
      const order = Effect.map(
        Context.get(three, PeerResolver).candidates(self.id, file.entry.path),
        (peers) => peers.map(({ id }) => String(id))
      )
      // The list of members may be a moment old.
      const untilOrder = (...expected: ReadonlyArray<string>) =>
        Effect.repeat(order, {
          until: (ids) => String(ids) === String(expected),
          schedule: Schedule.spaced("20 millis")
        })
      const drain = Context.get(one, Drain)
      yield* untilOrder("one", "two")
      yield* drain.start
      yield* untilOrder("two", "one")
      yield* drain.stop
      yield* untilOrder("one", "two")
      assert.isTrue(Option.isNone((yield* drain.status).since))
    }), 30_000)
})
