/** Promises that were broken once, each by an unlucky order of events; kept as what must hold. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Option, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Backend } from "../../src/ports/Backend.ts"
import { NodeId, Revision } from "../../src/ports/FileEntry.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory, type Progress } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { LocalCheck } from "../../src/replication/LocalCheck.ts"
import { objection } from "../../src/replication/lost.ts"
import { Puller } from "../../src/replication/Puller.ts"
import { Readiness } from "../../src/replication/Readiness.ts"
import { layerGuest, Scrub } from "../../src/replication/Scrub.ts"
import { write } from "../../src/testing/backend/support.ts"
import { bytesOf, clusterLayer, Dials, fileOf, hold, honest, ManifestControl, nodeLayer } from "./node.ts"
import { type Script, self, textUnder, unreachable } from "./node.ts"

const register = (...paths: ReadonlyArray<string>) =>
  Effect.flatMap(Manifest, (manifest) => manifest.registerAll(paths.map((path) => fileOf(path).entry)))

const until = Effect.fnUntraced(function*(holds: (progress: Progress) => boolean) {
  const inventory = yield* Inventory
  yield* Stream.runDrain(Stream.takeUntil(inventory.changes, holds))
})

/** Lays a file's bytes down under its name, as somebody would who copies it there by hand. */
const layDown = Effect.fnUntraced(function*(path: string) {
  const backend = yield* Backend
  const { entry } = fileOf(path)
  yield* Effect.scoped(Effect.gen(function*() {
    const staged = yield* backend.stage(entry.path, entry.sha256)
    yield* staged.write(bytesOf(entry))
    yield* staged.commit(entry.sha256)
  }))
})

/** Lets time pass in steps, so that whoever sleeps again in between is woken again too. */
const pass = (minutes: number) =>
  Effect.forEach(Array.from({ length: minutes }), () =>
    Effect.andThen(
      TestClock.adjust("1 minute"),
      Effect.forEach(Array.from({ length: 20 }), () => Effect.yieldNow, { discard: true })
    ), { discard: true })

/** A peer that takes a minute to fail for `bad/…`, and is honest about everything else. */
const slowToFail: Script = (peer, entry, offset, sink) =>
  entry.path.startsWith("bad/")
    ? Effect.andThen(Effect.sleep("1 minute"), unreachable(peer, entry, offset, sink))
    : honest(peer, entry, offset, sink)

/** Debts that have failed before. */
const failing = (count: number) =>
  Effect.gen(function*() {
    const inventory = yield* Inventory
    const files = Array.from({ length: count }, (_, n) => fileOf(`bad/${n}`, n + 1))
    yield* inventory.apply(files.map((file) => ({ _tag: "Owe", file, reason: "", due: 0 })))
    for (const file of files) yield* inventory.postpone(file, 0, "nobody has it", [])
  })

/** A backend that, while `armed`, tells when it begins to hash a file, and waits then until it may go on. */
const slowToHash = (armed: () => boolean) => {
  const hashing = Deferred.makeUnsafe<void>()
  const goOn = Deferred.makeUnsafe<void>()
  const slow = Layer.effect(
    Backend,
    Effect.map(Backend, (backend) =>
      Backend.of({
        ...backend,
        adopt: (path) =>
          Effect.suspend(() =>
            armed()
              ? Deferred.succeed(hashing, undefined).pipe(
                Effect.andThen(Deferred.await(goOn)),
                Effect.andThen(backend.adopt(path))
              )
              : backend.adopt(path)
          )
      }))
  )
  return { goOn, hashing, slow }
}

describe("a manifest of another history", () => {
  it.effect("is never taken for the one that was followed, even under the same epoch", () =>
    Effect.gen(function*() {
      const control = yield* ManifestControl
      const readiness = yield* Readiness
      yield* control.setUnavailable(Option.none())
      yield* register("db/new")
      const { epoch, mark } = yield* (yield* Manifest).head
      // This node has followed it up to 10; a backup from before was put back, and it is away for a while.
      yield* (yield* Inventory).apply([], { epoch, revision: Revision.make(10), mark: "of the lost history" })
      yield* control.setUnavailable(Option.some("away"))
      const waiting = yield* Effect.forkChild(readiness.await({ epoch, revision: Revision.make(1), mark }))
      yield* TestClock.adjust("6 seconds")
      yield* control.setUnavailable(Option.none())
      for (let n = 0; n < 200; n++) {
        assert.isFalse(yield* readiness.ready)
        yield* TestClock.adjust("20 millis")
      }
      assert.isUndefined(waiting.pollUnsafe())
      yield* Fiber.interrupt(waiting)
    }).pipe(Effect.provide(clusterLayer({ manifestAway: true, script: unreachable }))))

  for (const restoredTo of [0, 1]) {
    const what = restoredTo === 0 ? "lists the same bytes elsewhere" : "does not know it"
    it.effect(`costs no file that is just being hashed, when it ${what}`, () => {
      const { goOn, hashing, slow } = slowToHash(() => true)
      return Effect.gen(function*() {
        const control = yield* ManifestControl
        yield* layDown("db/a")
        yield* register("db/x", "db/a")
        yield* Deferred.await(hashing)
        yield* control.restore(Revision.make(restoredTo))
        if (restoredTo === 0) yield* register("db/a")
        yield* TestClock.adjust("3 seconds")
        yield* Deferred.succeed(goOn, undefined)
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("db/a"))
      }).pipe(Effect.provide(clusterLayer({ script: unreachable, backend: slow })))
    })
  }

  it.effect("hides no damage that was being looked at when it came", () => {
    let armed = false
    const { goOn, hashing, slow } = slowToHash(() => armed)
    let reachable = true
    const script: Script = (...fetch) => reachable ? honest(...fetch) : unreachable(...fetch)
    return Effect.gen(function*() {
      const inventory = yield* Inventory
      const backend = yield* Backend
      yield* register("db/x", "db/a")
      yield* until(({ owed, verified }) => verified.files === 2 && owed.files === 0)
      reachable = false
      const path = FilePath.make("db/a")
      yield* backend.remove(path)
      yield* write(path, new TextEncoder().encode("XX/X"))
      armed = true
      const check = yield* Effect.forkChild((yield* LocalCheck).check)
      yield* Deferred.await(hashing)
      // Another history knows the same bytes under another revision, and the row follows it while the file is hashed.
      yield* (yield* ManifestControl).restore(Revision.make(0))
      yield* register("db/a", "db/x")
      yield* TestClock.adjust("3 seconds")
      const between = yield* inventory.why(path)
      assert.isTrue(Option.exists(between, (row) => row._tag === "Verified" && row.file.revision === 1))
      armed = false
      yield* Deferred.succeed(goOn, undefined)
      yield* Fiber.join(check)
      assert.isTrue(Option.exists(yield* inventory.why(path), ({ _tag }) => _tag === "Owed"))
      assert.isFalse(yield* (yield* Readiness).ready)
      reachable = true
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("db/a"))
    }).pipe(Effect.provide(clusterLayer({ script, backend: slow })))
  })

  it.effect("leaves no debt behind when an orphan of the old one is tidied away", () => {
    let gone = ""
    const script: Script = (peer, entry, offset, sink) =>
      entry.path === gone ? unreachable(peer, entry, offset, sink) : honest(peer, entry, offset, sink)
    return Effect.gen(function*() {
      yield* register("db/a", "db/b")
      yield* until(({ owed, verified }) => verified.files === 2 && owed.files === 0)
      yield* (yield* ManifestControl).restore(Revision.make(1))
      yield* TestClock.adjust("3 seconds")
      gone = "db/b"
      yield* (yield* Backend).remove(FilePath.make("db/b"))
      yield* (yield* LocalCheck).check
      yield* TestClock.adjust("5 seconds")
      assert.isTrue(Option.isNone(yield* (yield* Inventory).why(FilePath.make("db/b"))))
      assert.strictEqual((yield* (yield* Readiness).status).reason, "")
    }).pipe(Effect.provide(clusterLayer({ script })))
  })
})

describe("await", () => {
  it.effect("does not believe what has not been compared with the disk since the start", () => {
    const compare = Deferred.makeUnsafe<void>()
    const slow = Layer.effect(
      Backend,
      Effect.map(
        Backend,
        (backend) =>
          Backend.of({
            ...backend,
            differing: (rows) => Effect.andThen(Deferred.await(compare), backend.differing(rows))
          })
      )
    )
    return Effect.gen(function*() {
      const readiness = yield* Readiness
      yield* (yield* ManifestControl).setUnavailable(Option.none())
      const [a] = yield* register("db/a")
      assert.isDefined(a)
      yield* hold(fileOf("db/a", 1))
      yield* (yield* Backend).remove(FilePath.make("db/a"))
      const head = yield* (yield* Manifest).head
      yield* (yield* Inventory).apply([], head)
      const waiting = yield* Effect.forkChild(readiness.await(head))
      yield* TestClock.adjust("10 seconds")
      assert.isUndefined(waiting.pollUnsafe())
      yield* Deferred.succeed(compare, undefined)
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(waiting)
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.some("db/a"))
    }).pipe(Effect.provide(clusterLayer({ manifestAway: true, backend: slow })))
  })
})

describe("what fails again and again", () => {
  it.effect("does not keep the walk from going on", () =>
    Effect.gen(function*() {
      yield* (yield* ManifestControl).setUnavailable(Option.none())
      yield* register(...Array.from({ length: 20 }, (_, n) => `good/${n}`))
      yield* pass(30)
      assert.strictEqual((yield* (yield* Puller).stats).pulled, 20)
    }).pipe(
      Effect.provide(
        clusterLayer({ manifestAway: true, queueSize: 64, workers: 2, script: slowToFail, before: failing(300) })
      )
    ))

  it.effect("does not hide what has not failed and found no place in the queue", () =>
    Effect.gen(function*() {
      const puller = yield* Puller
      const fresh = Array.from({ length: 40 }, (_, n) => fileOf(`good/${n}`, 1000 + n))
      yield* (yield* Inventory).apply(fresh.map((file) => ({ _tag: "Owe", file, reason: "", due: 1 })))
      yield* puller.offer(fresh.map((file) => ({ file })))
      yield* pass(60)
      assert.strictEqual((yield* puller.stats).pulled, 40)
    }).pipe(Effect.provide(nodeLayer({ queueSize: 16, workers: 2, script: slowToFail, before: failing(300) }))))

  it.effect("costs one attempt an interval behind its first round", () =>
    Effect.gen(function*() {
      yield* (yield* Puller).enqueue(fileOf("bad/1"))
      yield* pass(120)
      const row = yield* (yield* Inventory).why(FilePath.make("bad/1"))
      const rounds = Option.isSome(row) && row.value._tag === "Owed" ? row.value.rounds : 0
      assert.isAbove(rounds, 5)
      assert.strictEqual((yield* Dials).all.length, 3 + rounds - 1)
    }).pipe(Effect.provide(nodeLayer({ script: unreachable }))))
})

describe("an operator's word", () => {
  it.effect("verify finds a file that has grown behind its right bytes", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      yield* hold(fileOf("db/a"))
      yield* backend.remove(FilePath.make("db/a"))
      yield* Effect.scoped(Effect.gen(function*() {
        const staged = yield* backend.stage(FilePath.make("db/a"))
        yield* staged.write(new TextEncoder().encode("db/a and more"))
        yield* staged.commit((yield* staged.seal).sha256)
      }))
      assert.strictEqual((yield* (yield* Scrub).verify()).damaged, 1)
    }).pipe(Effect.provide(Layer.provideMerge(layerGuest, nodeLayer({ script: unreachable })))))

  it("forget does not pass over a node that can't be asked", () => {
    const sighting = (node: string, kind: "Absent" | "Away") => ({ node: NodeId.make(node), kind, detail: "" })
    assert.isUndefined(objection([{ node: self, kind: "Absent", detail: "" }, sighting("b", "Absent")]))
    assert.include(
      objection([{ node: self, kind: "Absent", detail: "" }, sighting("b", "Away")]) ?? "",
      "b can't be asked"
    )
  })
})
