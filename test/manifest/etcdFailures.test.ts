/** One manifest on three members, of which some are killed and frozen under load; and who may not in. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Option, Result, Stream } from "effect"
import type { Manifest } from "../../src/ports/Manifest.ts"
import { makeAuthority } from "../peer/support/certificates.ts"
import { entryOf, pathOf } from "../support/entries.ts"
import { guard, hasEtcd, missing, startCluster } from "../support/etcd.ts"
import { suiteCluster } from "../support/etcdSuite.ts"
import { openManifest, pathsOf } from "./etcd.ts"

if (!hasEtcd) it("runs on real etcd", () => assert.fail(missing("a manifest whose etcd loses members")))
else {
  const theCluster = suiteCluster({ members: 3 })
  let namespaces = 0

  const failureOf = (asked: Effect.Effect<unknown, { readonly _tag: string; readonly message: string }>) =>
    Effect.flip(Effect.asVoid(asked))

  const writers = 4

  /**
   * Writers that register one file after another until `trouble` is over, and a reader that follows from the start.
   * What was acknowledged must come as an event, each once and in order. Gives how many there were.
   */
  const underLoad = Effect.fnUntraced(function*(trouble: Effect.Effect<void>) {
    const namespace = `failures-${namespaces++}`
    const open = Effect.map(openManifest({ endpoints: theCluster().endpoints }, namespace), ({ manifest }) => manifest)
    const start = yield* open
    const at = yield* start.head
    const over = yield* Deferred.make<void>()
    const warm = yield* Deferred.make<void>()
    const acknowledged: Array<string> = []
    const write = Effect.fnUntraced(function*(manifest: Manifest["Service"], writer: number) {
      for (let n = 0; !(yield* Deferred.isDone(over)); n++) {
        const answer = yield* Effect.result(manifest.register(entryOf(`w${writer}/${n}`)))
        if (Result.isSuccess(answer)) acknowledged.push(answer.success.entry.path)
        if (acknowledged.length > 50) yield* Deferred.succeed(warm, undefined)
      }
    })
    const reader = yield* open
    const seen: Array<string> = []
    let revision = 0
    const reading = yield* reader.events(at).pipe(
      Stream.takeUntil(({ cursor, events }) => {
        assert.isAbove(cursor.revision, revision)
        for (const event of events) {
          const own = event._tag === "Put" ? event.file.revision : event.revision
          assert.isAbove(own, revision)
        }
        revision = cursor.revision
        seen.push(...pathsOf(events))
        return events.some((event) => event._tag === "Put" && event.file.entry.path === "last")
      }),
      Stream.runDrain,
      Effect.forkChild
    )
    const writing = yield* Effect.forEach(
      Array.from({ length: writers }, (_, writer) => writer),
      (writer) => Effect.flatMap(open, (manifest) => write(manifest, writer)),
      { concurrency: "unbounded", discard: true }
    ).pipe(Effect.forkChild)
    yield* Deferred.await(warm)
    yield* trouble
    yield* Deferred.succeed(over, undefined)
    yield* Fiber.join(writing)
    yield* start.register(entryOf("last"))
    yield* Fiber.join(reading)
    assert.strictEqual(new Set(seen).size, seen.length)
    for (const path of acknowledged) assert.include(seen, path)
    // Nothing either that is not in the manifest, or the reverse.
    const { pages } = yield* start.snapshot(1000)
    const all = (yield* Stream.runCollect(pages)).flat().map(({ entry }) => entry.path)
    assert.deepStrictEqual([...seen].sort(), [...all].sort())
  })

  describe("ManifestEtcd on three members", () => {
    it.live(
      "loses nothing and repeats nothing when the leader is killed under load",
      () =>
        underLoad(Effect.gen(function*() {
          const leader = yield* theCluster().leader
          yield* leader.kill
          yield* theCluster().leaderAmong(theCluster().members.filter((member) => member !== leader))
          yield* leader.start
        })),
      60_000
    )

    it.live(
      "goes on without a member that is frozen, the leader too, and takes it back",
      () =>
        underLoad(
          Effect.gen(function*() {
            const leader = yield* theCluster().leader
            yield* leader.freeze
            yield* theCluster().leaderAmong(theCluster().members.filter((member) => member !== leader))
            // Whoever was connected to it has left it by now, or does so in a moment.
            const { manifest } = yield* openManifest({ endpoints: theCluster().endpoints }, "elsewhere")
            yield* Effect.orDie(manifest.register(entryOf(`${namespaces}`)))
            yield* leader.thaw
          }).pipe(Effect.scoped)
        ),
      60_000
    )

    it.live(
      "is the same when all three were killed and are back",
      () => underLoad(Effect.andThen(theCluster().killAll, theCluster().startAll)),
      60_000
    )

    it.live(
      "says that it is unavailable without a quorum, and is well again without a restart",
      () =>
        Effect.gen(function*() {
          const options = { endpoints: theCluster().endpoints, deadline: "500 millis", patience: "1 second" } as const
          const { manifest } = yield* openManifest(options, "quorum")
          yield* manifest.register(entryOf("a"))
          const [first, second] = theCluster().members
          assert(first !== undefined && second !== undefined)
          yield* Effect.all([first.kill, second.kill])
          for (
            const asked of [
              manifest.register(entryOf("b")),
              manifest.remove(pathOf("a"), "gone"),
              manifest.head,
              manifest.page(Option.none(), 10),
              manifest.check([entryOf("c")])
            ]
          ) {
            const error = yield* failureOf(asked)
            assert.strictEqual(error._tag, "Unavailable")
          }
          yield* Effect.all([first.start, second.start], { concurrency: 2 })
          // The members have to choose a leader first, and may take longer for it than this client's patience.
          yield* Effect.eventually(manifest.register(entryOf("b")))
        }),
      60_000
    )
  })

  describe("ManifestEtcd for whom etcd does not let in", () => {
    it.live(
      "takes what fits into a request, however many come together, and refuses the one that does not",
      () =>
        Effect.gen(function*() {
          // Far below what a batch may hold: the operator of etcd decides.
          const narrow = yield* startCluster({ flags: ["--max-request-bytes", "6000"] })
          const { manifest } = yield* openManifest({ endpoints: narrow.endpoints })
          const large = entryOf("large", "large", { database: "d".repeat(4000), measurement: "m".repeat(4000) })
          const list = Array.from({ length: 60 }, (_, n) => n === 17 ? large : entryOf(`small/${n}`))
          const answers = yield* manifest.registerAll(list)
          assert.deepStrictEqual(
            answers.flatMap((answer, n) => "revision" in answer ? [] : [[n, answer._tag, answer.message]]),
            [[
              17,
              "EntryRefused",
              `large can't be registered: etcd at ${narrow.endpoints[0]}: Txn: etcdserver: request is too large`
            ]]
          )
          const error = yield* Effect.flip(manifest.register(large))
          assert.strictEqual(error._tag, "EntryRefused")
          const replacing = yield* Effect.flip(manifest.replace({ add: [large], remove: [] }))
          assert.strictEqual(replacing._tag, "EntryRefused")
          assert.strictEqual((yield* manifest.page(Option.none(), 100)).files.length, 59)
        }),
      60_000
    )

    it.live("is unavailable with a wrong certificate, and says so", () =>
      Effect.gen(function*() {
        const secure = yield* startCluster({ tls: true })
        const endpoints = secure.endpoints.map((endpoint) => `https://${endpoint}`)
        const { authority, certificate, key } = secure.identity("DNS:node-1")
        const right = yield* openManifest({ endpoints, tls: { authority, certificate, key } })
        yield* right.manifest.register(entryOf("a"))
        const stranger = (yield* makeAuthority)("DNS:node-1")
        const tls = { authority, certificate: stranger.certificate, key: stranger.key }
        const wrong = yield* openManifest({ endpoints, tls, patience: "100 millis" })
        for (
          const asked of [
            wrong.manifest.register(entryOf("b")),
            Stream.runDrain(wrong.manifest.events(yield* right.manifest.head))
          ]
        ) {
          const error = yield* failureOf(asked)
          assert.strictEqual(error._tag, "Unavailable")
          assert.include(error.message, secure.endpoints[0] ?? "")
        }
      }), 60_000)

    it.live(
      "is unavailable where its role does not allow it, when that is taken away, and no longer once it is back",
      () =>
        Effect.gen(function*() {
          const guarded = yield* startCluster()
          const { grant, revoke, user } = yield* guard(guarded, "allowed")
          const { manifest } = yield* openManifest({ endpoints: guarded.endpoints, user }, "allowed")
          yield* manifest.register(entryOf("a"))
          const head = yield* manifest.head
          const events = manifest.events(head).pipe(Stream.take(1), Stream.runCollect)
          const other = yield* openManifest({ endpoints: guarded.endpoints, user }, "forbidden")
          const refused = yield* Effect.flip(other.manifest.register(entryOf("a")))
          assert.include(refused.message, "the role of this user must allow")
          assert.include(
            (yield* Effect.flip(Stream.runDrain(other.manifest.events(head)))).message,
            "permission denied"
          )

          yield* revoke
          for (const asked of [manifest.register(entryOf("b")), manifest.get(pathOf("a")), events]) {
            const error = yield* failureOf(asked)
            assert.strictEqual(error._tag, "Unavailable")
            assert.include(error.message, "permission denied")
          }
          yield* grant
          yield* manifest.register(entryOf("b"))
          assert.deepStrictEqual((yield* events).flatMap(({ events }) => pathsOf(events)), ["b"])
        }),
      60_000
    )
  })
}
