import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Option, Queue, Schedule, Scope } from "effect"
import { join } from "node:path"
import * as EtcdClient from "../../src/etcd/EtcdClient.ts"
import * as MembershipEtcd from "../../src/membership/MembershipEtcd.ts"
import { NodeId } from "../../src/ports/FileEntry.ts"
import { type Member, Membership, type MembershipError } from "../../src/ports/Membership.ts"
import { watermark } from "../../src/testing/membership/marks.ts"
import { find, other, self, suite, told } from "../../src/testing/membership/suite.ts"
import { openManifest } from "../manifest/etcd.ts"
import { start } from "../manifest/process.ts"
import { entryOf } from "../support/entries.ts"
import { guard, hasEtcd, missing, startCluster } from "../support/etcd.ts"
import { suiteCluster } from "../support/etcdSuite.ts"
import { temporaryFolder } from "../support/folder.ts"

const peer = { id: other.id, role: "reader" } as const
const here = { host: "10.0.0.1", port: 4001 }

type Given = Partial<MembershipEtcd.Options> & { readonly client?: Partial<EtcdClient.Options> }

const openAt = (endpoints: ReadonlyArray<string>, namespace: string, { client, ...options }: Given = {}) =>
  Effect.map(
    Layer.build(
      MembershipEtcd.layer({ namespace, self, version: "1.2.3", ttlSeconds: 2, ...options }).pipe(
        Layer.provide(EtcdClient.layer({ endpoints, ...client }))
      )
    ),
    (context) => Context.get(context, Membership)
  ).pipe(Effect.orDie)

/** Waits until a member is as it should be. */
const until = (
  membership: Membership["Service"],
  id: NodeId,
  is: (member: Member) => boolean
): Effect.Effect<Member, MembershipError> =>
  membership.members.pipe(
    Effect.map((members) => members.filter((member) => member.id === id && is(member))),
    Effect.repeat({ until: (found) => found.length > 0, schedule: Schedule.spaced("20 millis") }),
    Effect.map((found) => find(found, id))
  )

if (!hasEtcd) it("runs on real etcd", () => assert.fail(missing("the members in etcd")))
else {
  const theCluster = suiteCluster()

  let namespaces = 0
  const fresh = () => `test-${namespaces++}`
  const open = (namespace: string, given: Given = {}) => openAt(theCluster().endpoints, namespace, given)

  suite("etcd", ({ other, self }) =>
    Layer.effect(
      Membership,
      Effect.gen(function*() {
        const namespace = fresh()
        yield* (yield* open(namespace, { self: { id: other.id, role: "reader" } })).announce(other.address)
        return yield* open(namespace, { self })
      })
    ))

  describe("MembershipEtcd", () => {
    const process = (namespace: string) =>
      start(new URL("./memberEtcd.ts", import.meta.url), [theCluster().endpoints[0] ?? "", namespace, other.id])

    it.live("tells of a member that comes, and of one that leaves, and keeps what is known of it", () =>
      Effect.gen(function*() {
        const namespace = fresh()
        const membership = yield* open(namespace)
        const next = yield* told(membership)
        assert.strictEqual((yield* next).length, 1)
        const leaving = yield* Scope.make()
        const second = yield* open(namespace, { self: peer }).pipe(Scope.provide(leaving))
        yield* second.publish(Option.some(watermark(3)))
        yield* second.announce(other.address)
        const come = find(yield* next, other.id)
        assert.deepStrictEqual(come, {
          id: other.id,
          role: "reader",
          address: Option.some(other.address),
          alive: true,
          version: "1.2.3",
          watermark: Option.some(watermark(3)),
          draining: false
        })
        yield* Scope.close(leaving, Exit.void)
        assert.deepStrictEqual(find(yield* next, other.id), { ...come, alive: false })
      }))

    it.live(
      "takes a frozen process for gone once its lease has lapsed, and for alive again when it goes on",
      () =>
        Effect.gen(function*() {
          const namespace = fresh()
          const membership = yield* open(namespace)
          const child = yield* process(namespace)
          const pid = Number(yield* Queue.take(child.lines))
          yield* until(membership, other.id, ({ alive }) => alive)
          yield* Effect.acquireUseRelease(
            Effect.sync(() => globalThis.process.kill(pid, "SIGSTOP")),
            () => until(membership, other.id, ({ alive }) => !alive),
            () => Effect.sync(() => globalThis.process.kill(pid, "SIGCONT"))
          )
          const again = yield* until(membership, other.id, ({ alive }) => alive)
          assert.deepStrictEqual(again.watermark, Option.some(watermark(3)))
        }),
      60_000
    )

    it.live(
      "refuses an id whose holder runs here, at once; gives that of a killed one to its next run at once",
      () =>
        Effect.gen(function*() {
          const namespace = fresh()
          const child = yield* process(namespace)
          const pid = yield* Queue.take(child.lines)
          const next = yield* open(namespace, { self: peer, ttlSeconds: 3600 })
          const error = yield* Effect.flip(next.announce(here))
          assert.strictEqual(error._tag, "NodeIdTaken")
          assert.include(error.message, `node-2 (at 10.0.0.2:4002, process ${pid})`)
          yield* child.kill
          yield* next.announce(here)
          yield* until(yield* open(namespace), other.id, ({ address, alive }) =>
            alive && Option.exists(address, ({ port }) =>
              port === here.port))
        }),
      60_000
    )

    it.live(
      "waits for a holder that it can't see: takes the id when it lapses, and not while it is kept",
      () =>
        Effect.gen(function*() {
          const namespace = fresh()
          const client = yield* EtcdClient.make({ endpoints: theCluster().endpoints })
          const claim = JSON.stringify({
            instance: "i",
            host: "elsewhere",
            pid: 1,
            started: "",
            address: other.address
          })
          const lease = yield* client.grant(2)
          yield* client.put({ key: `/${namespace}/c/l/${other.id}`, value: claim, lease: lease.id })
          yield* (yield* open(namespace, { self: peer })).announce(here)
          const kept = fresh()
          yield* client.put({ key: `/${kept}/c/l/${other.id}`, value: claim })
          const error = yield* Effect.flip((yield* open(kept, { self: peer })).announce(here))
          assert.strictEqual(error._tag, "NodeIdTaken")
          assert.include(error.message, "at 10.0.0.2:4002, process 1")
        }),
      60_000
    )

    it.live("removes a member that is gone, whose next run is a member again", () =>
      Effect.gen(function*() {
        const namespace = fresh()
        const membership = yield* open(namespace)
        yield* Effect.scoped(
          Effect.flatMap(open(namespace, { self: peer }), (second) => second.announce(other.address))
        )
        yield* until(membership, other.id, ({ alive }) => !alive)
        yield* membership.remove(other.id)
        yield* Effect.repeat(membership.members, { until: (members) => members.length === 1 })
        assert.include((yield* Effect.flip(membership.remove(other.id))).message, "no member goes by this id")
        yield* (yield* open(namespace, { self: peer })).announce(other.address)
        yield* until(membership, other.id, ({ alive }) => alive)
      }))

    it.live("takes a member's word that it leaves; one that runs on all the same joins again by itself", () =>
      Effect.gen(function*() {
        const namespace = fresh()
        const membership = yield* open(namespace)
        yield* (yield* open(namespace, { self: peer })).announce(other.address)
        yield* until(membership, other.id, ({ alive }) => alive)
        const next = yield* told(membership)
        assert.isTrue(find(yield* next, other.id).alive)
        yield* membership.departed(other.id)
        assert.isFalse(find(yield* next, other.id).alive)
        assert.isTrue(find(yield* next, other.id).alive)
      }))

    it.live("passes over what a member of another version has written and it does not understand", () =>
      Effect.gen(function*() {
        const namespace = fresh()
        const client = yield* EtcdClient.make({ endpoints: theCluster().endpoints })
        const record = {
          instance: "i",
          role: "reader",
          address: other.address,
          version: "9",
          colour: "blue",
          said: "?"
        }
        yield* client.put({ key: `/${namespace}/c/n/${other.id}`, value: JSON.stringify(record) })
        yield* client.put({ key: `/${namespace}/c/n/node-3`, value: "{}" })
        yield* client.put({ key: `/${namespace}/c/x/node-4`, value: "" })
        const members = yield* (yield* open(namespace)).members
        assert.deepStrictEqual(members.map(({ id }) => String(id)), [self.id, other.id])
        assert.deepStrictEqual(find(members, other.id), {
          id: other.id,
          role: "reader",
          address: Option.some(other.address),
          alive: false,
          version: "9",
          watermark: Option.none(),
          draining: false
        })
      }))
  })

  describe("MembershipEtcd when etcd has trouble", () => {
    const impatient = { patience: "300 millis", deadline: "300 millis", silence: "500 millis" } as const

    it.live(
      "goes on with the members that were known last, says so, and recovers; it never keeps a node that stops",
      () =>
        Effect.gen(function*() {
          const cluster = yield* startCluster()
          const leaving = yield* Scope.make()
          const membership = yield* openAt(cluster.endpoints, "n", { client: impatient }).pipe(Scope.provide(leaving))
          const second = yield* openAt(cluster.endpoints, "n", { self: peer, client: impatient })
          yield* membership.announce(here)
          yield* second.announce(other.address)
          yield* until(membership, other.id, ({ alive }) => alive)
          assert.deepStrictEqual(yield* membership.trouble, Option.none())

          yield* cluster.killAll
          yield* Effect.repeat(membership.trouble, { until: Option.isSome, schedule: Schedule.spaced("20 millis") })
          assert.isTrue(find(yield* membership.members, other.id).alive)
          assert.strictEqual(
            (yield* Effect.flip(membership.publish(Option.some(watermark(7)))))._tag,
            "MembershipError"
          )
          // One that starts meanwhile says that it is not announced, and is once etcd answers.
          const third = { id: find(yield* membership.members, self.id).id, role: "writer" } as const
          const late = yield* openAt(cluster.endpoints, "other", { self: third, client: impatient })
          yield* late.announce(here)
          assert.match(Option.getOrThrow(yield* late.trouble).detail, /etcd at .*/)

          // Longer than the lease: who comes back finds it lapsed, or begun anew.
          yield* Effect.sleep("2500 millis")
          yield* cluster.startAll
          yield* Effect.repeat(
            Effect.all([membership.trouble, second.trouble, late.trouble]),
            { until: (troubles) => troubles.every(Option.isNone), schedule: Schedule.spaced("50 millis") }
          )
          yield* until(membership, other.id, ({ alive }) => alive)
          // What was said meanwhile is told.
          yield* second.publish(Option.some(watermark(8)))
          yield* until(
            membership,
            other.id,
            ({ watermark }) => Option.exists(watermark, ({ through }) => through === 8)
          )
          yield* until(
            second,
            self.id,
            ({ alive, watermark }) => alive && Option.exists(watermark, ({ through }) => through === 7)
          )

          yield* cluster.killAll
          const closed = yield* Effect.timeoutOption(Scope.close(leaving, Exit.void), "10 seconds")
          assert.isTrue(Option.isSome(closed))
        }),
      60_000
    )

    it.live("sees members come and go while the leader of three is killed", () =>
      Effect.gen(function*() {
        const cluster = yield* startCluster({ members: 3 })
        const membership = yield* openAt(cluster.endpoints, "n", { ttlSeconds: 4 })
        const second = yield* openAt(cluster.endpoints, "n", { self: peer, ttlSeconds: 4 })
        yield* membership.announce(here)
        yield* second.announce(other.address)
        yield* until(membership, other.id, ({ alive }) => alive)
        yield* Effect.flatMap(cluster.leader, ({ kill }) => kill)
        yield* second.drain(true)
        const drains = yield* until(membership, other.id, ({ draining }) => draining)
        assert.isTrue(drains.alive)
      }), 60_000)

    it.live("says that its user may not, and goes on once it may again", () =>
      Effect.gen(function*() {
        const cluster = yield* startCluster()
        const { grant, revoke, user } = yield* guard(cluster, "n")
        const client = { user }
        const membership = yield* openAt(cluster.endpoints, "n", { client })
        const second = yield* openAt(cluster.endpoints, "n", { self: peer, client })
        yield* membership.announce(here)
        yield* second.announce(other.address)
        yield* until(membership, other.id, ({ alive }) => alive)
        yield* revoke
        const refused = yield* Effect.flip(membership.publish(Option.some(watermark(1))))
        assert.match(refused.message, /permission denied: the role of this user must allow/)
        // One that starts meanwhile is no member yet, and says why.
        const third = NodeId.make("node-3")
        const newcomer = yield* openAt(cluster.endpoints, "n", { self: { id: third, role: "reader" }, client })
        yield* newcomer.announce(here)
        assert.match(
          Option.getOrThrow(yield* newcomer.trouble).detail,
          /not announced to the others: .*permission denied: the role of this user must allow/
        )
        assert.isTrue(find(yield* membership.members, other.id).alive)
        yield* grant
        yield* membership.publish(Option.some(watermark(2)))
        yield* until(second, self.id, ({ watermark }) => Option.exists(watermark, ({ through }) => through === 2))
        yield* until(second, third, ({ alive }) => alive)
        yield* Effect.repeat(newcomer.trouble, { until: Option.isNone, schedule: Schedule.spaced("20 millis") })
      }), 60_000)

    it.live("announces itself once a store that was full takes changes again", () =>
      Effect.gen(function*() {
        const cluster = yield* startCluster({ flags: ["--quota-backend-bytes", "16777216"] })
        const client = yield* EtcdClient.make({ endpoints: cluster.endpoints })
        const full = yield* Effect.flip(
          Effect.forEach(Array.from({ length: 40 }), () => client.put({ key: "x", value: "x".repeat(1_000_000) }))
        )
        assert.strictEqual(full.reason, "Rejected")
        const membership = yield* openAt(cluster.endpoints, "n")
        yield* membership.announce(here)
        assert.match(
          Option.getOrThrow(yield* membership.trouble).detail,
          /not announced to the others: .*--quota-backend-bytes/
        )
        const watcher = yield* openAt(cluster.endpoints, "n", { self: peer })
        assert.strictEqual((yield* watcher.members).length, 1)
        // The manifest can be read and not changed, and says what an operator should look at.
        const { health, manifest } = yield* openManifest({ endpoints: cluster.endpoints }, "n")
        yield* manifest.head
        const refused = yield* Effect.flip(manifest.register(entryOf("a")))
        assert.strictEqual(refused._tag, "Unavailable")
        assert.include(refused.message, "disarm the alarm")
        assert.match((yield* health.complaints).join(), /^etcd raises an alarm: .*NOSPACE/)
        yield* cluster.compact
        yield* cluster.etcdctl("defrag")
        yield* cluster.etcdctl("alarm", "disarm")
        yield* manifest.register(entryOf("a"))
        assert.deepStrictEqual(yield* health.complaints, [])
        yield* until(watcher, self.id, ({ alive }) => alive)
      }), 60_000)

    it.live(
      "are members again after an older backup of etcd was put back, and say so to each other",
      () =>
        Effect.gen(function*() {
          const cluster = yield* startCluster()
          const backup = join(yield* temporaryFolder, "backup.db")
          const membership = yield* openAt(cluster.endpoints, "n", { client: impatient })
          yield* membership.announce(here)
          yield* cluster.save(backup)
          const second = yield* openAt(cluster.endpoints, "n", { self: peer, client: impatient })
          yield* second.announce(other.address)
          // More revisions than the backup has, so that what a watch still waits for lies beyond what comes.
          for (let n = 1; n <= 20; n++) yield* second.publish(Option.some(watermark(n)))
          yield* until(membership, other.id, ({ alive }) => alive)
          yield* cluster.restore(backup)
          yield* second.publish(Option.some(watermark(30))).pipe(
            Effect.retry({ schedule: Schedule.spaced("100 millis") })
          )
          yield* until(
            membership,
            other.id,
            ({ alive, watermark }) => alive && Option.exists(watermark, ({ through }) => through === 30)
          )
          yield* until(second, self.id, ({ alive }) => alive)
          yield* membership.drain(true).pipe(Effect.retry({ schedule: Schedule.spaced("100 millis") }))
          yield* until(second, self.id, ({ draining }) => draining)
        }),
      60_000
    )
  })
}
