import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Logger, Option, Queue, Schedule, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import * as ManifestSqlite from "../../src/manifest/ManifestSqlite.ts"
import * as MembershipSqlite from "../../src/membership/MembershipSqlite.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { Membership, type MembershipError } from "../../src/ports/Membership.ts"
import { watermark } from "../../src/testing/membership/marks.ts"
import { find, other, self, suite, told } from "../../src/testing/membership/suite.ts"
import { start } from "../manifest/process.ts"
import { temporaryFolder } from "../support/folder.ts"

const database = Effect.map(temporaryFolder, (folder) => join(folder, "manifest.db"))

type Given = Partial<Omit<MembershipSqlite.Options, "path">>

const open = (path: string, options: Given = {}) =>
  Effect.map(
    Layer.build(MembershipSqlite.layer({ path, self, version: "1.2.3", ...options })),
    (context) => Context.get(context, Membership)
  )

const peer = { id: other.id, role: "reader" } as const
const here = { host: "10.0.0.1", port: 4001 }
/** Gives no sign of life after its announcement, until this time has passed. */
const silentFor = (heartbeatMillis: number): Given => ({ self: peer, heartbeatMillis })
const silent = silentFor(3_600_000)

const execute = (path: string, sql: string) =>
  Effect.sync(() => {
    const file = new DatabaseSync(path, { timeout: 5000 })
    file.exec(sql)
    file.close()
  })

suite("SQLite", ({ other, self }) =>
  Layer.effect(
    Membership,
    Effect.gen(function*() {
      const path = yield* database
      yield* (yield* open(path, { self: { id: other.id, role: "reader" } })).announce(other.address)
      return yield* open(path, { self })
    })
  ))

describe("MembershipSqlite", () => {
  it.effect("tells of a member that comes, and of one that leaves, at the next heartbeat", () =>
    Effect.gen(function*() {
      const path = yield* database
      const membership = yield* open(path)
      const next = yield* told(membership)
      assert.strictEqual((yield* next).length, 1)
      const scope = yield* Scope.make()
      const second = yield* open(path, silent).pipe(Scope.provide(scope))
      yield* second.announce(other.address)
      yield* TestClock.adjust("3 seconds")
      const come = find(yield* next, other.id)
      assert.deepStrictEqual(come, {
        id: other.id,
        role: "reader",
        address: Option.some(other.address),
        alive: true,
        version: "1.2.3",
        watermark: Option.none(),
        draining: false
      })
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust("3 seconds")
      const left = find(yield* next, other.id)
      assert.deepStrictEqual(left, { ...come, alive: false })
    }))

  it.effect("takes a member that shows no sign of life for lapsed, and for alive again when it does", () =>
    Effect.gen(function*() {
      const path = yield* database
      const membership = yield* open(path)
      const second = yield* open(path, silentFor(15_000))
      yield* second.announce(other.address)
      const next = yield* told(membership)
      assert.isTrue(find(yield* next, other.id).alive)
      yield* TestClock.adjust("9 seconds")
      assert.isTrue(find(yield* membership.members, other.id).alive)
      yield* TestClock.adjust("3 seconds")
      assert.isFalse(find(yield* next, other.id).alive)
      // Its own heartbeat comes; what it asks for after that is answered after it.
      yield* TestClock.adjust("3 seconds")
      yield* second.publish(Option.some(watermark(1)))
      yield* TestClock.adjust("3 seconds")
      assert.isTrue(find(yield* next, other.id).alive)
    }))

  it.live("shows the others how far a member holds everything and that it drains, before and behind its announcement", () =>
    Effect.gen(function*() {
      const path = yield* database
      const membership = yield* open(path)
      const second = yield* open(path, { self: peer })
      const seen = Effect.map(membership.members, (members) => {
        const { draining, watermark } = find(members, other.id)
        return [watermark, draining]
      })
      yield* second.publish(Option.some(watermark(3)))
      yield* second.announce(other.address)
      assert.deepStrictEqual(yield* seen, [Option.some(watermark(3)), false])
      yield* second.drain(true)
      assert.deepStrictEqual(yield* seen, [Option.some(watermark(3)), true])
      yield* second.publish(Option.none())
      assert.deepStrictEqual(yield* seen, [Option.none(), true])
    }))

  it.live("keeps what a member has said when it is gone, until its next run says otherwise", () =>
    Effect.gen(function*() {
      const path = yield* database
      const membership = yield* open(path)
      const run = (body: (second: Membership["Service"]) => Effect.Effect<void, MembershipError>) =>
        Effect.scoped(Effect.gen(function*() {
          const second = yield* open(path, { self: peer })
          yield* Effect.orDie(second.announce(other.address))
          yield* body(second)
        }))
      yield* run((second) => Effect.andThen(second.publish(Option.some(watermark(3))), second.drain(true)))
      const gone = find(yield* membership.members, other.id)
      assert.deepStrictEqual([gone.alive, gone.watermark], [false, Option.some(watermark(3))])
      yield* run(() => Effect.void)
      const again = find(yield* membership.members, other.id)
      assert.deepStrictEqual([again.watermark, again.draining], [Option.none(), false])
    }))

  it.live("removes a member that is gone, whose next run is a member again", () =>
    Effect.gen(function*() {
      const path = yield* database
      const membership = yield* open(path)
      yield* Effect.scoped(Effect.flatMap(open(path, { self: peer }), (second) => second.announce(other.address)))
      yield* membership.remove(other.id)
      assert.strictEqual((yield* membership.members).length, 1)
      assert.include((yield* Effect.flip(membership.remove(other.id))).message, "no member goes by this id")
      yield* (yield* open(path, { self: peer })).announce(other.address)
      assert.isTrue(find(yield* membership.members, other.id).alive)
    }))

  it.live("reads members of older and of newer versions, and passes over what it does not understand", () =>
    Effect.gen(function*() {
      const path = yield* database
      const membership = yield* open(path)
      const second = yield* open(path, { self: peer })
      yield* second.announce(other.address)
      yield* second.publish(Option.some(watermark(3)))
      const seen = Effect.map(membership.members, (members) => find(members, other.id))
      yield* execute(path, "UPDATE node_said SET said = json_set(said, '$.colour', 'blue')")
      assert.deepStrictEqual((yield* seen).watermark, Option.some(watermark(3)))
      yield* execute(path, "UPDATE node_said SET said = json_set(said, '$.watermark', 'as of noon')")
      assert.deepStrictEqual([(yield* seen).watermark, (yield* seen).alive], [Option.none(), true])
      // As written by a version that says nothing of the kind.
      yield* execute(path, "DELETE FROM node_said")
      assert.deepStrictEqual([(yield* seen).watermark, (yield* seen).draining], [Option.none(), false])
    }))

  it.live("takes a member's own word that it leaves", () =>
    Effect.gen(function*() {
      const path = yield* database
      const membership = yield* open(path)
      yield* (yield* open(path, silent)).announce(other.address)
      const next = yield* told(membership)
      assert.isTrue(find(yield* next, other.id).alive)
      yield* membership.departed(other.id)
      assert.isFalse(find(yield* next, other.id).alive)
    }))

  it.live("lives in the manifest's own file", () =>
    Effect.gen(function*() {
      const path = yield* database
      const manifest = Context.get(yield* Layer.build(ManifestSqlite.layer({ path })), Manifest)
      const membership = yield* open(path)
      yield* membership.announce(here)
      assert.strictEqual((yield* manifest.head).revision, 0)
      assert.strictEqual((yield* membership.members).length, 1)
    }))

  it.live("fails with a sentence on a file that is no database, and on a row that no node wrote", () =>
    Effect.gen(function*() {
      const path = yield* database
      yield* Effect.sync(() => writeFileSync(path, "no database, and long enough to be looked at".repeat(30)))
      assert.include((yield* Effect.flip(open(path))).message, "damaged or no database")
      const sound = yield* database
      const membership = yield* open(sound)
      yield* (yield* open(sound, { self: peer })).announce(other.address)
      yield* execute(sound, "UPDATE node SET address_port = 70000")
      for (const ask of [membership.members, Stream.runDrain(membership.changes)]) {
        assert.include((yield* Effect.flip(Effect.asVoid(ask))).message, "address_port: ")
      }
    }))
})

describe("MembershipSqlite, one id for one node", () => {
  const member = new URL("./member.ts", import.meta.url)

  it.live("refuses an id whose holder runs, at once and naming it", () =>
    Effect.gen(function*() {
      const path = yield* database
      yield* (yield* open(path, silent)).announce(other.address)
      const error = yield* Effect.flip((yield* open(path, silent)).announce(here))
      assert.strictEqual(error._tag, "NodeIdTaken")
      assert.include(error.message, `node-2 (at 10.0.0.2:4002, process ${process.pid})`)
    }))

  it.live("gives the id of a node that has signed off to the next one at once", () =>
    Effect.gen(function*() {
      const path = yield* database
      yield* Effect.scoped(Effect.flatMap(open(path), (first) => first.announce(other.address)))
      const again = yield* open(path)
      yield* again.announce(here)
      assert.deepStrictEqual(find(yield* again.members, self.id).address, Option.some(here))
    }))

  it.live("gives the id of a killed process on this host to its next run at once", () =>
    Effect.gen(function*() {
      const path = yield* database
      const child = yield* start(member, [path, other.id])
      assert.strictEqual(yield* Queue.take(child.lines), "announced")
      const next = yield* open(path, silent)
      assert.strictEqual((yield* Effect.flip(next.announce(here)))._tag, "NodeIdTaken")
      yield* child.kill
      yield* next.announce(here)
      assert.deepStrictEqual(
        find(yield* (yield* open(path)).members, other.id).address,
        Option.some(here)
      )
    }))

  it.live("is not deceived by another process that was given the holder's number", () =>
    Effect.gen(function*() {
      const path = yield* database
      yield* (yield* open(path, silent)).announce(other.address)
      yield* execute(path, "UPDATE node SET started = '1'")
      yield* (yield* open(path, silent)).announce(here)
    }))

  it.effect("leaves its id to a holder that runs on this host, however long it gave no sign of life", () =>
    Effect.gen(function*() {
      const path = yield* database
      const frozen = yield* open(path, silent)
      yield* frozen.announce(other.address)
      yield* TestClock.adjust("30 minutes")
      assert.strictEqual((yield* Effect.flip((yield* open(path, silent)).announce(here)))._tag, "NodeIdTaken")
      yield* frozen.publish(Option.some(watermark(1)))
    }))

  for (const unseen of ["host = 'elsewhere'", "started = ''"]) {
    it.live(
      `waits for the lapse of a holder of which it can't tell whether it runs (${unseen}), then takes the id`,
      () =>
        Effect.gen(function*() {
          const path = yield* database
          yield* (yield* open(path, { ...silent, ttlMillis: 300 })).announce(other.address)
          yield* execute(path, `UPDATE node SET ${unseen}`)
          const next = yield* open(path, { self: peer, heartbeatMillis: 20 })
          yield* next.announce(here)
          assert.deepStrictEqual(find(yield* next.members, other.id).address, Option.some(here))
        }),
      5000
    )
  }

  it.live(
    "waits for a holder whose clock was far ahead no longer than for any other, and says so once",
    () =>
      Effect.gen(function*() {
        const path = yield* database
        yield* (yield* open(path, silent)).announce(other.address)
        yield* execute(path, "UPDATE node SET host = 'elsewhere', expires_at = expires_at + 3600000")
        const next = yield* open(path, { self: peer, heartbeatMillis: 20, ttlMillis: 300 })
        const logs: Array<string> = []
        const before = performance.now()
        yield* next.announce(here).pipe(
          Effect.provide(Logger.layer([Logger.make(({ message }) => logs.push(String(message)))]))
        )
        assert.isAbove(performance.now() - before, 300)
        assert.strictEqual(logs.length, 1)
        assert.include(logs[0], "goes by the id node-2 (at 10.0.0.2:4002, process")
        assert.deepStrictEqual(find(yield* next.members, other.id).address, Option.some(here))
      }),
    5000
  )

  it.live("refuses the id of a holder on another host once that shows a sign of life", () =>
    Effect.gen(function*() {
      const path = yield* database
      yield* (yield* open(path, { ...silent, ttlMillis: 3_600_000 })).announce(other.address)
      const next = yield* open(path, { self: peer, heartbeatMillis: 20 })
      const renewed = execute(path, "UPDATE node SET host = 'elsewhere', expires_at = expires_at + 1")
      yield* renewed
      yield* renewed.pipe(Effect.repeat(Schedule.spaced("5 millis")), Effect.forkScoped)
      assert.strictEqual((yield* Effect.flip(next.announce(here)))._tag, "NodeIdTaken")
    }))

  it.effect("tells a node that another host took for dead, and whose id went to another one, that it is out", () =>
    Effect.gen(function*() {
      const path = yield* database
      const frozen = yield* open(path, silentFor(15_000))
      yield* frozen.announce(other.address)
      yield* execute(path, "UPDATE node SET host = 'elsewhere'")
      const lists = yield* Queue.unbounded<void>()
      const out = yield* frozen.changes.pipe(
        Stream.runForEach(() => Queue.offer(lists, undefined)),
        Effect.flip,
        Effect.forkChild
      )
      yield* Queue.take(lists)
      yield* TestClock.adjust("11 seconds")
      yield* (yield* open(path, silent)).announce(here)
      yield* TestClock.adjust("4 seconds")
      const error = yield* Fiber.join(out)
      assert.include(error.message, "another one now goes by its id node-2 (at 10.0.0.1:4001")
      assert.strictEqual((yield* Effect.flip(frozen.publish(Option.some(watermark(1)))))._tag, "MembershipError")
      assert.strictEqual((yield* Effect.flip(frozen.members))._tag, "MembershipError")
    }))
})
