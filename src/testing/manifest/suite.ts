/** What every manifest must do, whatever its engine. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, type Layer, Option, Stream } from "effect"
import { getAll, Manifest, type Unavailable } from "../../ports/Manifest.ts"
import { entryOf, pathOf } from "../entries.ts"
import { eventsToHead } from "./events.ts"
import { events } from "./suiteEvents.ts"

const allPaths = Effect.fnUntraced(function*(pageSize: number) {
  const { pages } = yield* (yield* Manifest).snapshot(pageSize)
  return (yield* Stream.runCollect(pages)).flat().map(({ entry }) => entry.path)
})

export const suite = (name: string, layer: Layer.Layer<Manifest, Unavailable>): void => {
  describe(`Manifest: ${name}`, () => {
    const live = <E>(title: string, body: () => Effect.Effect<void, E, Manifest>) =>
      it.live(title, () => Effect.provide(body(), layer))

    live("gives back what was registered, down to the last digit of a 64-bit integer", () =>
      Effect.gen(function*() {
        const manifest = yield* Manifest
        const entry = entryOf("db/cpu/a.parquet", "a", {
          lsn: 18446744073709551615n,
          database: "täglich \u{1F600} with a \0 in it",
          measurement: ""
        })
        const registered = yield* manifest.register(entry)
        assert.deepStrictEqual(registered.entry, entry)
        assert.deepStrictEqual(yield* manifest.get(entry.path), Option.some(registered))
        assert.deepStrictEqual(yield* manifest.get(pathOf("db/cpu/b.parquet")), Option.none())
        const odd = yield* manifest.register(entryOf("\"\n\u{1F600}"))
        yield* manifest.remove(pathOf("gone"), "")
        const asked = [odd.entry.path, pathOf("db/cpu/b.parquet"), pathOf("gone"), entry.path, odd.entry.path]
        const answers = [
          Option.some(odd),
          Option.none(),
          Option.none(),
          Option.some(registered),
          Option.some(odd)
        ]
        assert.deepStrictEqual(yield* getAll(manifest, asked), answers)
        const often = Array.from({ length: 60 })
        assert.deepStrictEqual(yield* getAll(manifest, often.flatMap(() => asked)), often.flatMap(() => answers))
        assert.deepStrictEqual(yield* getAll(manifest, []), [])
        const { files } = yield* manifest.page(Option.none(), 10)
        assert.strictEqual(files[0]?.entry.path, "\"\n\u{1F600}")
        assert.deepStrictEqual(files[1], registered)
      }))

    live("gives an integer that fits a double as a number, however it was written", () =>
      Effect.gen(function*() {
        const manifest = yield* Manifest
        const { entry } = yield* manifest.register(entryOf("a", "a", { lsn: 5n }))
        assert.strictEqual(entry.lsn, 5)
        assert.deepStrictEqual(
          Option.map(yield* manifest.get(entry.path), (file) => file.entry.lsn),
          Option.some(5)
        )
      }))

    live(
      "answers the same bytes again with the entry that stands, and makes no event of it",
      () =>
        Effect.gen(function*() {
          const manifest = yield* Manifest
          const first = yield* manifest.register(entryOf("a", "same", { origin_node_id: "node-1" }))
          const head = yield* manifest.head
          const second = yield* manifest.register(entryOf("a", "same", { origin_node_id: "node-2" }))
          assert.deepStrictEqual(second, first)
          assert.deepStrictEqual(yield* manifest.head, head)
        })
    )

    live("refuses other bytes under a path that is taken, and names what stands there", () =>
      Effect.gen(function*() {
        const manifest = yield* Manifest
        const { entry } = yield* manifest.register(entryOf("a", "one"))
        const error = yield* Effect.flip(manifest.register(entryOf("a", "other")))
        assert(error._tag === "Conflict")
        assert.strictEqual(error.kind, "OtherBytes")
        assert.deepStrictEqual(error.standing, entry)
      }))

    live("refuses a file where a folder is, and a file in what is a file", () =>
      Effect.gen(function*() {
        const manifest = yield* Manifest
        const { entry } = yield* manifest.register(entryOf("a/b/c"))
        for (const path of ["a", "a/b", "a/b/c/d", "a/b/c/d/e"]) {
          const error = yield* Effect.flip(manifest.register(entryOf(path)))
          assert(error._tag === "Conflict")
          assert.strictEqual(error.kind, "FolderAndFile")
          assert.deepStrictEqual(error.standing, entry)
          assert.strictEqual(error.path, path)
        }
        // Neighbours in the order of bytes are no clash: "-" sorts before "/", "0" right behind it.
        for (const path of ["a-b", "a0", "a/b-", "a/b0", "a/b/c0"]) yield* manifest.register(entryOf(path))
      }))

    live(
      "finds both kinds of conflict within one list of registrations, each with an answer of its own",
      () =>
        Effect.gen(function*() {
          const manifest = yield* Manifest
          const answers = yield* manifest.registerAll([
            entryOf("x/y"),
            entryOf("x"),
            entryOf("x/y/z"),
            entryOf("x/y", "other"),
            entryOf("x/y"),
            entryOf("z")
          ])
          assert.deepStrictEqual(
            answers.map((answer) =>
              "revision" in answer ? answer.entry.path : answer._tag === "Conflict" ? answer.kind : ""
            ),
            ["x/y", "FolderAndFile", "FolderAndFile", "OtherBytes", "x/y", "z"]
          )
          assert.deepStrictEqual(answers[4], answers[0])
        })
    )

    live(
      "refuses an entry that breaks the rules, by itself, and takes the others of a list",
      () =>
        Effect.gen(function*() {
          const manifest = yield* Manifest
          // Made without the schema: such an entry would be kept, and could be read by nobody.
          const long = { ...entryOf("long"), database: "x".repeat(2_000_000) }
          const timeless = { ...entryOf("timeless"), partition_time: "yesterday" }
          const answers = yield* manifest.registerAll([entryOf("a"), long, entryOf("b"), timeless])
          assert.deepStrictEqual(
            answers.map((answer) => "revision" in answer ? answer.entry.path : answer._tag),
            ["a", "EntryRefused", "b", "EntryRefused"]
          )
          const error = yield* Effect.flip(manifest.register(long))
          assert.strictEqual(error._tag, "EntryRefused")
          assert.match(error.message, /^long can't be registered: .*database.*at most 4096 bytes/s)
          const head = yield* manifest.head
          const refusals = [undefined, "EntryRefused", undefined]
          const list = [entryOf("c"), timeless, entryOf("d")]
          assert.deepStrictEqual((yield* manifest.check(list)).map((one) => one?._tag), refusals)
          assert.deepStrictEqual((yield* manifest.registerTogether(list)).map((one) => one?._tag), refusals)
          assert.strictEqual((yield* Effect.flip(manifest.replace({ add: list, remove: [] })))._tag, "EntryRefused")
          assert.deepStrictEqual(yield* manifest.head, head)
          assert.deepStrictEqual(yield* allPaths(10), ["a", "b"])
          yield* manifest.remove(pathOf("c"), "y".repeat(2_000_000))
          const gone = yield* Effect.flip(manifest.register(entryOf("c")))
          assert(gone._tag === "Gone")
          assert.strictEqual(gone.reason, "y".repeat(1000))
        })
    )

    live("registers a list together, or nothing of it when one is refused", () =>
      Effect.gen(function*() {
        const manifest = yield* Manifest
        yield* manifest.register(entryOf("a", "one"))
        const head = yield* manifest.head
        const list = [entryOf("b"), entryOf("a", "two"), entryOf("b/below"), entryOf("c")]
        const refused = yield* manifest.registerTogether(list)
        assert.deepStrictEqual(
          refused.map((answer) => answer?._tag === "Conflict" ? answer.kind : answer?._tag),
          [undefined, "OtherBytes", "FolderAndFile", undefined]
        )
        assert.deepStrictEqual(yield* manifest.head, head)
        assert.deepStrictEqual(yield* allPaths(10), ["a"])

        const many = Array.from({ length: 1200 }, (_, n) => entryOf(`m/${String(n).padStart(4, "0")}`))
        assert.isTrue(
          (yield* manifest.registerTogether([entryOf("a", "one"), ...many])).every((one) => one === undefined)
        )
        assert.strictEqual((yield* allPaths(500)).length, 1201)
        const events = yield* manifest.events(head).pipe(
          Stream.flatMap((batch) => Stream.fromIterable(batch.events)),
          Stream.take(1200),
          Stream.runCollect
        )
        assert.deepStrictEqual(
          events.map((event) => event._tag === "Put" ? event.file.entry.path : ""),
          many.map(({ path }) => path)
        )
      }))

    live("says what a list of registrations would meet, and registers nothing", () =>
      Effect.gen(function*() {
        const manifest = yield* Manifest
        const { entry } = yield* manifest.register(entryOf("a", "one"))
        yield* manifest.remove(pathOf("removed"), "retention")
        const head = yield* manifest.head
        const answers = yield* manifest.check([
          entryOf("a", "one"),
          entryOf("a", "two"),
          entryOf("removed"),
          entryOf("new"),
          entryOf("new/file"),
          entryOf("new", "other")
        ])
        assert.deepStrictEqual(
          answers.map((answer) => answer?._tag === "Conflict" ? answer.kind : answer?._tag),
          [undefined, "OtherBytes", "Gone", undefined, "FolderAndFile", "OtherBytes"]
        )
        assert(answers[1]?._tag === "Conflict" && answers[2]?._tag === "Gone")
        assert.deepStrictEqual(answers[1].standing, entry)
        assert.strictEqual(answers[2].reason, "retention")
        assert.deepStrictEqual(yield* manifest.head, head)
        assert.deepStrictEqual(yield* allPaths(10), ["a"])
        assert.deepStrictEqual(yield* manifest.check([]), [])
        yield* manifest.register(entryOf("new/file"))
      }))

    live(
      "takes a list of registrations longer than one transaction and answers in its order",
      () =>
        Effect.gen(function*() {
          const manifest = yield* Manifest
          const entries = Array.from({ length: 1203 }, (_, i) => entryOf(`f/${(i * 7919) % 1203}`))
          const answers = yield* manifest.registerAll(entries)
          assert.deepStrictEqual(
            answers.map((answer) => "revision" in answer ? answer.entry.path : ""),
            entries.map(({ path }) => path)
          )
          const revisions = answers.map((answer) => "revision" in answer ? answer.revision : 0)
          assert.deepStrictEqual(revisions, [...revisions].sort((a, b) => a - b))
          assert.strictEqual((yield* manifest.head).revision, revisions.at(-1))
          assert.deepStrictEqual(yield* manifest.registerAll([]), [])
        })
    )

    live("never lets a removed path come back", () =>
      Effect.gen(function*() {
        const manifest = yield* Manifest
        yield* manifest.register(entryOf("a"))
        const revision = yield* manifest.remove(pathOf("a"), "retention")
        const error = yield* Effect.flip(manifest.register(entryOf("a")))
        assert(error._tag === "Gone")
        assert.strictEqual(error.reason, "retention")
        assert.deepStrictEqual(yield* manifest.get(pathOf("a")), Option.none())
        assert.strictEqual(revision, (yield* manifest.head).revision)
      }))

    live(
      "removes an absent path by a tombstone, and a removed one without another event",
      () =>
        Effect.gen(function*() {
          const manifest = yield* Manifest
          const revision = yield* manifest.remove(pathOf("never/was"), "first")
          const head = yield* manifest.head
          assert.strictEqual(yield* manifest.remove(pathOf("never/was"), "second"), revision)
          assert.deepStrictEqual(yield* manifest.head, head)
          const error = yield* Effect.flip(manifest.register(entryOf("never/was")))
          assert(error._tag === "Gone")
          assert.strictEqual(error.reason, "first")
        })
    )

    live("lets a folder's name become a file's once the files below it are removed", () =>
      Effect.gen(function*() {
        const manifest = yield* Manifest
        yield* manifest.register(entryOf("a/b"))
        yield* manifest.remove(pathOf("a/b"), "gone")
        yield* manifest.register(entryOf("a"))
        assert.strictEqual((yield* Effect.flip(manifest.register(entryOf("a/c"))))._tag, "Conflict")
      }))

    live(
      "replaces as one change: one batch of events, which the revision returned is behind",
      () =>
        Effect.gen(function*() {
          const manifest = yield* Manifest
          yield* manifest.registerAll([entryOf("small/1"), entryOf("small/2")])
          const before = yield* manifest.head
          const revision = yield* manifest.replace({
            add: [entryOf("small")],
            remove: [{ path: pathOf("small/1"), reason: "merged" }, { path: pathOf("small/2"), reason: "merged" }]
          })
          const [batch] = yield* manifest.events(before).pipe(Stream.take(1), Stream.runCollect)
          assert.deepStrictEqual(
            batch?.events.map((event) => event._tag === "Put" ? event.file.entry.path : `-${event.path}`),
            ["-small/1", "-small/2", "small"]
          )
          assert.strictEqual(batch?.cursor.revision, revision)
          assert.deepStrictEqual(yield* manifest.head, batch?.cursor)
        })
    )

    live("takes nothing of a replacement of which one part is refused", () =>
      Effect.gen(function*() {
        const manifest = yield* Manifest
        const { entry } = yield* manifest.register(entryOf("a", "one"))
        yield* manifest.remove(pathOf("removed"), "before")
        const head = yield* manifest.head
        const remove = [{ path: entry.path, reason: "merged" }]
        const refusals = yield* Effect.forEach([
          { add: [entryOf("b"), entryOf("b/c")], remove },
          { add: [entryOf("b"), entryOf("b", "other")], remove },
          { add: [entryOf("b"), entryOf("a/b"), entryOf("a", "two")], remove: [] },
          { add: [entryOf("b"), entryOf("removed")], remove },
          // Removed by the very same change, and so gone.
          { add: [entryOf("b"), entryOf("a", "two")], remove }
        ], (change) => Effect.flip(manifest.replace(change)))
        assert.deepStrictEqual(
          refusals.map((error) => error._tag === "Conflict" ? `${error.kind} ${error.path}` : error._tag),
          ["FolderAndFile b/c", "OtherBytes b", "FolderAndFile a/b", "Gone", "Gone"]
        )
        assert.deepStrictEqual(yield* manifest.head, head)
        assert.deepStrictEqual(yield* allPaths(10), ["a"])
        yield* manifest.register(entryOf("b"))
      }))

    live("refuses a replacement of more paths than every engine can take", () =>
      Effect.gen(function*() {
        const manifest = yield* Manifest
        const add = Array.from({ length: 60 }, (_, i) => entryOf(`new/${i}`))
        const remove = Array.from({ length: 41 }, (_, i) => ({ path: pathOf(`old/${i}`), reason: "merged" }))
        const error = yield* Effect.flip(manifest.replace({ add, remove }))
        assert(error._tag === "TooLarge")
        assert.strictEqual(error.paths, 101)
        assert.strictEqual((yield* manifest.head).revision, 0)
        const revision = yield* manifest.replace({ add, remove: remove.slice(1) })
        const head = yield* manifest.head
        assert.strictEqual(head.revision, revision)
        // Again the same: everything stands, nothing happens.
        assert.strictEqual(yield* manifest.replace({ add, remove: remove.slice(1) }), revision)
        assert.deepStrictEqual(yield* manifest.head, head)
      }))

    live("pages in the order of the paths' bytes, whatever the page size", () =>
      Effect.gen(function*() {
        const manifest = yield* Manifest
        // In UTF-16, which JavaScript compares by, U+1F600 sorts before U+FF5E; in UTF-8 behind it.
        const ordered = ["B", "a-b", "a/b", "a/c/d", "a0", "ä", "\uFF5E", "\u{1F600}"]
        yield* manifest.registerAll([...ordered].reverse().map((path) => entryOf(path)))
        yield* manifest.remove(pathOf("a/bb"), "never was")
        for (const pageSize of [1, 3, 8, 100, 0]) assert.deepStrictEqual(yield* allPaths(pageSize), ordered)
        const first = yield* manifest.page(Option.none(), 3)
        assert.deepStrictEqual(first.next, Option.some(pathOf("a/b")))
        const last = yield* manifest.page(Option.some(pathOf("a0")), 3)
        assert.deepStrictEqual(last.files.map(({ entry }) => entry.path), ordered.slice(5).map(pathOf))
        assert.deepStrictEqual(last.next, Option.none())
      }))

    live(
      "misses nothing between a snapshot and the events behind it, though files change meanwhile",
      () =>
        Effect.gen(function*() {
          const manifest = yield* Manifest
          yield* manifest.registerAll(Array.from({ length: 20 }, (_, i) => entryOf(`f/${String(i).padStart(2, "0")}`)))
          const { at, pages } = yield* manifest.snapshot(5)
          const seen = new Set<string>()
          let turn = 0
          yield* Stream.runForEach(pages, (page) =>
            Effect.gen(function*() {
              for (const { entry } of page) seen.add(entry.path)
              turn++
              yield* manifest.register(entryOf(`e/${turn}`))
              yield* manifest.register(entryOf(`g/${turn}`))
              yield* manifest.remove(pathOf(`f/0${turn}`), "gone")
              yield* manifest.remove(pathOf(`f/1${9 - turn}`), "gone")
            }))
          for (const event of yield* eventsToHead(at)) {
            if (event._tag === "Put") seen.add(event.file.entry.path)
            else seen.delete(event.path)
          }
          assert.deepStrictEqual([...seen].sort(), [...yield* allPaths(100)].sort())
        })
    )

    events(live)
  })
}
