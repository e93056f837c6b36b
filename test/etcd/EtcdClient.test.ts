import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Option, Queue, Redacted, type Scope, Stream } from "effect"
import type { EtcdClient } from "../../src/etcd/EtcdClient.ts"
import * as Etcd from "../../src/etcd/EtcdClient.ts"
import { EtcdError } from "../../src/etcd/EtcdError.ts"
import type { Event } from "../../src/etcd/messages.ts"
import { makeAuthority } from "../peer/support/certificates.ts"
import { clientOf, guard, hasEtcd, missing, startCluster } from "../support/etcd.ts"

type Client = EtcdClient["Service"]

const everything = { key: "\0", rangeEnd: "\0" }

const listen = Effect.fnUntraced(function*(client: Client, startRevision: number) {
  const events = yield* Queue.unbounded<Event, EtcdError>()
  const watch = yield* client.watch({ key: "w/", rangeEnd: "w0", startRevision })
  yield* watch.changes.pipe(
    Stream.runForEach((change) => Queue.offerAll(events, change.events)),
    Effect.catch((error) => Queue.fail(events, error)),
    Effect.forkScoped
  )
  return { events, header: watch.header }
})

const onCluster = (
  title: string,
  body: (
    client: Client,
    cluster: Effect.Success<ReturnType<typeof startCluster>>
  ) => Effect.Effect<void, unknown, Scope.Scope>,
  options: Parameters<typeof startCluster>[0] = {}
) =>
  it.live(title, () =>
    Effect.gen(function*() {
      const cluster = yield* startCluster(options)
      yield* body(yield* clientOf(cluster), cluster)
    }), 60_000)

if (!hasEtcd) it("runs on real etcd", () => assert.fail(missing("the client of etcd")))
else {
  describe("EtcdClient on one member", () => {
    onCluster("puts, reads ranges, and reads as of an earlier revision", (client) =>
      Effect.gen(function*() {
        const { revision } = yield* client.put({ key: "a/1", value: "one" })
        yield* client.put({ key: "a/2", value: Buffer.from([0, 255, 1]) })
        yield* client.put({ key: "a/1", value: "changed" })
        const now = yield* client.range({ key: "a/", rangeEnd: "a0" })
        assert.deepStrictEqual(now.kvs.map(({ key }) => key), ["a/1", "a/2"])
        assert.deepStrictEqual([...now.kvs[1]?.value ?? []], [0, 255, 1])
        const first = yield* client.range({ key: "a/", rangeEnd: "a0", limit: 1 })
        assert.deepStrictEqual([first.kvs.length, first.more, first.count], [1, true, 2])
        const before = yield* client.range({ key: "a/1", revision })
        assert.strictEqual(before.kvs[0]?.value.toString(), "one")
        assert.strictEqual(before.kvs[0]?.modRevision, revision)
        const keys = yield* client.range({ ...everything, keysOnly: true, serializable: true })
        assert.deepStrictEqual(keys.kvs.map(({ value }) => value.length), [0, 0])
        const future = yield* Effect.flip(client.range({ key: "a/1", revision: 1000 }))
        assert.strictEqual(future.reason, "FutureRevision")
      }))

    onCluster(
      "carries out one branch of a transaction, nested ones too, and gives every answer",
      (client) =>
        Effect.gen(function*() {
          const isNew = { key: "t", target: "MOD", result: "EQUAL", value: 0 } as const
          const below = { key: "t/", rangeEnd: "t0", target: "CREATE", result: "EQUAL", value: 0 } as const
          const txn = {
            compare: [isNew, below],
            success: [
              { _tag: "Put", put: { key: "t", value: "v" } },
              { _tag: "Txn", txn: { success: [{ _tag: "Put", put: { key: "t/below", value: "v" } }] } }
            ],
            failure: [{ _tag: "Range", range: { key: "t" } }, { _tag: "Delete", delete: { key: "t/", rangeEnd: "t0" } }]
          } as const
          const first = yield* client.txn(txn)
          assert.isTrue(first.succeeded)
          assert.deepStrictEqual(first.responses.map(({ _tag }) => _tag), ["Put", "Txn"])
          const second = yield* client.txn(txn)
          assert.isFalse(second.succeeded)
          const [range, deleted] = second.responses
          assert(range?._tag === "Range" && deleted?._tag === "Delete")
          assert.strictEqual(range.range.kvs[0]?.modRevision, first.header.revision)
          assert.strictEqual(deleted.deleted, 1)
          // The range is empty again, and only the key itself stands in the way.
          assert.isTrue((yield* client.txn({ compare: [below], success: [] })).succeeded)
        })
    )

    onCluster(
      "watches from any revision that is kept, in order, fragments included",
      (client) =>
        Effect.gen(function*() {
          const { revision } = yield* client.put({ key: "w/0", value: "" })
          // More than one message of gRPC: etcd cuts it into fragments.
          const large = "x".repeat(500_000)
          for (let n = 1; n <= 8; n++) yield* client.put({ key: `w/${n}`, value: large })
          const { events } = yield* listen(client, revision)
          for (let n = 0; n <= 8; n++) assert.strictEqual((yield* Queue.take(events)).kv.key, `w/${n}`)
          yield* client.txn({ success: [{ _tag: "Delete", delete: { key: "w/1" } }] })
          const removed = yield* Queue.take(events)
          assert.deepStrictEqual([removed.type, removed.kv.key], ["DELETE", "w/1"])
        })
    )

    onCluster("says that events are no longer kept", (client, cluster) =>
      Effect.gen(function*() {
        const { revision } = yield* client.put({ key: "w/1", value: "" })
        yield* client.put({ key: "w/1", value: "" })
        yield* client.put({ key: "w/1", value: "" })
        yield* cluster.compact
        const { events } = yield* listen(client, revision)
        const error = yield* Effect.flip(Queue.take(events))
        assert(error instanceof EtcdError)
        assert.strictEqual(error.reason, "Compacted")
        assert.strictEqual((yield* Effect.flip(client.range({ key: "w/1", revision }))).reason, "Compacted")
      }))

    onCluster("keeps a lease alive, and its keys go with it", (client) =>
      Effect.gen(function*() {
        const { id, ttl } = yield* client.grant(30)
        assert.strictEqual(ttl, 30)
        yield* client.put({ key: "l", value: "", lease: id })
        assert.strictEqual((yield* client.range({ key: "l" })).kvs[0]?.lease, id)
        assert.strictEqual(yield* client.keepAlive(id), 30)
        yield* client.revoke(id)
        assert.strictEqual((yield* client.range({ key: "l" })).count, 0)
        assert.strictEqual(yield* client.keepAlive(id), 0)
        assert.strictEqual((yield* Effect.flip(client.revoke(id))).reason, "Rejected")
      }))

    onCluster("says of a full store what to do", (client) =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(
          Effect.forEach(
            Array.from({ length: 40 }),
            (_, n) => client.put({ key: `${n}`, value: "x".repeat(1_000_000) })
          )
        )
        assert.strictEqual(error.reason, "Rejected")
        assert.include(error.message, "--quota-backend-bytes")
      }), { flags: ["--quota-backend-bytes", "16777216"] })

    onCluster(
      "gives up when it is interrupted, however long an answer may take, and works on",
      (_, cluster) =>
        Effect.gen(function*() {
          const [member] = cluster.members
          assert(member !== undefined)
          const client = yield* clientOf(cluster, { deadline: "1 hour", patience: "1 hour" })
          yield* client.put({ key: "a", value: "before" })
          yield* member.freeze
          const asking = yield* Effect.forkChild(client.range({ key: "a" }), { startImmediately: true })
          const soon = yield* Effect.timeoutOption(Fiber.await(asking), "300 millis")
          assert.isTrue(Option.isNone(soon))
          yield* Fiber.interrupt(asking)
          const ended = yield* Fiber.await(asking)
          assert.isTrue(Exit.isFailure(ended) && Cause.hasInterruptsOnly(ended.cause))
          yield* member.thaw
          assert.strictEqual((yield* client.range({ key: "a" })).kvs[0]?.value.toString(), "before")
        })
    )
  })

  describe("EtcdClient on three members", () => {
    onCluster(
      "goes to another member when one is gone, and says of each how it is",
      (client, cluster) =>
        Effect.gen(function*() {
          const [first] = cluster.members
          assert(first !== undefined)
          // Not all clients begin at the same one.
          const answered = yield* Effect.forEach([0, 1, 2], (index) =>
            Effect.flatMap(clientOf(cluster, {}, index), (each) => each.range({ key: "w/1" })))
          assert.strictEqual(
            new Set(answered.map(({ header }) =>
              header.memberId
            )).size,
            3
          )
          yield* client.put({ key: "w/1", value: "1" })
          const { events, header } = yield* listen(client, 0)
          yield* client.put({ key: "w/2", value: "2" })
          yield* Queue.take(events)
          yield* first.kill
          assert.strictEqual((yield* Effect.flip(Queue.take(events))).reason, "Unreachable")
          yield* client.put({ key: "w/3", value: "3" })
          const next = yield* listen(client, header.revision + 2)
          assert.strictEqual((yield* Queue.take(next.events)).kv.key, "w/3")
          const status = yield* client.status
          assert.deepStrictEqual(
            status.map((one) => one instanceof EtcdError ? one.reason : one.version.split(".")[0]),
            ["Unreachable", "3", "3"]
          )
          yield* first.start
        }),
      { members: 3 }
    )

    onCluster(
      "leaves a frozen member, for calls by their deadline and for a watch by its silence",
      (client, cluster) =>
        Effect.gen(function*() {
          const [first] = cluster.members
          assert(first !== undefined)
          const { events } = yield* listen(client, 0)
          yield* first.freeze
          const error = yield* Effect.flip(Queue.take(events))
          assert.strictEqual(error.reason, "Unreachable")
          yield* client.put({ key: "w/1", value: "" })
          const next = yield* listen(client, 1)
          assert.strictEqual((yield* Queue.take(next.events)).kv.key, "w/1")
          yield* first.thaw
        }),
      { members: 3 }
    )

    it.live(
      "fails within its patience when there is no quorum, and is well when there is one again",
      () =>
        Effect.gen(function*() {
          const cluster = yield* startCluster({ members: 3 })
          const client = yield* clientOf(cluster, { deadline: "500 millis", patience: "1 second" })
          yield* client.put({ key: "a", value: "" })
          const { events } = yield* listen(client, 0)
          const [first, second] = cluster.members
          assert(first !== undefined && second !== undefined)
          yield* Effect.all([first.kill, second.kill])
          // A watch too: a member without a leader ends it, because it was asked to.
          assert.strictEqual((yield* Effect.flip(Queue.take(events))).reason, "Unreachable")
          assert.strictEqual((yield* Effect.flip(client.put({ key: "b", value: "" }))).reason, "Unreachable")
          yield* Effect.all([first.start, second.start], { concurrency: 2 })
          // They have to choose a leader first.
          yield* Effect.eventually(client.put({ key: "c", value: "" }))
        }),
      60_000
    )
  })

  describe("EtcdClient with TLS and users", () => {
    it.live(
      "speaks to members that ask for a certificate, and says why others don't get in",
      () =>
        Effect.gen(function*() {
          const cluster = yield* startCluster({ tls: true })
          const open = (tls: Parameters<typeof Etcd.make>[0]["tls"], scheme = "https") =>
            Etcd.make({
              endpoints: cluster.endpoints.map((endpoint) => `${scheme}://${endpoint}`),
              deadline: "1 second",
              patience: "1 millis",
              ...(tls === undefined ? {} : { tls })
            })
          const mine = cluster.identity("DNS:node-1")
          const { authority, certificate, key } = mine
          yield* (yield* open({ authority, certificate, key })).put({ key: "a", value: "" })
          const stranger = (yield* makeAuthority)("DNS:node-1")
          for (
            const tls of [
              { authority },
              { authority, certificate: stranger.certificate, key: stranger.key },
              { authority: stranger.authority, certificate, key }
            ]
          ) {
            const error = yield* Effect.flip((yield* open(tls)).put({ key: "a", value: "" }))
            assert.strictEqual(error.reason, "Unreachable")
          }
          const plain = yield* Effect.flip((yield* open(undefined, "http")).put({ key: "a", value: "" }))
          assert.strictEqual(plain.reason, "Unreachable")
          const bad = yield* Effect.flip(open({ authority, certificate: "no certificate", key }))
          assert.strictEqual(bad.operation, "connect")
        }),
      60_000
    )

    it.live(
      "logs in, stays within what its role allows, and logs in again when its session is over",
      () =>
        Effect.gen(function*() {
          const cluster = yield* startCluster()
          const { etcdctl, members: [member] } = cluster
          yield* etcdctl("user", "add", "root:secret")
          yield* etcdctl("user", "grant-role", "root", "root")
          yield* etcdctl("role", "add", "files")
          yield* etcdctl("role", "grant-permission", "files", "readwrite", "w/", "w0")
          yield* etcdctl("user", "add", "node:password")
          yield* etcdctl("user", "grant-role", "node", "files")
          yield* etcdctl("auth", "enable")
          const client = yield* clientOf(cluster, { user: { name: "node", password: Redacted.make("password") } })
          yield* client.put({ key: "w/1", value: "" })
          assert.strictEqual((yield* Effect.flip(client.put({ key: "x", value: "" }))).reason, "Denied")
          const watched = yield* Effect.flip(Effect.scoped(client.watch({ key: "x", rangeEnd: "y", startRevision: 1 })))
          assert.strictEqual(watched.reason, "Denied")

          // Sessions live in the member's memory.
          yield* member?.kill ?? Effect.void
          yield* member?.start ?? Effect.void
          yield* client.put({ key: "w/2", value: "" })
          yield* member?.kill ?? Effect.void
          yield* member?.start ?? Effect.void
          const { events } = yield* listen(client, 1).pipe(Effect.retry({ times: 2 }))
          yield* Queue.take(events)

          const wrong = yield* clientOf(cluster, { user: { name: "node", password: Redacted.make("wrong") } })
          assert.strictEqual((yield* Effect.flip(wrong.put({ key: "w/1", value: "" }))).reason, "Denied")
          const nobody = yield* Effect.flip((yield* clientOf(cluster)).put({ key: "w/1", value: "" }))
          assert.strictEqual(nobody.reason, "Denied")
          yield* etcdctl("--user", "root:secret", "role", "revoke-permission", "files", "w/", "w0")
          assert.strictEqual((yield* Effect.flip(client.put({ key: "w/1", value: "" }))).reason, "Denied")
        }),
      60_000
    )

    it.live(
      "logs in again where it was kept waiting: an older backup knows nothing of its session, and does not say so",
      () =>
        Effect.gen(function*() {
          const cluster = yield* startCluster()
          const { endpoint, freeze, thaw } = yield* Effect.fromNullishOr(cluster.members[0])
          const { user } = yield* guard(cluster, "n")
          const logins = Effect.promise(async () => {
            const metrics = await (await fetch(`http://${endpoint}/metrics`)).text()
            return Number(
              /grpc_server_handled_total\{grpc_code="OK",grpc_method="Authenticate",.*\} (\d+)/.exec(metrics)?.[1]
            )
          })
          const client = yield* clientOf(cluster, { user, deadline: "500 millis", patience: "1 millis" })
          yield* Effect.eventually(client.put({ key: "/n/a", value: "" }))
          const before = yield* logins
          yield* freeze
          assert.strictEqual((yield* Effect.flip(client.put({ key: "/n/a", value: "" }))).reason, "Unreachable")
          yield* thaw
          yield* Effect.eventually(client.put({ key: "/n/a", value: "" }))
          assert.isAbove(yield* logins, before)
        }),
      60_000
    )
  })
}
