import { assert, describe, it } from "@effect/vitest"
import { Effect, Option, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Backend } from "../../src/ports/Backend.ts"
import { Revision } from "../../src/ports/FileEntry.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory, type Progress } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { CatchUp } from "../../src/replication/CatchUp.ts"
import { Puller } from "../../src/replication/Puller.ts"
import { Readiness } from "../../src/replication/Readiness.ts"
import { Registrar } from "../../src/replication/Registrar.ts"
import { write } from "../../src/testing/backend/support.ts"
import { clusterLayer, Dials, fileOf, hold, honest, makeGate, ManifestControl, type Script, textUnder } from "./node.ts"

const until = Effect.fnUntraced(function*(holds: (progress: Progress) => boolean) {
  const inventory = yield* Inventory
  yield* Stream.runDrain(Stream.takeUntil(inventory.changes, holds))
})
const untilHeld = (files: number) => until(({ owed, verified }) => verified.files === files && owed.files === 0)
/** Lets time pass, second by second, until the inventory says so: whoever sleeps again in between is woken again too. */
const passUntil = Effect.fnUntraced(function*(holds: (progress: Progress) => boolean) {
  const inventory = yield* Inventory
  while (!holds(yield* inventory.progress)) {
    yield* TestClock.adjust("1 second")
    yield* Effect.yieldNow
  }
})

const register = (...paths: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const manifest = yield* Manifest
    return yield* manifest.registerAll(paths.map((path) => fileOf(path).entry))
  })
const numbered = (count: number) => Array.from({ length: count }, (_, n) => `db/${String(n).padStart(5, "0")}`)
const remove = (path: string) =>
  Effect.flatMap(Manifest, (manifest) => manifest.remove(FilePath.make(path), "retention"))

/** The manifest as it is when a node starts that was never there: registered while it could not be reached. */
const arrive = Effect.gen(function*() {
  yield* (yield* ManifestControl).setUnavailable(Option.none())
  yield* TestClock.adjust("2 seconds")
})
const prepare = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const control = yield* ManifestControl
    yield* control.setUnavailable(Option.none())
    yield* effect
    yield* control.setUnavailable(Option.some("away"))
  })

describe("the walk over the manifest", () => {
  it.effect("takes what a manifest with another history has, even under the same name and with lower revisions", () =>
    Effect.gen(function*() {
      const control = yield* ManifestControl
      yield* register("db/a", "db/b", "db/c")
      yield* untilHeld(3)
      yield* remove("db/a")
      yield* until(({ unlinking }) => unlinking === 1)
      yield* TestClock.adjust("1 second")
      yield* untilHeld(2)
      // A backup from before db/b and db/c, and before db/a was deleted, with the same epoch.
      yield* control.restore(Revision.make(1))
      yield* passUntil(({ cursor, owed, verified }) =>
        Option.isSome(cursor) && owed.files === 0 && verified.files === 3
      )
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("db/a"))
      assert.deepStrictEqual(yield* textUnder("db/c"), Option.some("db/c"))
      assert.strictEqual((yield* (yield* CatchUp).status).orphans, 2)
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("carries a deletion of the new history out, however high the old revision was", () =>
    Effect.gen(function*() {
      const control = yield* ManifestControl
      yield* register("db/a", "db/b", "db/c")
      yield* untilHeld(3)
      yield* control.restore(Revision.make(1))
      yield* until(({ cursor }) => Option.exists(cursor, ({ revision }) => revision === 1))
      yield* remove("db/c")
      yield* until(({ unlinking }) => unlinking === 1)
      yield* TestClock.adjust("1 second")
      yield* untilHeld(2)
      assert.deepStrictEqual(yield* textUnder("db/c"), Option.none())
      assert.deepStrictEqual(yield* textUnder("db/b"), Option.some("db/b"))
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("lets go of what only the old history asked for, and touches nothing on the disk", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        const control = yield* ManifestControl
        yield* register("db/a", "db/b")
        yield* (yield* Dials).next
        yield* (yield* Dials).next
        yield* control.restore(Revision.make(1))
        yield* until(({ owed }) => owed.files === 1)
        assert.deepStrictEqual(yield* (yield* Inventory).why(FilePath.make("db/b")), Option.none())
        yield* gate.open
        yield* untilHeld(1)
        assert.deepStrictEqual(yield* textUnder("db/b"), Option.none())
      }).pipe(Effect.provide(clusterLayer({ script: gate.script })))
    }))

  it.effect("is made again every interval, both ways", () =>
    Effect.gen(function*() {
      const inventory = yield* Inventory
      yield* register("db/a", "db/b")
      yield* untilHeld(2)
      // Lost without an event: one row that the manifest asks for, one file that it never had at this revision.
      const path = FilePath.make("db/a")
      yield* inventory.apply([{ _tag: "Forget", path, revision: Revision.make(1), due: 1e9 }])
      yield* inventory.unlinked(path, Revision.make(1))
      yield* hold(fileOf("db/never", 2))
      yield* (yield* Backend).remove(FilePath.make("db/b"))
      yield* TestClock.adjust("66 minutes")
      yield* TestClock.adjust("1 second")
      yield* until(({ owed, unlinking, verified }) => verified.files === 2 && owed.files + unlinking === 0)
      assert.deepStrictEqual(yield* textUnder("db/b"), Option.some("db/b"))
      assert.deepStrictEqual(yield* textUnder("db/never"), Option.none())
      const { completed, skipped, walked } = yield* (yield* CatchUp).status
      assert.isAbove(Option.getOrThrow(completed), 54 * 60_000)
      assert.deepStrictEqual([walked, skipped], [2, 1])
    }).pipe(Effect.provide(clusterLayer({ walkIntervalMillis: 3_600_000 }))))

  it.effect("lets go of a file of our own that was deleted before its record came", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const inventory = yield* Inventory
      const manifest = yield* Manifest
      const file = fileOf("db/mine", 1, "self")
      yield* prepare(Effect.andThen(manifest.register(file.entry), remove("db/mine")))
      // Its publish is registered, has shown the bytes, and has still to record them.
      yield* inventory.pend({ entry: file.entry, token: "" })
      const held = yield* Effect.scoped(Effect.gen(function*() {
        const staged = yield* backend.stage(file.entry.path, file.entry.sha256)
        yield* staged.write(new TextEncoder().encode("db/mine"))
        return yield* staged.commit(file.entry.sha256)
      }))
      yield* arrive
      yield* until(({ cursor }) => Option.isSome(cursor))
      assert.isFalse(yield* inventory.settle(file, held))
      yield* TestClock.adjust("1 second")
      yield* until(({ unlinking }) => unlinking === 0)
      assert.deepStrictEqual(yield* textUnder("db/mine"), Option.none())
      assert.deepStrictEqual(yield* inventory.pendings, [])
    }).pipe(Effect.provide(clusterLayer({ manifestAway: true }))))

  it.effect("reports files that nobody knows and deletes none of them", () =>
    Effect.gen(function*() {
      yield* register("db/a")
      yield* untilHeld(1)
      yield* write(FilePath.make("db/stranger"), new Uint8Array(3))
      yield* write(FilePath.make("db/second"), new Uint8Array(3))
      yield* TestClock.adjust("90 minutes")
      assert.strictEqual((yield* (yield* CatchUp).status).orphans, 2)
      assert.isTrue(Option.isSome(yield* textUnder("db/stranger")))
      yield* (yield* Registrar).adopt({ path: "db/stranger" })
      yield* TestClock.adjust("6 minutes")
      assert.strictEqual((yield* (yield* CatchUp).status).orphans, 1)
    }).pipe(Effect.provide(clusterLayer({ walkIntervalMillis: 3_600_000 }))))

  it.effect("takes files that lie in the folder already, without asking anybody", () =>
    Effect.gen(function*() {
      yield* prepare(register("db/a", "db/b"))
      yield* write(FilePath.make("db/a"), new TextEncoder().encode("db/a"))
      yield* arrive
      yield* untilHeld(2)
      assert.deepStrictEqual((yield* Dials).all.map(({ path }) => path), ["db/b"])
    }).pipe(Effect.provide(clusterLayer({ manifestAway: true }))))

  it.effect("pauses while too many files wait, and goes on when they are pulled", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        yield* prepare(register(...numbered(1300)))
        yield* arrive
        yield* until(({ owed }) => owed.files === 500)
        yield* TestClock.adjust("1 minute")
        const { completed, running, walked } = yield* (yield* CatchUp).status
        assert.deepStrictEqual([completed, running, walked], [Option.none(), true, 500])
        assert.isAtMost((yield* (yield* Puller).stats).queueDepth, 40)
        yield* gate.open
        yield* passUntil(({ cursor, owed, verified }) =>
          Option.isSome(cursor) && owed.files === 0 && verified.files === 1300
        )
        assert.strictEqual((yield* (yield* CatchUp).status).walked, 1300)
        assert.strictEqual(new Set((yield* Dials).all.map(({ path }) => path)).size, (yield* Dials).all.length)
      }).pipe(Effect.provide(clusterLayer({ manifestAway: true, script: gate.script, queueSize: 20 })))
    }))

  it.effect("does not wait for room while pulling pauses; what it found is pulled afterwards", () =>
    Effect.gen(function*() {
      const puller = yield* Puller
      yield* puller.pause("operator")
      yield* prepare(register(...numbered(600)))
      yield* arrive
      yield* passUntil(({ cursor }) => Option.isSome(cursor))
      assert.strictEqual((yield* (yield* CatchUp).status).walked, 600)
      assert.strictEqual((yield* (yield* Inventory).progress).owed.files, 600)
      yield* puller.resume("operator")
      yield* passUntil(({ owed, verified }) => owed.files === 0 && verified.files === 600)
    }).pipe(Effect.provide(clusterLayer({ manifestAway: true, queueSize: 20 }))))

  it.effect("takes events while it goes on, and brings back nothing that they deleted", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        yield* prepare(register(...numbered(700)))
        yield* arrive
        yield* until(({ owed }) => owed.files === 500)
        // One that was walked, one that was not, and one that is new and ours before the walk gets there.
        yield* remove("db/00003")
        yield* remove("db/00600")
        yield* register("db/zzz")
        yield* until(({ owed, unlinking }) => owed.files === 500 && unlinking === 1)
        assert.deepStrictEqual((yield* (yield* Inventory).progress).cursor, Option.none())
        yield* TestClock.adjust("10 seconds")
        yield* until(({ unlinking }) => unlinking === 0)
        yield* gate.open
        yield* passUntil(({ cursor, owed, verified }) =>
          owed.files === 0 && verified.files === 699 && Option.exists(cursor, ({ revision }) => revision === 703)
        )
        assert.deepStrictEqual(yield* textUnder("db/00003"), Option.none())
        assert.isTrue(yield* (yield* Readiness).ready)
      }).pipe(Effect.provide(clusterLayer({ manifestAway: true, script: gate.script, queueSize: 20 })))
    }))

  it.effect("is never made twice at once", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        yield* prepare(register(...numbered(700)))
        yield* arrive
        yield* until(({ owed }) => owed.files === 500)
        const { started } = yield* (yield* CatchUp).status
        yield* TestClock.adjust("3 minutes")
        const now = yield* (yield* CatchUp).status
        assert.deepStrictEqual([now.started, now.running, now.walked], [started, true, 500])
      }).pipe(
        Effect.provide(
          clusterLayer({ manifestAway: true, script: gate.script, queueSize: 20, walkIntervalMillis: 60_000 })
        )
      )
    }))

  it.effect("waits, when the history changes, for one that is being made again: two never overlap", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      let slow = false
      const script: Script = (peer, entry, offset, sink) =>
        slow ? gate.script(peer, entry, offset, sink) : honest(peer, entry, offset, sink)
      yield* Effect.gen(function*() {
        const control = yield* ManifestControl
        const inventory = yield* Inventory
        yield* register(...numbered(700))
        yield* passUntil(({ owed, verified }) => owed.files === 0 && verified.files === 700)
        // The rows of the first page are gone without an event, so that the walk has to pull and to wait for that.
        slow = true
        for (const path of numbered(400)) {
          const at = FilePath.make(path)
          yield* inventory.apply([{ _tag: "Forget", path: at, revision: Revision.make(700), due: 1e9 }])
          yield* inventory.unlinked(at, Revision.make(700))
          yield* (yield* Backend).remove(at)
        }
        yield* passUntil(({ owed }) => owed.files === 400)
        const { started } = yield* (yield* CatchUp).status
        assert.deepInclude(yield* (yield* CatchUp).status, { running: true, walked: 500 })
        yield* control.changeEpoch
        yield* passUntil(({ cursor }) => Option.isNone(cursor))
        yield* TestClock.adjust("1 minute")
        assert.deepInclude(yield* (yield* CatchUp).status, { started, running: true, walked: 500 })
        yield* gate.open
        yield* passUntil(({ cursor, owed, verified }) =>
          Option.isSome(cursor) && owed.files === 0 && verified.files === 700
        )
      }).pipe(Effect.provide(clusterLayer({ script, queueSize: 20, walkIntervalMillis: 3_600_000 })))
    }))

  it.effect("says when the manifest has not told its newest position in time, and is made once it answers", () =>
    Effect.gen(function*() {
      const catchUp = yield* CatchUp
      yield* prepare(register("db/a"))
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual((yield* catchUp.status).barrier, "waiting")
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual((yield* catchUp.status).barrier, "timedOut")
      yield* TestClock.adjust("2 seconds")
      assert.isTrue(Option.isSome((yield* catchUp.status).lastError))
      yield* arrive
      yield* untilHeld(1)
      const { barrier, lastError, walked } = yield* catchUp.status
      assert.deepStrictEqual([barrier, lastError, walked], ["reached", Option.none(), 1])
    }).pipe(Effect.provide(clusterLayer({ manifestAway: true }))))

  it.effect("is made once a manifest answers that did not answer at all; meanwhile what is owed is pulled", () => {
    let silent = true
    const ask = <A, E>(question: Effect.Effect<A, E>) => Effect.suspend(() => silent ? Effect.never : question)
    return Effect.gen(function*() {
      const catchUp = yield* CatchUp
      const readiness = yield* Readiness
      yield* register("db/old", "db/a")
      // What an earlier life has left owed is the view at hand.
      yield* untilHeld(1)
      yield* TestClock.adjust("11 seconds")
      assert.strictEqual((yield* catchUp.status).barrier, "timedOut")
      yield* TestClock.adjust("12 seconds")
      assert.include(Option.getOrElse((yield* catchUp.status).lastError, () => ""), "it does not answer")
      assert.isFalse(yield* readiness.ready)
      assert.strictEqual((yield* readiness.status).reason, "the manifest has not answered yet")
      // The answers that were waited for never come; those to later questions do.
      silent = false
      yield* passUntil(({ cursor, verified }) => Option.isSome(cursor) && verified.files === 2)
      yield* TestClock.adjust("20 seconds")
      assert.isTrue(yield* readiness.ready)
    }).pipe(Effect.provide(clusterLayer({
      before: Effect.flatMap(
        Inventory,
        (inventory) => inventory.apply([{ _tag: "Owe", file: fileOf("db/old"), reason: "", due: 0 }])
      ),
      manifest: (inner) => ({ ...inner, head: ask(inner.head), lost: (cursor) => ask(inner.lost(cursor)) })
    })))
  })

  it.effect("can be switched off: new files are pulled, older ones not, and the node does not become ready", () =>
    Effect.gen(function*() {
      yield* prepare(register("db/a"))
      yield* arrive
      yield* register("db/b")
      yield* untilHeld(1)
      assert.deepStrictEqual((yield* Dials).all.map(({ path }) => path), ["db/b"])
      assert.deepStrictEqual((yield* (yield* Inventory).progress).cursor, Option.none())
      assert.isFalse(yield* (yield* Readiness).ready)
      // What comes while the manifest was away for a moment is not left out either.
      const control = yield* ManifestControl
      yield* control.setUnavailable(Option.some("away"))
      yield* TestClock.adjust("1 second")
      yield* prepare(register("db/c"))
      yield* arrive
      yield* untilHeld(2)
    }).pipe(Effect.provide(clusterLayer({ manifestAway: true, catchUp: false }))))
})
