import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Option, type Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as BackendMemory from "../../src/backend/BackendMemory.ts"
import { Backend, BackendError } from "../../src/ports/Backend.ts"
import { Revision } from "../../src/ports/FileEntry.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { Puller, type Receipt } from "../../src/replication/Puller.ts"
import { Readiness } from "../../src/replication/Readiness.ts"
import { Registrar } from "../../src/replication/Registrar.ts"
import * as Room from "../../src/replication/Room.ts"
import { entryOf, pathOf } from "../support/entries.ts"
import { clusterLayer, Dials, fileOf, makeGate, onNode, receiptsOf, type Script, textUnder } from "./node.ts"

/** A disk that says it has so much free. */
const makeDisk = (free: number) => {
  const disk = { free, looks: 0 }
  const backend = Layer.effect(
    Backend,
    Effect.map(
      Backend,
      (backend) =>
        Backend.of({
          ...backend,
          freeSpace: Effect.andThen(Effect.yieldNow, Effect.sync(() => (disk.looks++, disk.free)))
        })
    )
  )
  return { disk, backend }
}

const sized = (path: string, size: number, revision = 1) => {
  const file = fileOf(path, revision)
  return { ...file, entry: entryOf(path, "x".repeat(size), { origin_node_id: "node-1" }) }
}

/** Sends the bytes of a file that `sized` makes. */
const sends: Script = (_peer, entry, offset, sink) => sink.write(new Uint8Array(entry.size_bytes - offset).fill(120))

const asked = Effect.map(Dials, ({ all }) => all.map(({ offset, path }) => `${path}@${offset}`))

/** Waits until something is parked. */
const untilParked = Effect.gen(function*() {
  const { paused } = yield* Puller
  while (!(yield* paused).includes("disk")) yield* Effect.yieldNow
})

/** So many receipts, however long they take. */
const collect = Effect.fnUntraced(function*(receipts: Effect.Effect<Receipt>, count: number) {
  const all: Array<string> = []
  const taking = yield* Effect.forkChild(
    Effect.replicateEffect(Effect.map(receipts, ({ _tag }) => all.push(_tag)), count)
  )
  for (let n = 0; n < 1000 && all.length < count; n++) yield* TestClock.adjust("5 seconds")
  yield* Fiber.join(taking)
  yield* TestClock.adjust("5 seconds")
  return new Set(all)
})

describe("a file that has no room on the disk", () => {
  it.effect("waits without a failure and without a dial, and those that fit go on", () => {
    const { backend, disk } = makeDisk(150)
    return Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      for (const name of ["a", "b", "c"]) yield* puller.enqueue(sized(`db/giant-${name}`, 60))
      for (const name of ["a", "b", "c"]) yield* puller.enqueue(sized(`db/small-${name}`, 10))
      for (let n = 0; n < 3; n++) {
        const receipt = yield* receipts
        assert.include([receipt._tag, receipt.file.entry.path].join(" "), "Pulled db/small")
      }
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual((yield* asked).filter((path) => path.includes("giant")), [])
      assert.deepStrictEqual(yield* puller.paused, ["disk"])
      assert.strictEqual((yield* puller.stats).failed, 0)
      disk.free = 160
      assert.deepStrictEqual(yield* collect(receipts, 3), new Set(["Pulled"]))
      assert.deepStrictEqual(yield* puller.paused, [])
    }).pipe(onNode({ backend, minFreeBytes: 100, script: sends, queueSize: 8 }))
  })

  it.effect("counts what is in flight: two never begin where only one fits", () => {
    const { backend } = makeDisk(100)
    return Effect.gen(function*() {
      const open = yield* Deferred.make<void>()
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const receipts = yield* receiptsOf
        yield* puller.enqueue(sized("db/a", 60))
        yield* puller.enqueue(sized("db/b", 60))
        yield* (yield* Dials).next
        yield* TestClock.adjust("1 minute")
        assert.strictEqual((yield* asked).length, 1)
        yield* Deferred.succeed(open, undefined)
        assert.deepStrictEqual(yield* collect(receipts, 2), new Set(["Pulled"]))
      }).pipe(onNode({ backend, script: (...args) => Effect.flatMap(Deferred.await(open), () => sends(...args)) }))
    })
  })

  it.effect("makes room in the queue for what waits behind it, whatever else is in flight", () => {
    const { backend } = makeDisk(50)
    return Effect.gen(function*() {
      const open = yield* Deferred.make<void>()
      const script: Script = (peer, entry, offset, sink) =>
        Effect.andThen(entry.path === "db/slow" ? Deferred.await(open) : Effect.void, sends(peer, entry, offset, sink))
      const owed = [
        sized("db/slow", 10, 10),
        ...[11, 12, 13].map((n) => sized(`db/large-${n}`, 60, n)),
        ...[1, 2, 3].map((n) => sized(`db/small-${n}`, 10, n))
      ]
      yield* Effect.gen(function*() {
        const puller = yield* Puller
        const receipts = yield* receiptsOf
        yield* puller.pause("operator")
        // What else wakes the feed at a start is over by then.
        yield* TestClock.adjust("10 minutes")
        yield* (yield* Inventory).apply(owed.map((file) => ({ _tag: "Owe", file, reason: "", due: 0 })))
        yield* puller.offer(owed.map((file) => ({ file })))
        yield* puller.resume("operator")
        for (let n = 0; n < 3; n++) assert.include((yield* receipts).file.entry.path, "db/small")
        yield* Deferred.succeed(open, undefined)
        assert.strictEqual((yield* receipts).file.entry.path, "db/slow")
      }).pipe(onNode({ backend, script }))
    })
  })

  it.effect("is no debt of anybody once it was deleted, and its place is free", () => {
    const { backend } = makeDisk(10)
    return Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      const file = sized("db/a", 60)
      yield* puller.enqueue(file)
      yield* untilParked
      yield* (yield* Inventory).apply([
        { _tag: "Forget", path: file.entry.path, revision: Revision.make(2), due: 0 }
      ])
      yield* puller.withdraw(file.entry.path)
      assert.strictEqual((yield* receipts)._tag, "Withdrawn")
      assert.deepStrictEqual([yield* puller.paused, (yield* puller.stats).queueDepth], [[], 0])
    }).pipe(onNode({ backend, script: sends }))
  })

  it.effect("is looked up again once there is room", () => {
    const { backend, disk } = makeDisk(10)
    const file = sized("db/a", 60)
    const { path } = file.entry
    return Effect.gen(function*() {
      const inventory = yield* Inventory
      const receipts = yield* receiptsOf
      yield* untilParked
      yield* inventory.apply([{ _tag: "Forget", path, revision: Revision.make(2), due: 0 }])
      disk.free = 100
      assert.deepStrictEqual(yield* collect(receipts, 1), new Set(["Withdrawn"]))
      assert.deepStrictEqual(yield* asked, [])
    }).pipe(onNode({
      backend,
      script: sends,
      before: Effect.flatMap(Inventory, (inventory) => inventory.apply([{ _tag: "Owe", file, reason: "", due: 0 }]))
    }))
  })

  it.effect("gives way to the file that replaces it and fits", () => {
    const { backend } = makeDisk(20)
    return Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      yield* puller.enqueue(sized("db/a", 60))
      yield* untilParked
      yield* puller.enqueue(sized("db/a", 10, 2))
      assert.strictEqual((yield* receipts)._tag, "Pulled")
      assert.deepStrictEqual(yield* puller.paused, [])
    }).pipe(onNode({ backend, script: sends }))
  })

  it.effect("holds everything when more wait than the queue takes, and nothing is lost", () => {
    const { backend, disk } = makeDisk(0)
    return Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      const files = Array.from({ length: 30 }, (_, n) => sized(`db/${n}`, 10))
      for (const file of files) yield* puller.enqueue(file)
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(yield* asked, [])
      disk.free = 10_000
      assert.deepStrictEqual(yield* collect(receipts, files.length), new Set(["Pulled"]))
      assert.deepStrictEqual(yield* puller.paused, [])
    }).pipe(onNode({ backend, script: sends, queueSize: 4 }))
  })

  it.effect("is the reason why the node is not ready, and deletes and serving go on", () => {
    const { backend, disk } = makeDisk(10 ** 9)
    return Effect.gen(function*() {
      const registrar = yield* Registrar
      const readiness = yield* Readiness
      const manifest = yield* Manifest
      yield* registrar.publish({ path: "db/mine" }, new TextEncoder().encode("mine"))
      disk.free = 50
      // What was seen of a disk with plenty of room counts for a moment.
      yield* TestClock.adjust("1 second")
      yield* manifest.register(sized("db/theirs", 60).entry)
      yield* TestClock.adjust("10 seconds")
      const { paused, ready, reason } = yield* readiness.status
      assert.deepStrictEqual([ready, paused], [false, ["disk"]])
      assert.include(reason, "no room on the disk")
      assert.deepStrictEqual(yield* textUnder("db/mine"), Option.some("mine"))
      yield* manifest.remove(pathOf("db/mine"), "by the test")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* textUnder("db/mine"), Option.none())
    }).pipe(Effect.provide(clusterLayer({ backend, script: sends })))
  })
})

describe("a disk that is full in the middle of a body", () => {
  it.effect("is no peer's fault: the partial stays, nobody is blamed, and it goes on from there by itself", () => {
    const half = 256 * 1024
    const file = sized("db/a", 2 * half)
    let full = true
    const refusing = Layer.effect(
      Backend,
      Effect.map(Backend, (backend) =>
        Backend.of({
          ...backend,
          stage: (path, expected) =>
            Effect.map(backend.stage(path, expected), (staged) => ({
              ...staged,
              write: Effect.fnUntraced(function*(chunk) {
                if (full && (yield* staged.length) >= half) {
                  return yield* new BackendError({ operation: "write", path, reason: "NoSpace", detail: "full" })
                }
                return yield* staged.write(chunk)
              })
            }))
        }))
    )
    const inTwo: Script = (_peer, _entry, offset, sink) =>
      Effect.andThen(
        offset < half ? sink.write(new Uint8Array(half).fill(120)) : Effect.void,
        sink.write(new Uint8Array(half).fill(120))
      )
    return Effect.gen(function*() {
      const puller = yield* Puller
      const receipts = yield* receiptsOf
      yield* puller.enqueue(file)
      yield* untilParked
      yield* TestClock.adjust("10 seconds")
      // The disk is not asked over and over.
      assert.deepStrictEqual(yield* asked, ["db/a@0"])
      full = false
      assert.deepStrictEqual(yield* collect(receipts, 1), new Set(["Pulled"]))
      assert.deepStrictEqual(yield* asked, ["db/a@0", `db/a@${half}`])
      assert.deepStrictEqual([(yield* puller.stats).failed, yield* puller.paused], [0, []])
    }).pipe(onNode({ backend: refusing, script: inTwo, peers: ["node-1", "node-2"] }))
  })
})

describe("publishing", () => {
  it.effect("is refused when the file does not fit beside the reserve, and nothing of it stays", () => {
    const { backend } = makeDisk(150)
    return Effect.gen(function*() {
      const registrar = yield* Registrar
      const error = yield* Effect.flip(registrar.publish({ path: "db/a" }, new Uint8Array(60)))
      assert.deepStrictEqual(error._tag === "BackendError" ? error.reason : error._tag, "NoSpace")
      assert.include(error.message, "storage.min_free_bytes")
      yield* registrar.publish({ path: "db/b" }, new Uint8Array(40))
      assert.deepStrictEqual(yield* textUnder("db/a"), Option.none())
      assert.deepStrictEqual(yield* (yield* Inventory).pendings, [])
    }).pipe(Effect.provide(clusterLayer({ backend, minFreeBytes: 100 })))
  })

  it.effect("of a stream ends where the reserve begins, however long it would have been", () => {
    const MiB = 1024 * 1024
    const { backend, disk } = makeDisk(5 * MiB)
    let written = 0
    const bytes = Stream.fromIterable(Array.from({ length: 100 }, () => new Uint8Array(MiB))).pipe(
      Stream.tap(() =>
        Effect.sync(() => {
          written++
          disk.free -= MiB
        })
      )
    )
    return Effect.gen(function*() {
      const error = yield* Effect.flip((yield* Registrar).publish({ path: "db/a" }, bytes))
      assert.deepStrictEqual(error._tag === "BackendError" ? error.reason : error._tag, "NoSpace")
      assert.isAtMost(written, 5)
      assert.strictEqual(yield* (yield* Room.Room).free, disk.free - 2 * MiB)
    }).pipe(Effect.provide(clusterLayer({ backend, minFreeBytes: 2 * MiB })))
  })

  it.effect("and pulling share one room", () => {
    const { backend } = makeDisk(100)
    return Effect.gen(function*() {
      const gate = yield* makeGate
      yield* Effect.gen(function*() {
        yield* (yield* Manifest).register(sized("db/theirs", 60).entry)
        yield* (yield* Dials).next
        const registrar = yield* Registrar
        const error = yield* Effect.flip(registrar.publish({ path: "db/a" }, new Uint8Array(60)))
        assert.strictEqual(error._tag, "BackendError")
        yield* registrar.publish({ path: "db/b" }, new Uint8Array(40))
      }).pipe(Effect.provide(clusterLayer({ backend, script: gate.script })))
    })
  })
})

describe("one look at a disk with plenty of room", () => {
  const GiB = 1024 ** 3
  const claims = <A, E>(
    body: (
      disk: { free: number; looks: number },
      claim: Effect.Effect<Room.Claim, BackendError, Scope.Scope>
    ) => Effect.Effect<A, E, Room.Room | Scope.Scope>
  ) => {
    const { backend, disk } = makeDisk(4 * GiB)
    return Effect.gen(function*() {
      const { claim } = yield* Room.Room
      yield* TestClock.adjust("1 hour")
      return yield* body(disk, claim("db/a", 1))
    }).pipe(Effect.provide(
      Room.layer({ minFreeBytes: 0 }).pipe(Layer.provide(Layer.provide(backend, BackendMemory.layer)))
    ))
  }
  const reasonOf = Effect.fnUntraced(function*<A, R>(claim: Effect.Effect<A, BackendError, R>) {
    return (yield* Effect.flip(claim)).reason
  })

  it.effect("serves many claims, for a moment", () =>
    claims((disk, claim) =>
      Effect.gen(function*() {
        yield* claim
        disk.free = 0
        yield* TestClock.adjust("249 millis")
        yield* claim
        yield* TestClock.adjust("1 milli")
        assert.strictEqual(yield* reasonOf(claim), "NoSpace")
      })
    ))

  it.effect("is one for all who claim at the same moment, whoever of them gives up", () =>
    claims((disk, claim) =>
      Effect.gen(function*() {
        const first = yield* Effect.forkChild(claim, { startImmediately: true })
        const others = yield* Effect.forkChild(
          Effect.forEach(Array.from({ length: 50 }), () => claim, { concurrency: "unbounded" }),
          { startImmediately: true }
        )
        yield* Fiber.interrupt(first)
        yield* Fiber.join(others)
        assert.strictEqual(disk.looks, 1)
      })
    ))

  it.effect("serves none any more once the disk has refused", () =>
    claims((_disk, claim) =>
      Effect.gen(function*() {
        yield* claim
        yield* (yield* Room.Room).refused
        assert.strictEqual(yield* reasonOf(claim), "NoSpace")
        yield* TestClock.adjust("30 seconds")
        yield* claim
      })
    ))

  it.effect("serves none any more once the clock has gone back", () =>
    claims((disk, claim) =>
      Effect.gen(function*() {
        yield* claim
        disk.free = 0
        yield* TestClock.setTime(60_000)
        assert.strictEqual(yield* reasonOf(claim), "NoSpace")
      })
    ))
})
