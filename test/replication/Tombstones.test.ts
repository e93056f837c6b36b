import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Option, Queue } from "effect"
import { TestClock } from "effect/testing"
import * as ManifestMemory from "../../src/manifest/ManifestMemory.ts"
import { NodeId, Revision } from "../../src/ports/FileEntry.ts"
import { type Cursor, Manifest, ManifestCollector } from "../../src/ports/Manifest.ts"
import { type Member, Membership, MembershipError, type Watermark } from "../../src/ports/Membership.ts"
import * as Background from "../../src/replication/Background.ts"
import * as Tombstones from "../../src/replication/Tombstones.ts"
import { entryOf, pathOf } from "../support/entries.ts"

const member = (id: string, watermark: Option.Option<Watermark>): Member => ({
  id: NodeId.make(id),
  role: "reader",
  address: Option.none(),
  // A member counts whether it is alive or not: it comes back and must learn of the deletions.
  alive: id !== "away",
  version: "",
  watermark,
  draining: false
})

const at = (cursor: Cursor) => Option.some({ through: Revision.make(0), at: cursor })

describe("the collection of tombstones", () => {
  /** What one round collects, with these members, of a manifest whose head is the given cursor. */
  const round = (membersOf: (head: Cursor) => ReadonlyArray<Member> | MembershipError) =>
    Effect.gen(function*() {
      const { manifest } = yield* ManifestMemory.make
      for (const name of ["a", "b"]) {
        yield* manifest.register(entryOf(name))
        yield* manifest.remove(pathOf(name), "gone")
      }
      const head = yield* manifest.head
      const asked = yield* Queue.unbounded<readonly [number, unknown]>()
      const given = membersOf(head)
      const members = given instanceof MembershipError ? Effect.fail(given) : Effect.succeed(given)
      const layer = Tombstones.layer.pipe(
        Layer.provide(Background.layer),
        Layer.provide(Layer.mock(Membership, { self: { id: NodeId.make("self"), role: "reader" }, members })),
        Layer.provide(Layer.succeed(Manifest, manifest)),
        Layer.provide(Layer.succeed(ManifestCollector, {
          collect: (through, age) => Effect.as(Queue.offer(asked, [through, JSON.stringify(age)]), 0)
        }))
      )
      yield* Layer.build(layer)
      yield* TestClock.adjust("12 minutes")
      return { asked: yield* Queue.clear(asked), head: head.revision }
    })
  const revisions = (asked: ReadonlyArray<readonly [number, unknown]>) => asked.map(([through]) => through)

  it.effect("drops what lies below every known member, gone or not, and what is old whoever has taken it", () =>
    Effect.gen(function*() {
      const { asked, head } = yield* round((head) => [
        member("self", at(head)),
        member("away", at({ ...head, revision: Revision.make(0), mark: "" }))
      ])
      assert.deepStrictEqual(revisions(asked), [0, head])
      const all = yield* round((head) => [member("self", at(head)), member("away", at(head))])
      assert.deepStrictEqual(revisions(all.asked), [head - 1, head])
      // Young ones stay although all have taken them: the second time is the age of those that go anyhow.
      assert.notStrictEqual(all.asked[0]?.[1], all.asked[1]?.[1])
    }))

  it.effect("takes a member that says nothing, or speaks of another history, for one that has taken nothing", () =>
    Effect.gen(function*() {
      const silent = yield* round((head) => [member("self", at(head)), member("other", Option.none())])
      assert.deepStrictEqual(revisions(silent.asked), [0, silent.head])
      const other = yield* round((
        head
      ) => [member("self", at(head)), member("other", at({ ...head, mark: "another" }))])
      assert.deepStrictEqual(revisions(other.asked), [0, other.head])
    }))

  it.effect("drops nothing while the members are not known", () =>
    Effect.gen(function*() {
      const { asked } = yield* round(() => new MembershipError({ operation: "members", detail: "away" }))
      assert.deepStrictEqual(asked, [])
    }))
})
