/** One manifest on one member: its history, its keys, its pages, and writers that meet. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Option, Result, Stream } from "effect"
import { join } from "node:path"
import { EtcdClient } from "../../src/etcd/EtcdClient.ts"
import { keysOf } from "../../src/manifest/etcdKeys.ts"
import { makePages } from "../../src/manifest/etcdPages.ts"
import { NodeId, Revision } from "../../src/ports/FileEntry.ts"
import type { FilePath } from "../../src/ports/FilePath.ts"
import type { Cursor } from "../../src/ports/Manifest.ts"
import type { Member } from "../../src/ports/Membership.ts"
import { neededByNone } from "../../src/replication/Tombstones.ts"
import { entryOf, pathOf } from "../support/entries.ts"
import { clientOf, hasEtcd, missing, startCluster } from "../support/etcd.ts"
import { suiteCluster } from "../support/etcdSuite.ts"
import { temporaryFolder } from "../support/folder.ts"
import { nextEvents, openManifest, pathsOf, whyLost } from "./etcd.ts"

if (!hasEtcd) it("runs on real etcd", () => assert.fail(missing("the history of a manifest on etcd")))
else {
  const theCluster = suiteCluster()
  let namespaces = 0
  const fresh = Effect.suspend(() => openManifest({ endpoints: theCluster().endpoints }, `history-${namespaces++}`))

  describe("ManifestEtcd, events that are no longer kept", () => {
    it.live("goes on where nothing was missed, however much of the time between is compacted", () =>
      Effect.gen(function*() {
        const { manifest } = yield* fresh
        const start = yield* manifest.head
        yield* (yield* clientOf(theCluster())).put({ key: "somebody else's", value: "" })
        yield* theCluster().compact
        assert.deepStrictEqual(yield* manifest.lost(start), Option.none())
        yield* manifest.register(entryOf("a"))
        const cursor = yield* manifest.head
        yield* (yield* clientOf(theCluster())).put({ key: "somebody else's", value: "" })
        yield* theCluster().compact
        assert.deepStrictEqual(yield* manifest.lost(cursor), Option.none())
        // One change behind the compaction: it is the first that is missing, and it is still kept.
        yield* manifest.register(entryOf("b"))
        assert.deepStrictEqual(yield* manifest.lost(cursor), Option.none())
        assert.deepStrictEqual(pathsOf((yield* nextEvents(manifest, cursor, 1)).events), ["b"])
        assert.deepStrictEqual(yield* manifest.lost(start), Option.some("Compacted" as const))
      }))

    it.live("says that they are compacted where it still knows the change at the cursor", () =>
      Effect.gen(function*() {
        const { manifest } = yield* fresh
        yield* manifest.register(entryOf("stays"))
        const atFile = yield* manifest.head
        yield* manifest.register(entryOf("goes"))
        const atBuried = yield* manifest.head
        yield* manifest.remove(pathOf("goes"), "retention")
        const atTombstone = yield* manifest.head
        for (const path of ["x", "y"]) yield* manifest.register(entryOf(path))
        yield* theCluster().compact
        yield* manifest.register(entryOf("z"))
        for (const cursor of [atFile, atBuried, atTombstone]) {
          assert.strictEqual(yield* whyLost(manifest, cursor), "Compacted")
          assert.deepStrictEqual(yield* manifest.lost(cursor), Option.some("Compacted" as const))
          const other = { ...cursor, mark: cursor.mark.replace(/^\S+/, "another") }
          assert.strictEqual(yield* whyLost(manifest, other), "EpochChanged")
          assert.strictEqual(
            yield* whyLost(manifest, { ...cursor, revision: Revision.make(cursor.revision - 1) }),
            "EpochChanged"
          )
        }
      }))

    it.live("takes nobody's word for a change of which no trace is left", () =>
      Effect.gen(function*() {
        const { collector, manifest } = yield* fresh
        yield* manifest.remove(pathOf("gone"), "retention")
        const cursor = yield* manifest.head
        yield* manifest.register(entryOf("a"))
        yield* manifest.register(entryOf("b"))
        yield* theCluster().compact
        yield* manifest.register(entryOf("c"))
        assert.strictEqual(yield* collector.collect(cursor.revision, 0), 1)
        // A file that lies here may as well be one that a restored backup doesn't know: it must not be unlinked.
        assert.strictEqual(yield* whyLost(manifest, cursor), "EpochChanged")
      }))

    it.live("keeps the tombstone at which a member stands, so that the member learns what was deleted meanwhile", () =>
      Effect.gen(function*() {
        const { collector, manifest } = yield* fresh
        yield* manifest.remove(pathOf("earlier"), "retention")
        yield* manifest.remove(pathOf("gone"), "retention")
        const at = yield* manifest.head
        yield* manifest.register(entryOf("a"))
        yield* manifest.register(entryOf("b"))
        yield* theCluster().compact
        yield* manifest.register(entryOf("c"))
        const away: Member = {
          id: NodeId.make("away"),
          role: "reader",
          address: Option.none(),
          alive: false,
          version: "",
          watermark: Option.some({ through: at.revision, at }),
          draining: false
        }
        assert.strictEqual(yield* collector.collect(neededByNone([away], () => true), 0), 1)
        assert.strictEqual(yield* whyLost(manifest, at), "Compacted")
      }))

    it.live("goes on reading when the events are compacted under its hands", () =>
      Effect.gen(function*() {
        const { manifest } = yield* fresh
        const at = yield* manifest.head
        yield* manifest.register(entryOf("a"))
        const { cursor } = yield* nextEvents(manifest, at, 1)
        yield* theCluster().compact
        yield* manifest.register(entryOf("b"))
        assert.deepStrictEqual(pathsOf((yield* nextEvents(manifest, cursor, 1)).events), ["b"])
      }))
  })

  describe("ManifestEtcd, what lies in etcd", () => {
    it.live("is apart from the manifests of other namespaces", () =>
      Effect.gen(function*() {
        const one = yield* fresh
        const other = yield* fresh
        yield* one.manifest.register(entryOf("a"))
        assert.strictEqual((yield* other.manifest.head).revision, 0)
        assert.deepStrictEqual((yield* other.manifest.page(Option.none(), 10)).files, [])
      }))

    it.live("names the key that no manifest wrote, and goes on with the others", () =>
      Effect.gen(function*() {
        const { manifest } = yield* fresh
        const client = yield* clientOf(theCluster())
        const keys = keysOf(`history-${namespaces - 1}`)
        yield* manifest.register(entryOf("a"))
        yield* client.put({ key: keys.file("b"), value: `{"mark":"m","entry":{"path":"b"}}` })
        const page = yield* Effect.flip(manifest.page(Option.none(), 10))
        assert.include(page.message, keys.file("b"))
        assert.include(page.message, "entry.sha256")
        assert.include((yield* Effect.flip(manifest.get(pathOf("b")))).message, "holds what no manifest writes")
        assert.isTrue(Option.isSome(yield* manifest.get(pathOf("a"))))
        // Of a list it is one entry's own trouble.
        const list = ["b", "b/below", "e", "f"].map((path) => entryOf(path))
        assert.deepStrictEqual(
          (yield* manifest.registerAll(list)).map((one) => "revision" in one ? one.entry.path : one._tag),
          ["EntryRefused", "EntryRefused", "e", "f"]
        )
        const refused = yield* Effect.flip(manifest.register(entryOf("b")))
        assert.include(refused.message, `the key ${keys.file("b")} holds what no manifest writes`)
        // Nor is it an event: it belongs to no change.
        const at = yield* manifest.head
        yield* client.put({ key: keys.file("c"), value: "{" })
        yield* manifest.register(entryOf("d"))
        assert.deepStrictEqual(pathsOf((yield* nextEvents(manifest, at, 1)).events), ["d"])
      }))

    it.live("loses tombstones that are old enough and taken by all, without an event", () =>
      Effect.gen(function*() {
        const { collector, manifest } = yield* fresh
        const at = yield* manifest.head
        const cursors: Array<Cursor> = []
        for (let round = 0; round < 3; round++) {
          yield* manifest.replace({
            add: [],
            remove: Array.from({ length: 60 }, (_, n) => ({ path: pathOf(`${round}/${n}`), reason: "merged" }))
          })
          cursors.push(yield* manifest.head)
        }
        const [, second] = cursors
        assert(second !== undefined)
        assert.strictEqual(yield* collector.collect(second.revision, "1 hour"), 0)
        assert.strictEqual(yield* collector.collect(second.revision, 0), 120)
        assert.strictEqual((yield* Effect.flip(manifest.register(entryOf("2/7"))))._tag, "Gone")
        const { entry } = yield* manifest.register(entryOf("0/7"))
        const { events } = yield* nextEvents(manifest, at, 181)
        assert.deepStrictEqual(pathsOf(events).slice(180), [entry.path])
      }))

    it.live("is paged in the same order with fences as without, files that come and go between pages included", () =>
      Effect.gen(function*() {
        const { manifest } = yield* fresh
        const client = yield* clientOf(theCluster())
        const keys = keysOf(`history-${namespaces - 1}`)
        let unbounded = 0
        const counting = EtcdClient.of({
          ...client,
          range: (range) => {
            if (range.rangeEnd === keys.filesEnd && range.keysOnly !== true) unbounded++
            return client.range(range)
          }
        })
        const page = makePages(counting, keys, { ahead: 40, distance: 5, cheap: 20 })
        const all = Array.from({ length: 300 }, (_, n) => `f/${String(n).padStart(3, "0")}`)
        yield* manifest.registerAll(all.map((path) => entryOf(path)))
        for (const limit of [1, 7, 50, 400]) {
          const seen: Array<string> = []
          for (let after = Option.none<FilePath>();;) {
            const { files, next } = yield* page(after, limit)
            assert.isAtMost(files.length, limit)
            seen.push(...files.map(({ entry }) => entry.path))
            if (Option.isNone(next)) break
            assert.strictEqual(files.length, limit)
            after = next
          }
          assert.deepStrictEqual(seen, all)
          // Every 40 keys or so one page looks at all that follows, and those do that are near the end.
          if (limit === 7) assert.isAtMost(unbounded, 15)
          unbounded = 0
        }
        // Around the fences that are known now.
        yield* manifest.registerAll(Array.from({ length: 100 }, (_, n) => entryOf(`f/050-${n}`)))
        yield* manifest.replace({
          add: [],
          remove: all.slice(60, 160).map((path) => ({ path: pathOf(path), reason: "merged" }))
        })
        const expected = (yield* manifest.page(Option.none(), 1000)).files.map(({ entry }) => entry.path)
        const seen: Array<string> = []
        for (let after = Option.none<FilePath>();;) {
          const { files, next } = yield* page(after, 10)
          seen.push(...files.map(({ entry }) => entry.path))
          if (Option.isNone(next)) break
          after = next
        }
        assert.deepStrictEqual(seen, expected)
      }))
  })

  describe("ManifestEtcd, writers that meet", () => {
    it.live("lets one of two win a path, a folder's name, or a removal, and never both", () =>
      Effect.gen(function*() {
        const one = (yield* fresh).manifest
        const other = (yield* openManifest({ endpoints: theCluster().endpoints }, `history-${namespaces - 1}`)).manifest
        const at = yield* one.head
        for (let round = 0; round < 40; round++) {
          const name = `round/${round}`
          const taken = yield* Effect.all([
            Effect.result(one.register(entryOf(`${name}/x`, "one"))),
            Effect.result(other.register(entryOf(`${name}/x`, "other")))
          ], { concurrency: 2 })
          assert.strictEqual(taken.filter(Result.isSuccess).length, 1)
          const folder = yield* Effect.all([
            Effect.result(one.register(entryOf(`${name}/y`))),
            Effect.result(other.registerAll([entryOf(`${name}/y/below`)]))
          ], { concurrency: 2 })
          const both = [folder[0], Result.map(folder[1], ([answer]) => answer)]
          const won = both.filter((answer) =>
            Result.isSuccess(answer) && answer.success !== undefined && "revision" in answer.success
          )
          assert.strictEqual(won.length, 1)
          const removal = yield* Effect.all([
            Effect.result(one.register(entryOf(`${name}/z`))),
            other.remove(pathOf(`${name}/z`), "gone")
          ], { concurrency: 2 })
          assert.deepStrictEqual(yield* one.get(pathOf(`${name}/z`)), Option.none())
          if (Result.isSuccess(removal[0])) assert.isBelow(removal[0].success.revision, removal[1])
          const merged = yield* Effect.all([
            Effect.result(
              one.replace({ add: [entryOf(`${name}/m1`)], remove: [{ path: pathOf(`${name}/m2`), reason: "" }] })
            ),
            Effect.result(
              other.replace({ add: [entryOf(`${name}/m2`)], remove: [{ path: pathOf(`${name}/m1`), reason: "" }] })
            )
          ], { concurrency: 2 })
          assert.strictEqual(merged.filter(Result.isSuccess).length, 1)
        }
        const head = yield* one.head
        const state = new Map<string, string>()
        yield* one.events(at).pipe(
          Stream.takeUntil(({ cursor }) => cursor.revision >= head.revision),
          Stream.runForEach(({ events }) =>
            Effect.sync(() => {
              for (const event of events) {
                if (event._tag === "Put") state.set(event.file.entry.path, event.file.entry.sha256)
                else state.delete(event.path)
              }
            })
          )
        )
        const { files } = yield* one.page(Option.none(), 1000)
        assert.deepStrictEqual([...state.keys()].sort(), files.map(({ entry }) => entry.path))
      }), 60_000)
  })

  describe("ManifestEtcd, a backup that was put back", () => {
    it.live(
      "is told although the cluster's id stayed: by a lower head, by another mark, and after a compaction",
      () =>
        Effect.gen(function*() {
          const cluster = yield* startCluster()
          const backup = join(yield* temporaryFolder, "backup.db")
          const { manifest } = yield* openManifest({ endpoints: cluster.endpoints })
          yield* manifest.register(entryOf("a"))
          const kept = yield* manifest.head
          yield* cluster.save(backup)
          yield* manifest.register(entryOf("b"))
          const lost = yield* manifest.head
          // A stream that waits for more learns of it by itself.
          const waiting = yield* Effect.forkChild(whyLost(manifest, lost), { startImmediately: true })
          yield* cluster.restore(backup)
          assert.strictEqual(yield* Fiber.join(waiting), "EpochChanged")
          assert.strictEqual((yield* manifest.head).epoch, lost.epoch)
          assert.strictEqual(yield* whyLost(manifest, lost), "EpochChanged")
          // The same file again, at the same revision: still not the change that the cursor saw.
          yield* manifest.register(entryOf("b"))
          assert.strictEqual((yield* manifest.head).revision, lost.revision)
          assert.strictEqual(yield* whyLost(manifest, lost), "EpochChanged")
          yield* manifest.register(entryOf("c"))
          assert.strictEqual(yield* whyLost(manifest, lost), "EpochChanged")
          assert.deepStrictEqual(pathsOf((yield* nextEvents(manifest, kept, 2)).events), ["b", "c"])
          yield* cluster.compact
          yield* manifest.register(entryOf("d"))
          assert.strictEqual(yield* whyLost(manifest, lost), "EpochChanged")
          assert.strictEqual(yield* whyLost(manifest, kept), "Compacted")
        }),
      60_000
    )
  })
}
