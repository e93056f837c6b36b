/** Who holds a file, with nodes that are real. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Option, Scope } from "effect"
import { rmSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { type Registered, Revision } from "../src/ports/FileEntry.ts"
import { FilePath } from "../src/ports/FilePath.ts"
import { Manifest } from "../src/ports/Manifest.ts"
import { Membership } from "../src/ports/Membership.ts"
import { Copies } from "../src/replication/Copies.ts"
import { temporaryFolder } from "./support/folder.ts"
import { dataOf, publish, start, untilComplete } from "./support/realNode.ts"

const kinds = (sightings: ReadonlyArray<{ readonly node: string; readonly kind: string }>) =>
  Object.fromEntries(sightings.map(({ kind, node }) => [node, kind]))

describe("Copies", () => {
  it.live(
    "counts this node and each member that holds a file, by what they say of themselves",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const one = yield* start(folder, "one")
        yield* start(folder, "two")
        const { await: awaitCopies, survey } = Context.get(one, Copies)
        const file = yield* publish(one, "db/a", "bytes")
        assert.deepStrictEqual(kinds(yield* awaitCopies(file, 2)), { one: "Held", two: "Held" })
        // Nobody can vouch for more than there is, and nobody waits for that for ever.
        assert.isTrue(Option.isNone(yield* Effect.timeoutOption(awaitCopies(file, 3), "300 millis")))
        yield* Effect.repeat(survey, { until: ({ covered }) => covered >= file.revision })
      }),
    20_000
  )

  it.live(
    "asks a member for the file itself when something older keeps it from vouching",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const one = yield* start(folder, "one")
        const lost = yield* publish(one, "db/lost", "nobody has it in a moment")
        rmSync(join(dataOf(folder, "one"), "db/lost"))
        const two = yield* start(folder, "two")
        const file = yield* publish(one, "db/a", "bytes")
        const copies = Context.get(one, Copies)
        assert.deepStrictEqual(kinds(yield* copies.await(file, 2)), { one: "Held", two: "Held" })
        const [, other] = yield* Context.get(two, Membership).members
        assert.isTrue(other === undefined || Option.isSome(other.address))
        assert.isBelow((yield* copies.survey).covered, file.revision)
        // Whoever has it not says why.
        const saysOf = (file: Registered) => Effect.map(copies.find(file), (sightings) => sightings[1]?.detail)
        assert.strictEqual(yield* saysOf(lost), "holds no verified copy")
        const unlisted = { entry: { ...lost.entry, path: FilePath.make("db/unlisted") }, revision: Revision.make(0) }
        assert.strictEqual(yield* saysOf(unlisted), "does not find it in the manifest")
      }),
    20_000
  )

  it.live("does not believe a watermark of another history of the manifest", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const one = yield* start(folder, "one")
      const file = yield* publish(one, "db/a", "bytes")
      const copies = Context.get(one, Copies)
      // A member as it was before an older backup of the manifest was put back: its revisions count something else.
      const say = (mark: string) =>
        Effect.gen(function*() {
          const head = yield* Context.get(one, Manifest).head
          const said = { watermark: { through: 100, at: { ...head, mark } }, draining: false }
          yield* Effect.sync(() => {
            const database = new DatabaseSync(join(folder, "manifest.db"), { timeout: 5000 })
            database.exec(
              `INSERT OR REPLACE INTO node (id, instance, host, pid, started, role, address_host, address_port, version,
                alive, expires_at) VALUES ('two', 'i', 'elsewhere', 1, '', 'reader', '127.0.0.1', 1, '9.9.9', 1, 9e15);
               INSERT OR REPLACE INTO node_said VALUES ('two', 'i', '${JSON.stringify(said)}')`
            )
            database.close()
          })
          return head.mark
        })
      const mark = yield* say("another")
      const found = yield* Effect.flatMap(copies.survey, ({ find }) => find(file))
      assert.deepStrictEqual(kinds(found), { one: "Held", two: "Silent" })
      yield* say(mark)
      const again = yield* Effect.flatMap(copies.survey, ({ find }) => find(file))
      assert.deepStrictEqual(kinds(again), { one: "Held", two: "Held" })
    }), 20_000)

  it.live("counts no copy of a member that is gone or about to leave", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const one = yield* start(folder, "one")
      const scope = yield* Scope.make()
      const two = yield* Scope.provide(start(folder, "two"), scope)
      const file = yield* publish(one, "db/a", "bytes")
      const copies = Context.get(one, Copies)
      yield* copies.await(file, 2)
      yield* untilComplete(two)
      const find = Effect.flatMap(copies.survey, ({ find }) => find(file))
      yield* Context.get(two, Membership).drain(true)
      const drains = yield* find
      assert.deepStrictEqual(kinds(drains), { one: "Held", two: "Away" })
      assert.include(drains[1]?.detail, "about to leave")
      yield* Scope.close(scope, Exit.void)
      const gone = yield* find
      assert.deepStrictEqual(kinds(gone), { one: "Held", two: "Away" })
      assert.include(gone[1]?.detail, "no sign of life")
      assert.strictEqual((yield* copies.survey).covered, Revision.make(0))
    }), 20_000)
})
