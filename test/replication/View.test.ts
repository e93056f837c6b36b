import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Layer, Option, Queue, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Backend } from "../../src/ports/Backend.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { LocalCheck } from "../../src/replication/LocalCheck.ts"
import * as View from "../../src/replication/View.ts"
import { entryOf } from "../support/entries.ts"
import { clusterLayer, honest, ManifestControl, type NodeOptions, type Script, textUnder } from "./node.ts"

const viewLayer = (options: NodeOptions = {}) => View.layer.pipe(Layer.provideMerge(clusterLayer(options)))

const path = (text: string) => FilePath.make(text)
const reason = "merged"
const removed = (...paths: ReadonlyArray<string>) => paths.map((each) => ({ path: path(each), reason }))

/** Lets time pass until something is so. */
const until = <E, R>(what: string, check: Effect.Effect<boolean, E, R>) =>
  Effect.gen(function*() {
    for (let n = 0; n < 300; n++) {
      if (yield* check) return
      yield* TestClock.adjust("1 second")
    }
    assert.fail(`it never came to this: ${what}`)
  })

const shown = Effect.scoped(
  Effect.map(
    Effect.flatMap(View.View, (view) => view.open(() => true)),
    ({ files }) => files.map(({ entry }) => entry.path).sort().join(" ")
  )
)

/** What is shown once there is a view at all. */
const shows = (expected: string) =>
  until(`the view is ${expected}`, Effect.map(Effect.option(shown), Option.contains(expected)))

const unlinking = Effect.map(Effect.flatMap(Inventory, ({ progress }) => progress), (progress) => progress.unlinking)

/** Peers that have everything but what is held back until it is let go. */
const makePeers = Effect.map(Deferred.make<void>(), (open) => {
  const script: Script = (peer, entry, offset, sink) =>
    entry.path.startsWith("late/")
      ? Effect.andThen(Deferred.await(open), honest(peer, entry, offset, sink))
      : honest(peer, entry, offset, sink)
  return { script, open: Deferred.succeed(open, undefined) }
})

describe("View", () => {
  it.effect("goes from small files to the merged one at once, when that is here, and keeps them on the disk until then", () =>
    Effect.gen(function*() {
      const peers = yield* makePeers
      yield* Effect.gen(function*() {
        const manifest = yield* Manifest
        const view = yield* View.View
        yield* manifest.registerAll([entryOf("a"), entryOf("b"), entryOf("c")])
        yield* shows("a b c")
        const seen = new Set<string>()
        yield* view.changes.pipe(
          Stream.runForEach(() => Effect.map(shown, (now) => seen.add(now))),
          Effect.forkScoped
        )
        yield* manifest.replace({ add: [entryOf("late/ab")], remove: removed("a", "b") })
        yield* until("the deletions are known", Effect.map(unlinking, (files) => files === 2))
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(yield* shown, "a b c")
        assert.deepStrictEqual(yield* textUnder("a"), Option.some("a"))
        yield* peers.open
        yield* shows("c late/ab")
        yield* until("they are unlinked", Effect.map(unlinking, (files) => files === 0))
        assert.deepStrictEqual(yield* textUnder("a"), Option.none())
        assert.deepStrictEqual([...seen], ["a b c", "c late/ab"])
      }).pipe(Effect.provide(viewLayer({ script: peers.script })))
    }))

  it.effect("keeps what somebody has open on the disk until it is closed, and not longer", () =>
    Effect.gen(function*() {
      const manifest = yield* Manifest
      const view = yield* View.View
      yield* manifest.registerAll([entryOf("a"), entryOf("b")])
      yield* shows("a b")
      const query = yield* Scope.make()
      const { files } = yield* Scope.provide(view.open((entry) => entry.path === "a"), query)
      assert.deepStrictEqual(files.map(({ entry }) => entry.path), [path("a")])
      yield* manifest.replace({ add: [entryOf("ab")], remove: removed("a", "b") })
      yield* shows("ab")
      yield* until("what nobody has open is unlinked", Effect.map(unlinking, (files) => files === 1))
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* textUnder("a"), Option.some("a"))
      assert.deepStrictEqual(yield* textUnder("b"), Option.none())
      yield* Scope.close(query, Exit.void)
      yield* until("it is unlinked", Effect.map(unlinking, (files) => files === 0))
      assert.deepStrictEqual(yield* textUnder("a"), Option.none())
    }).pipe(Effect.provide(viewLayer())))

  it.effect("shows a merge of a file that never arrived in place of what that file would have replaced", () =>
    Effect.gen(function*() {
      const peers = yield* makePeers
      yield* Effect.gen(function*() {
        const manifest = yield* Manifest
        const view = yield* View.View
        yield* manifest.registerAll([entryOf("a"), entryOf("b"), entryOf("c")])
        yield* shows("a b c")
        yield* manifest.replace({ add: [entryOf("late/ab")], remove: removed("a", "b") })
        yield* until("the deletions are known", Effect.map(unlinking, (files) => files === 2))
        yield* manifest.replace({ add: [entryOf("abc")], remove: removed("late/ab", "c") })
        yield* shows("abc")
        const head = yield* manifest.head
        yield* view.await(head)
      }).pipe(Effect.provide(viewLayer({ script: peers.script })))
    }))

  it.effect("shows what came later while a file is on its way, and says up to where all is shown", () =>
    Effect.gen(function*() {
      const peers = yield* makePeers
      yield* Effect.gen(function*() {
        const manifest = yield* Manifest
        const view = yield* View.View
        yield* manifest.register(entryOf("a"))
        yield* shows("a")
        const before = yield* manifest.head
        yield* manifest.register(entryOf("late/b"))
        yield* until("it is followed", Effect.map((yield* Inventory).progress, ({ owed }) => owed.files === 1))
        yield* manifest.register(entryOf("c"))
        yield* shows("a c")
        const { through } = yield* Effect.scoped(view.open(() => true))
        assert.deepStrictEqual(through, { epoch: before.epoch, revision: before.revision })
        yield* peers.open
        yield* shows("a c late/b")
        yield* view.await(yield* manifest.head)
      }).pipe(Effect.provide(viewLayer({ script: peers.script })))
    }))

  it.effect("is none before everything is here that there was at the start", () =>
    Effect.gen(function*() {
      const peers = yield* makePeers
      yield* Effect.gen(function*() {
        const inventory = yield* Inventory
        yield* until("one is here", Effect.map(inventory.progress, ({ verified }) => verified.files === 1))
        yield* TestClock.adjust("1 minute")
        assert.strictEqual((yield* Effect.flip(shown))._tag, "Incomplete")
        yield* peers.open
        yield* shows("a late/b")
      }).pipe(
        Effect.provide(View.layer.pipe(
          Layer.provideMerge(
            Layer.effectDiscard(
              Effect.flatMap(Manifest, (manifest) => manifest.registerAll([entryOf("a"), entryOf("late/b")]))
            )
          ),
          Layer.provideMerge(clusterLayer({ script: peers.script }))
        ))
      )
    }))

  it.effect("refuses to be opened over a file that this disk has lost, and over that file only", () =>
    Effect.gen(function*() {
      const dead = yield* Deferred.make<void>()
      const script: Script = (peer, entry, offset, sink) =>
        Effect.flatMap(Deferred.isDone(dead), (is) => is ? Effect.never : honest(peer, entry, offset, sink))
      yield* Effect.gen(function*() {
        const manifest = yield* Manifest
        const view = yield* View.View
        yield* manifest.registerAll([entryOf("a"), entryOf("b")])
        yield* shows("a b")
        yield* Deferred.succeed(dead, undefined)
        yield* (yield* Backend).remove(path("a"))
        yield* (yield* LocalCheck).check
        const error = yield* Effect.flip(shown)
        assert.include(error.message, "a was lost on this disk")
        const { files } = yield* Effect.scoped(view.open((entry) => entry.path === "b"))
        assert.strictEqual(files.length, 1)
      }).pipe(Effect.provide(viewLayer({ script })))
    }))

  it.effect("stays as it is while the manifest has another history, until all of that is here", () =>
    Effect.gen(function*() {
      const peers = yield* makePeers
      yield* Effect.gen(function*() {
        const manifest = yield* Manifest
        const control = yield* ManifestControl
        yield* manifest.register(entryOf("a"))
        const kept = yield* manifest.head
        yield* manifest.registerAll([entryOf("b"), entryOf("c")])
        yield* shows("a b c")
        yield* control.restore(kept.revision)
        yield* manifest.registerAll([entryOf("d"), entryOf("late/e"), entryOf("f")])
        const all = Effect.map((yield* Inventory).progress, ({ owed }) => owed.files === 1)
        yield* until("the new history is followed", all)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* shown, "a b c")
        yield* peers.open
        yield* shows("a d f late/e")
      }).pipe(Effect.provide(viewLayer({ script: peers.script })))
    }))

  it.effect("is missed by nobody who waits for a position while the manifest comes and goes", () =>
    Effect.gen(function*() {
      const manifest = yield* Manifest
      const control = yield* ManifestControl
      const view = yield* View.View
      yield* manifest.register(entryOf("a"))
      yield* shows("a")
      yield* control.setUnavailable(Option.some("away"))
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* shown, "a")
      yield* control.setUnavailable(Option.none())
      yield* manifest.register(entryOf("b"))
      const reached = yield* Queue.unbounded<void>()
      yield* Effect.forkScoped(Effect.andThen(view.await(yield* manifest.head), Queue.offer(reached, undefined)))
      yield* until("it is reached", Effect.map(Queue.size(reached), (size) => size === 1))
      assert.strictEqual(yield* shown, "a b")
    }).pipe(Effect.provide(viewLayer())))
})
