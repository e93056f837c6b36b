import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Option, Schema, Stream, SubscriptionRef } from "effect"
import { TestClock } from "effect/testing"
import { Revision } from "../../src/ports/FileEntry.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory, InventoryError, type Progress } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { LocalCheck } from "../../src/replication/LocalCheck.ts"
import type { PauseReason } from "../../src/replication/Pauses.ts"
import { Puller } from "../../src/replication/Puller.ts"
import { type Evidence, layer as layerReadiness, Readiness, unreadyReason } from "../../src/replication/Readiness.ts"
import { encodeStatus, retryAfterMillis, Status } from "../../src/replication/Status.ts"
import { bytesPerSecond, etaMillis, observe, type Sample } from "../../src/replication/throughput.ts"
import { clusterLayer, Dials, fileOf, makeGate, ManifestControl, unreachable, untilReady, untilStatus } from "./node.ts"

/** A file is owed, and nothing else stands between this node and being ready. */
const untilOwing = untilStatus(({ reason }) => reason.includes("owed"))

/** Readiness on this node as it is, but for what stands in for some of it. */
const readinessWith = (gated: boolean) =>
  Effect.map(
    Layer.build(Layer.fresh(layerReadiness({ readyMaxLagMillis: 0, gated }))),
    (context) => Context.get(context, Readiness)
  )

const register = (...paths: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const manifest = yield* Manifest
    return yield* Effect.forEach(paths, (path) => manifest.register(fileOf(path).entry))
  })

describe("unreadyReason", () => {
  const cursor = { epoch: "e", revision: Revision.make(5), mark: "m" }
  const progress: Progress = {
    cursor: Option.some(cursor),
    owed: { files: 0, bytes: 0 },
    oldestOwed: Option.none(),
    verified: { files: 0, bytes: 0 },
    unlinking: 0,
    verifiedThrough: cursor.revision
  }
  const complete: Evidence = {
    progress,
    barrier: Option.some(cursor),
    checked: true,
    confirmed: true,
    gap: Option.none(),
    failed: Option.none(),
    paused: [],
    peers: Option.some(1),
    now: 0
  }
  const owing: Evidence = {
    ...complete,
    progress: { ...progress, owed: { files: 2, bytes: 30 }, oldestOwed: Option.some(1000) }
  }
  const why = (evidence: Partial<Evidence>, lag = 0) => unreadyReason({ ...complete, ...evidence }, lag)

  it("is empty only when the barrier is reached, the disk is checked and nothing is owed", () => {
    assert.strictEqual(why({}), "")
    assert.include(why({ barrier: Option.none() }), "has not answered")
    assert.include(why({ progress: { ...progress, cursor: Option.none() } }), "not been walked")
    assert.include(why({ barrier: Option.some({ ...cursor, revision: Revision.make(6) }) }), "revision 5 of 6")
    const elsewhere = Option.some({ ...cursor, epoch: "f", revision: Revision.make(1) })
    assert.include(why({ barrier: elsewhere }), "another history")
    assert.include(why({ checked: false }), "not all been compared")
    assert.strictEqual(why(owing), "2 files are owed, 30 bytes")
  })

  it("allows a debt that is younger than the allowed lag, and no older one", () => {
    assert.notStrictEqual(why({ ...owing, now: 1001 }), "")
    assert.strictEqual(why({ ...owing, now: 1500 }, 500), "")
    assert.notStrictEqual(why({ ...owing, now: 1501 }, 500), "")
  })

  it("allows that what the manifest has told of is followed in moments, or within the allowed lag, and not later", () => {
    const gap = Option.some({ at: { ...cursor, revision: Revision.make(7) }, since: 1000 })
    assert.strictEqual(why({ gap, now: 11_000 }), "")
    assert.strictEqual(
      why({ gap, now: 13_500 }),
      "the manifest has told of revision 7, and for 12 s what was followed is 5"
    )
    assert.strictEqual(why({ gap, now: 61_000 }, 60_000), "")
    assert.notStrictEqual(why({ gap, now: 61_001 }, 60_000), "")
  })

  it("names the part of this node that has ended, before all else", () => {
    const failed = Option.some("the follower of the manifest ended: a bug")
    assert.match(why({ ...owing, failed }), /^the follower of the manifest ended: a bug; see the log/)
  })

  it("says that nobody could be asked, when something is owed; alone with everything is ready", () => {
    assert.include(why({ ...owing, peers: Option.some(0) }), "no peer is known")
    assert.notInclude(why({ ...owing, peers: Option.none() }), "no peer is known")
    assert.strictEqual(why({ peers: Option.some(0) }), "")
  })

  it("says why pulling pauses, when something is owed", () => {
    assert.include(
      why({ ...owing, paused: ["operator"] }),
      "2 files are owed, 30 bytes, and pulling pauses: an operator"
    )
    assert.strictEqual(why({ paused: ["operator", "disk"] }), "")
  })

  it("is never empty while the inventory can't be written: a new debt could not be recorded", () => {
    assert.include(why({ paused: ["inventory"] }), "can't be written")
  })
})

describe("the rate of pulls", () => {
  const seconds = (...bytes: ReadonlyArray<number>) =>
    bytes.reduce<ReadonlyArray<Sample>>((all, bytes, at) => observe(all, { at: at * 1000, bytes }), [])

  it("is what came over the last seconds, and falls to nothing when nothing comes", () => {
    assert.strictEqual(bytesPerSecond([]), 0)
    assert.strictEqual(bytesPerSecond(seconds(500)), 0)
    assert.strictEqual(bytesPerSecond(seconds(0, 100, 200)), 100)
    const stopped = [0, 100, 200, ...Array.from({ length: 12 }, () => 200)]
    assert.strictEqual(bytesPerSecond(seconds(...stopped.slice(0, 5))), 50)
    assert.strictEqual(bytesPerSecond(seconds(...stopped)), 0)
  })

  it("keeps a bounded number of samples", () => {
    assert.isAtMost(seconds(...Array.from({ length: 1000 }, (_, n) => n)).length, 12)
  })

  it("tells how long the rest takes, and nothing while nothing comes", () => {
    assert.strictEqual(etaMillis(0, 0), 0)
    assert.isUndefined(etaMillis(10, 0))
    assert.strictEqual(etaMillis(1000, 100), 10_000)
  })
})

describe("Readiness", () => {
  it.effect("is reached by a node alone with an empty manifest", () =>
    Effect.gen(function*() {
      yield* untilReady
      const status = yield* (yield* Readiness).status
      assert.deepStrictEqual([status.reason, status.peers], ["", Option.some(0)])
    }).pipe(Effect.provide(clusterLayer({ peers: [] }))))

  it.effect("is not said before every file on the disk has been compared, and at once behind it", () =>
    Effect.gen(function*() {
      yield* untilReady
      const checked = yield* SubscriptionRef.make(false)
      const readiness = yield* Effect.provideService(readinessWith(false), LocalCheck, {
        checked: SubscriptionRef.get(checked),
        changes: SubscriptionRef.changes(checked),
        check: Effect.void,
        examine: () => Effect.succeed({ _tag: "Other" })
      })
      yield* TestClock.adjust("10 seconds")
      assert.include((yield* readiness.status).reason, "not all been compared")
      assert.isFalse(yield* readiness.ready)
      const waiting = yield* Effect.forkChild(
        Stream.runDrain(Stream.takeUntil(readiness.changes, ({ ready }) => ready)),
        { startImmediately: true }
      )
      yield* TestClock.adjust("10 seconds")
      assert.isUndefined(waiting.pollUnsafe())
      // No time passes.
      yield* SubscriptionRef.set(checked, true)
      yield* Fiber.join(waiting)
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("asks the check of the disk first: an inventory that was read before its end may miss what it found", () =>
    Effect.gen(function*() {
      yield* untilReady
      const inventory = yield* Inventory
      let checked = false
      const { status } = yield* readinessWith(false).pipe(
        Effect.provideService(LocalCheck, {
          checked: Effect.sync(() => checked),
          changes: Stream.empty,
          check: Effect.void,
          examine: () => Effect.succeed({ _tag: "Other" })
        }),
        Effect.provideService(Inventory, {
          ...inventory,
          progress: Effect.tap(inventory.progress, () => Effect.sync(() => (checked = true)))
        })
      )
      yield* TestClock.adjust("1 second")
      checked = false
      assert.include((yield* status).reason, "not all been compared")
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("is never said while a file is owed, and says how many are", () =>
    Effect.gen(function*() {
      const readiness = yield* Readiness
      yield* register("db/a")
      yield* untilOwing
      assert.isFalse(yield* readiness.ready)
      assert.include((yield* readiness.status).reason, "1 file is owed")
    }).pipe(Effect.provide(clusterLayer({ script: unreachable }))))

  it.effect("is not said of a node that owes and knows no peer, and says so", () =>
    Effect.gen(function*() {
      const readiness = yield* Readiness
      yield* register("db/a")
      yield* untilOwing
      const { ready, reason } = yield* readiness.status
      assert.deepStrictEqual([ready, reason], [
        false,
        "1 file is owed, 4 bytes, and no peer is known that could have them"
      ])
    }).pipe(Effect.provide(clusterLayer({ peers: [] }))))

  it.effect("is not said before the manifest has told how far it goes", () =>
    Effect.gen(function*() {
      const readiness = yield* Readiness
      yield* TestClock.adjust("1 minute")
      assert.include((yield* readiness.status).reason, "has not answered")
      yield* (yield* ManifestControl).setUnavailable(Option.none())
      yield* TestClock.adjust("10 seconds")
      yield* untilReady
    }).pipe(Effect.provide(clusterLayer({ manifestAway: true }))))

  it.effect("await waits for the very position: everything up to there is verified here", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        const readiness = yield* Readiness
        yield* register("db/a", "db/b")
        const head = yield* (yield* Manifest).head
        const waiting = yield* Effect.forkChild(readiness.await(head))
        yield* (yield* Dials).next
        yield* (yield* Dials).next
        assert.isUndefined(waiting.pollUnsafe())
        yield* gate.open
        yield* Fiber.join(waiting)
        assert.strictEqual((yield* (yield* Inventory).progress).owed.files, 0)
      }).pipe(Effect.provide(clusterLayer({ script: gate.script })))
    }))

  it.effect("counts what was tried in vain, and what is in flight", () =>
    Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        const readiness = yield* Readiness
        yield* register("db/a")
        yield* (yield* Dials).next
        const { failed, inFlight, owed } = yield* readiness.status
        assert.deepStrictEqual({ failed, inFlight, owed }, { failed: 0, inFlight: 1, owed: { files: 1, bytes: 4 } })
        const [file] = yield* (yield* Inventory).due(1, 1)
        if (file === undefined) return assert.fail("nothing is owed")
        yield* (yield* Inventory).postpone(file.file, 10, "in vain", [])
        assert.strictEqual((yield* readiness.status).failed, 1)
      }).pipe(Effect.provide(clusterLayer({ script: gate.script })))
    }))

  it.effect("says how long the rest takes while it comes, and not while pulling pauses", () =>
    Effect.gen(function*() {
      yield* register("db/a")
      yield* untilOwing
      const puller = yield* Puller
      let bytes = 0
      let paused: ReadonlyArray<PauseReason> = []
      const { status } = yield* Effect.provideService(readinessWith(false), Puller, {
        ...puller,
        stats: Effect.map(puller.stats, (stats) => ({ ...stats, bytes: bytes += 1000 })),
        paused: Effect.sync(() => paused)
      })
      yield* TestClock.adjust("5 seconds")
      const rate = (yield* status).bytesPerSecond
      assert.isAbove(rate, 0)
      assert.isTrue(Option.isSome((yield* status).eta))
      paused = ["disk"]
      assert.deepStrictEqual([(yield* status).bytesPerSecond, (yield* status).eta], [rate, Option.none()])
    }).pipe(Effect.provide(clusterLayer({ script: unreachable }))))

  it.effect("becomes JSON and back without a loss", () =>
    Effect.gen(function*() {
      yield* untilReady
      const status = yield* (yield* Readiness).status
      const text = JSON.stringify(encodeStatus(status))
      assert.include(text, "\"verified_through\"")
      assert.deepStrictEqual(yield* Schema.decodeEffect(Schema.fromJsonString(Status))(text), status)
    }).pipe(Effect.provide(clusterLayer())))

  it.effect("bounds when it is worth asking again", () =>
    Effect.gen(function*() {
      const status = yield* (yield* Readiness).status
      const after = (eta: number | undefined) => retryAfterMillis({ ...status, eta: Option.fromUndefinedOr(eta) })
      assert.deepStrictEqual([after(undefined), after(1), after(7000), after(10 ** 9)], [5000, 1000, 7000, 60_000])
    }).pipe(Effect.provide(clusterLayer())))
})

describe("the gate", () => {
  const owing = Effect.gen(function*() {
    yield* register("db/a")
    yield* untilOwing
  })

  it.effect("lets everything pass while it is off", () =>
    Effect.gen(function*() {
      yield* owing
      yield* (yield* Readiness).gate
    }).pipe(Effect.provide(clusterLayer({ script: unreachable }))))

  it.effect("is shut while something is owed, with the status and a time to come back, and opens behind it", () =>
    Effect.gen(function*() {
      const pulls = yield* makeGate
      yield* Effect.gen(function*() {
        const readiness = yield* Readiness
        yield* owing
        const refused = yield* Effect.flip(readiness.gate)
        assert.strictEqual(refused._tag, "NotReady")
        assert.include(refused.message, "1 file is owed")
        assert.strictEqual(Option.getOrThrow(refused.status).owed.files, 1)
        assert.isAtLeast(refused.retryAfterMillis, 1000)
        yield* pulls.open
        yield* untilReady
        yield* readiness.gate
      }).pipe(Effect.provide(clusterLayer({ script: pulls.script, gated: true })))
    }))

  it.effect("opens when the file that was owed is deleted", () =>
    Effect.gen(function*() {
      const readiness = yield* Readiness
      yield* owing
      yield* Effect.flip(readiness.gate)
      yield* (yield* Manifest).remove(FilePath.make("db/a"), "lost: by the test")
      yield* untilReady
      yield* readiness.gate
    }).pipe(Effect.provide(clusterLayer({ script: unreachable, gated: true }))))

  it.effect("stays shut when the inventory can't be read", () =>
    Effect.gen(function*() {
      yield* untilReady
      const inventory = yield* Inventory
      const progress = Effect.fail(new InventoryError({ operation: "progress", detail: "the disk is gone" }))
      const { gate } = yield* Effect.provideService(readinessWith(true), Inventory, { ...inventory, progress })
      const refused = yield* Effect.flip(gate)
      assert.include(refused.message, "the disk is gone")
      assert.deepStrictEqual(refused.status, Option.none())
    }).pipe(Effect.provide(clusterLayer())))
})
