/** Small files that are pulled together: what becomes of each. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Option, Queue, Result, Tracer } from "effect"
import { TestClock } from "effect/testing"
import * as InventoryMemory from "../../src/inventory/InventoryMemory.ts"
import { PeerUnreachable, together } from "../../src/ports/FetchClient.ts"
import { NodeId, type Registered } from "../../src/ports/FileEntry.ts"
import { Inventory, InventoryError } from "../../src/ports/Inventory.ts"
import { PathLock } from "../../src/replication/PathLock.ts"
import { Puller } from "../../src/replication/Puller.ts"
import { bytesOf, dialled, Dials, fileOf, honest, onNode, passing, type Script, textUnder } from "./node.ts"
import { areHere, bundling, ends, files, owing, pulled, resumed, right, tags } from "./together.ts"

describe("of files that were to come together", () => {
  const all = files(10)
  const [gone = fileOf("x"), wrong = fileOf("y"), ...others] = all

  const partly = bundling((_, entries) =>
    Effect.succeed(entries.map((entry) =>
      entry.path === gone.entry.path
        ? undefined
        : entry.path === wrong.entry.path
        ? Buffer.from(bytesOf(entry)).reverse()
        : bytesOf(entry)
    ))
  )
  it.effect("what did not come, or not with the right bytes, is asked for alone", () =>
    Effect.gen(function*() {
      yield* pulled(10)
      yield* areHere(all)
      const { all: dials } = yield* Dials
      assert.sameMembers(dials.map(({ path }) => path), [gone.entry.path, wrong.entry.path])
      const { checksumMismatches, wrongBytes } = yield* (yield* Puller).stats
      assert.strictEqual(checksumMismatches, 1)
      assert.deepStrictEqual(wrongBytes, new Map([[NodeId.make("node-1"), 1]]))
      assert.strictEqual(partly.asked.flatMap(({ paths }) => paths).length, 10)
    }).pipe(onNode(owing(all, { together: partly.way }))))

  it.effect("what came before the rest broke off is not asked for again", () =>
    Effect.gen(function*() {
      yield* pulled(10)
      yield* areHere(all)
      assert.strictEqual((yield* dialled).length, 4)
    }).pipe(onNode(owing(all, {
      together: (peer) =>
        Option.some((entries, use) =>
          use(entries.slice(0, 3).map(bytesOf), 0).pipe(
            Effect.andThen(use(entries.slice(3, 6).map(bytesOf), 3)),
            Effect.andThen(new PeerUnreachable({ peer: peer.id, path: entries[0].path, detail: "it broke" }))
          )
        )
    }))))

  const silent = bundling((peer, [entry]) =>
    Effect.fail(new PeerUnreachable({ peer: peer.id, path: (entry ?? gone.entry).path, detail: "silent" }))
  )
  it.effect("all are asked of the next peer when the first says nothing", () =>
    Effect.gen(function*() {
      yield* pulled(10)
      yield* areHere(all)
      assert.deepStrictEqual(new Set(yield* dialled), new Set(["node-2"]))
    }).pipe(onNode(owing(all, {
      together: (peer) => peer.id === "node-1" ? silent.way(peer) : Option.none(),
      peers: ["node-1", "node-2"]
    }))))

  const broken = bundling(() => Effect.die(new Error("a defect of the client's")))
  it.effect("all go alone behind a defect", () =>
    Effect.gen(function*() {
      yield* pulled(10)
      yield* areHere(all)
      assert.strictEqual((yield* dialled).length, 10)
      assert.strictEqual(broken.asked.flatMap(({ paths }) => paths).length, 10)
    }).pipe(onNode(owing(all, { together: broken.way }))))

  const lots = files(60)
  it.effect("none is forgotten that finds the queue full when it has to go alone", () =>
    Effect.gen(function*() {
      yield* pulled(60)
      yield* areHere(lots)
      assert.isAbove((yield* (yield* Puller).stats).dropped, 0)
    }).pipe(onNode(owing(lots, { together: bundling(() => Effect.succeed([])).way, queueSize: 4 }))))

  const full = bundling(right)
  it.effect("none is asked for when there is no room for all; those for which there is go alone", () =>
    Effect.gen(function*() {
      yield* pulled(1)
      assert.deepStrictEqual(full.asked, [])
    }).pipe(onNode(owing(all, { together: full.way, minFreeBytes: 4 * 1024 ** 3 - 20 }))))

  const held = bundling(right)
  it.effect("one whose lock somebody holds waits for it alone", () =>
    Effect.gen(function*() {
      const locks = yield* PathLock
      const taken = yield* Deferred.make<void>()
      const open = yield* Deferred.make<void>()
      yield* Effect.forkChild(
        locks.withLock(gone.entry.path)(Effect.andThen(Deferred.succeed(taken, undefined), Deferred.await(open)))
      )
      yield* Deferred.await(taken)
      const next = yield* resumed
      const first = yield* ends(next, 9)
      assert.isFalse(first.has(gone.entry.path))
      yield* Deferred.succeed(open, undefined)
      yield* ends(next, 1)
      yield* areHere([gone, wrong, ...others])
    }).pipe(onNode(owing(all, { together: held.way }))))

  it.effect("one that was deleted meanwhile is not shown", () =>
    Effect.gen(function*() {
      const requested = yield* Queue.unbounded<void>()
      const open = yield* Deferred.make<void>()
      const late = bundling((peer, entries) =>
        Effect.andThen(
          Effect.andThen(Queue.offer(requested, undefined), Deferred.await(open)),
          right(peer, entries)
        )
      )
      yield* Effect.gen(function*() {
        const next = yield* resumed
        yield* Queue.take(requested)
        const { path } = gone.entry
        const inventory = yield* Inventory
        yield* inventory.apply([{ _tag: "Forget", path, revision: fileOf("x", 99).revision, due: 0 }])
        yield* (yield* Puller).withdraw(path)
        yield* Deferred.succeed(open, undefined)
        const found = yield* ends(next, 10)
        assert.strictEqual(found.get(path)?._tag, "Withdrawn")
        assert.deepStrictEqual(yield* textUnder(path), Option.none())
        yield* areHere([wrong, ...others])
        assert.deepInclude(yield* (yield* Puller).stats, { pulled: 9, inFlight: 0 })
      }).pipe(onNode(owing(all, { together: late.way })))
    }))

  it.effect("all stay owed while they can't be recorded, and are taken from the disk when they can", () =>
    Effect.gen(function*() {
      const inventory = yield* Inventory
      let refusing = true
      const refusal = new InventoryError({ operation: "settle", detail: "the disk is full" })
      const orRefused = <A>(effect: Effect.Effect<A, InventoryError>) =>
        Effect.suspend((): Effect.Effect<A, InventoryError> => refusing ? Effect.fail(refusal) : effect)
      const failing = Inventory.of({
        ...inventory,
        settleTogether: (settlements) =>
          Effect.suspend(() =>
            refusing
              ? Effect.succeed(settlements.map(() => Result.fail(refusal)))
              : inventory.settleTogether(settlements)
          ),
        remember: (name, text) =>
          name === "probe" ? orRefused(inventory.remember(name, text)) : inventory.remember(name, text)
      })
      const unrecorded = bundling(right)
      yield* Effect.gen(function*() {
        const next = yield* resumed
        while (!(yield* (yield* Puller).paused).includes("inventory")) yield* Effect.yieldNow
        assert.strictEqual((yield* inventory.progress).owed.files, 10)
        refusing = false
        const found = yield* passing(ends(next, 10))
        assert.deepStrictEqual(new Set(tags(found)), new Set(["Skipped"]))
        yield* areHere(all)
        assert.deepStrictEqual(yield* dialled, [])
        assert.strictEqual(unrecorded.asked.flatMap(({ paths }) => paths).length, 10)
      }).pipe(onNode(owing(all, { together: unrecorded.way, inventory: failing })))
    }).pipe(Effect.provide(InventoryMemory.layer)))

  /** An inventory that can't record one of them. `before`: what is done first each time. */
  const refusingWrong = (inventory: Inventory["Service"], before: Effect.Effect<void> = Effect.void) => {
    const refusal = new InventoryError({ operation: "settle", detail: "the disk is full" })
    const isWrong = (file: Registered) => file.entry.path === wrong.entry.path
    return Inventory.of({
      ...inventory,
      settleTogether: (settlements) =>
        before.pipe(
          Effect.andThen(inventory.settleTogether(settlements.filter(({ file }) => !isWrong(file)))),
          Effect.map((settled) => {
            const left = [...settled]
            return settlements.map(({ file }) =>
              isWrong(file) ? Result.fail(refusal) : left.shift() ?? Result.fail(refusal)
            )
          })
        )
    })
  }

  it.effect("one that can't be recorded says nothing of the others, and what was deleted goes all the same", () =>
    Effect.gen(function*() {
      const inventory = yield* Inventory
      const { path } = gone.entry
      const deleted = inventory.apply([{ _tag: "Forget", path, revision: fileOf("x", 99).revision, due: 0 }])
      const failing = refusingWrong(inventory, Effect.orDie(deleted))
      yield* Effect.gen(function*() {
        const found = yield* passing(pulled(10))
        assert.strictEqual(found.get(path)?._tag, "Withdrawn")
        assert.deepStrictEqual(yield* textUnder(path), Option.none())
        assert.strictEqual(found.get(wrong.entry.path)?._tag, "Skipped")
        yield* areHere([wrong, ...others])
      }).pipe(onNode(owing(all, { together: bundling(right).way, inventory: failing })))
    }).pipe(Effect.provide(InventoryMemory.layer)))

  it.effect("one of which a tracer throws costs no receipt, and keeps nothing from being looked at again", () =>
    Effect.gen(function*() {
      const inventory = yield* Inventory
      const failing = refusingWrong(inventory)
      const throwing = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          span.attribute = (_, value) => {
            if (value === gone.entry.path) throw new Error("a defect of the tracer's")
          }
          return span
        }
      })
      yield* Effect.gen(function*() {
        const found = yield* passing(pulled(10))
        assert.strictEqual(found.get(gone.entry.path)?._tag, "Pulled")
        assert.strictEqual(found.get(wrong.entry.path)?._tag, "Skipped")
        yield* areHere(all)
      }).pipe(onNode(owing(all, { together: bundling(right).way, inventory: failing })), Effect.withTracer(throwing))
    }).pipe(Effect.provide(InventoryMemory.layer)))

  it.effect("none begins while pulls are paused, and none is lost", () =>
    Effect.gen(function*() {
      const { asked, way } = bundling(right)
      yield* Effect.gen(function*() {
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(asked, [])
        assert.deepInclude(yield* (yield* Puller).stats, { pulled: 0, failed: 0, attempts: 0 })
        yield* pulled(10)
        yield* areHere(all)
      }).pipe(onNode(owing(all, { together: way })))
    }))

  it.effect("none stays behind when the node stops while they are on their way; all are owed still", () =>
    Effect.gen(function*() {
      const inventory = yield* Inventory
      const requested = yield* Queue.unbounded<void>()
      const interrupted = yield* Queue.unbounded<void>()
      const { way } = bundling(() =>
        Effect.andThen(Queue.offer(requested, undefined), Effect.never).pipe(
          Effect.onInterrupt(() => Queue.offer(interrupted, undefined))
        )
      )
      yield* Effect.andThen(resumed, Queue.take(requested)).pipe(onNode(owing(all, { together: way, inventory })))
      yield* Queue.take(interrupted)
      assert.strictEqual((yield* inventory.progress).owed.files, 10)
      assert.strictEqual(yield* inventory.failed, 0)
    }).pipe(Effect.provide(InventoryMemory.layer)))

  it.effect("what was taken up begins no more once pulls are paused, and does when they go on", () =>
    Effect.gen(function*() {
      const requested = yield* Queue.unbounded<number>()
      const open = yield* Deferred.make<void>()
      const slow = bundling((peer, entries) =>
        Effect.andThen(
          Effect.andThen(Queue.offer(requested, entries.length), Deferred.await(open)),
          right(peer, entries)
        )
      )
      const lots = files(400)
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const next = yield* resumed
        for (let n = 0; n < 3; n++) yield* Queue.take(requested)
        const begun = slow.asked.flatMap(({ paths }) => paths).length
        yield* puller.pause("operator")
        yield* Deferred.succeed(open, undefined)
        yield* ends(next, begun)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(slow.asked.flatMap(({ paths }) => paths).length, begun)
        assert.strictEqual((yield* puller.stats).inFlight, 0)
        const inventory = yield* Inventory
        const gone = lots.slice(100, 300).filter(({ entry: { path } }) =>
          !slow.asked.some(({ paths }) => paths.includes(path))
        )
        const revision = fileOf("x", 1000).revision
        yield* inventory.apply(gone.map(({ entry: { path } }) => ({ _tag: "Forget", path, revision, due: 0 })))
        for (const { entry: { path } } of gone) yield* puller.withdraw(path)
        yield* puller.resume("operator")
        const found = yield* ends(next, 400 - begun)
        assert.strictEqual(tags(found).filter((tag) => tag === "Withdrawn").length, gone.length)
        const asked = new Set(slow.asked.flatMap(({ paths }) => paths))
        assert.isEmpty(gone.filter(({ entry: { path } }) => asked.has(path)))
        yield* areHere(lots.filter((file) => !gone.includes(file)))
      }).pipe(onNode(owing(lots, { together: slow.way })))
    }))

  it.effect("one that was withdrawn while it waited ends at once, and is not asked for", () =>
    Effect.gen(function*() {
      const requested = yield* Queue.unbounded<void>()
      const stuck = bundling(() => Effect.andThen(Queue.offer(requested, undefined), Effect.never))
      const lots = files(300)
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const next = yield* resumed
        for (let n = 0; n < 3; n++) yield* Queue.take(requested)
        // The oldest is taken up last.
        while ((yield* puller.stats).queueDepth < 300 - 3 * together.files) yield* Effect.yieldNow
        const { entry: { path } } = lots[0] ?? gone
        yield* puller.withdraw(path)
        const receipt = yield* next
        assert.deepStrictEqual([receipt._tag, receipt.file.entry.path], ["Withdrawn", path])
      }).pipe(onNode(owing(lots, { together: stuck.way })))
    }))

  it.effect("those that were registered just now do not wait for others", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(Date.parse("2030-01-01T00:00:00Z"))
      const requested = yield* Queue.unbounded<ReadonlyArray<string>>()
      const busy = bundling((_, entries) =>
        Effect.andThen(Queue.offer(requested, entries.map(({ path }) => path)), Effect.never)
      )
      const fresh = files(2, "node-1").map(({ entry, revision }): Registered => ({
        entry: { ...entry, created_at: "2030-01-01T00:00:00Z" },
        revision: fileOf("x", revision + 1000).revision
      }))
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        yield* Effect.asVoid(resumed)
        for (let n = 0; n < 3; n++) yield* Queue.take(requested)
        yield* (yield* Inventory).apply(fresh.map((file) => ({ _tag: "Owe", file, reason: "", due: 0 })))
        yield* puller.offer(fresh.map((file) => ({ file })))
        assert.deepStrictEqual(
          new Set(yield* Queue.take(requested)),
          new Set(fresh.map(({ entry: { path } }) => String(path)))
        )
      }).pipe(onNode(owing(files(400), { together: busy.way })))
    }))

  const filesOfPeers = (count: number, each: number) =>
    Array.from({ length: count }, (_, peer) => peer + 10).flatMap((peer) =>
      Array.from({ length: each }, (_, n) => fileOf(`db/node-${peer}/${n}`, 1000 * peer + n, `node-${peer}`))
    )
  const peersOf = (some: ReadonlyArray<Registered>) => [...new Set(some.map(({ entry }) => entry.origin_node_id))]

  it.effect("never more than 32 bundles are on their way, but for peers of which none is", () =>
    Effect.gen(function*() {
      const slow = filesOfPeers(12, 140)
      const quick = files(20, "node-2")
      const stuck = bundling((peer, entries) => peer.id === "node-2" ? right(peer, entries) : Effect.never)
      yield* Effect.gen(function*() {
        yield* pulled(20)
        const asked = stuck.asked.map(({ peer }) => peer)
        const silent = asked.filter((peer) => peer !== "node-2")
        assert.isBelow(silent.length, asked.length)
        assert.isAtLeast(silent.length, 32)
        for (const [n, peer] of silent.entries()) assert.isTrue(n < 32 || silent.indexOf(peer) === n, silent.join(" "))
      }).pipe(onNode(owing([...slow, ...quick], {
        together: stuck.way,
        peers: peersOf([...slow, ...quick]),
        queueSize: 3000
      })))
    }))

  it.effect("never more than 48 bundles are on their way; what would be more goes alone", () =>
    Effect.gen(function*() {
      const slow = filesOfPeers(50, 2)
      const stuck = bundling(() => Effect.never)
      yield* Effect.gen(function*() {
        const found = yield* pulled(4)
        assert.strictEqual(stuck.asked.length, 48)
        const asked = new Set(stuck.asked.map(({ peer }) => peer))
        for (const { file: { entry } } of found.values()) assert.isFalse(asked.has(entry.origin_node_id))
      }).pipe(onNode(owing(slow, { together: stuck.way, peers: peersOf(slow) })))
    }))

  it.effect("none of a slow peer's keeps those of another waiting", () =>
    Effect.gen(function*() {
      const slow = Array.from({ length: 700 }, (_, n) => fileOf(`db/node-1/${n}`, n + 1000, "node-1"))
      const quick = files(20, "node-2")
      const stuck = bundling((peer, entries) => peer.id === "node-1" ? Effect.never : right(peer, entries))
      yield* Effect.gen(function*() {
        const found = yield* pulled(20)
        assert.sameMembers(Array.from(found.keys()), quick.map(({ entry: { path } }) => String(path)))
      }).pipe(onNode(owing([...slow, ...quick], { together: stuck.way, peers: ["node-1", "node-2"], queueSize: 1000 })))
    }))

  it.effect("those of a slow peer for which too many wait go alone, and keep none of another waiting", () =>
    Effect.gen(function*() {
      const slow = Array.from({ length: 450 }, (_, n) => fileOf(`db/node-1/${n}`, n + 1000, "node-1"))
      const quick = files(20, "node-2")
      const stuck = bundling((peer, entries) => peer.id === "node-1" ? Effect.never : right(peer, entries))
      yield* Effect.gen(function*() {
        const next = yield* resumed
        const left = new Set(quick.map(({ entry: { path } }) => String(path)))
        const pulling = yield* Effect.forkChild(Effect.gen(function*() {
          while (left.size > 0) left.delete((yield* next).file.entry.path)
        }))
        while (pulling.pollUnsafe() === undefined) yield* TestClock.adjust("100 millis")
        yield* Fiber.join(pulling)
        const alone = yield* dialled
        assert.include(alone, "node-1")
        assert.notInclude(alone, "node-2")
      }).pipe(onNode(owing([...slow, ...quick], { together: stuck.way, peers: ["node-1", "node-2"], queueSize: 100 })))
    }))

  it.effect("few go alone while no peer has said that it takes such requests", () =>
    Effect.gen(function*() {
      const all = files(500)
      const { asked, way } = bundling(right)
      let heard = false
      const tells: Script = (...request) =>
        Effect.andThen(
          Effect.sleep("100 millis"),
          Effect.suspend(() => {
            heard = true
            return honest(...request)
          })
        )
      yield* Effect.gen(function*() {
        yield* passing(pulled(500))
        assert.isTrue(heard)
        assert.isAtMost((yield* dialled).length, 64 + 8)
        assert.isAtLeast(asked.flatMap(({ paths }) => paths).length, 500 - 64 - 8)
      }).pipe(onNode(owing(all, { together: (peer) => heard ? way(peer) : Option.none(), script: tells })))
    }))
})
