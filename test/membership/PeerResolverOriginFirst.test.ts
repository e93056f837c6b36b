import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Option, Random } from "effect"
import { TestClock } from "effect/testing"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import * as MembershipSqlite from "../../src/membership/MembershipSqlite.ts"
import * as MembershipStatic from "../../src/membership/MembershipStatic.ts"
import { layer, order } from "../../src/membership/PeerResolverOriginFirst.ts"
import { NodeId } from "../../src/ports/FileEntry.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { type Member, Membership } from "../../src/ports/Membership.ts"
import { PeerResolver } from "../../src/ports/PeerResolver.ts"
import { temporaryFolder } from "../support/folder.ts"

const id = (n: number) => NodeId.make(`node-${n}`)
const pathOf = (n: number) => FilePath.make(`db/cpu/2026/04/11/14/${n}.parquet`)

const member = (n: number, overrides: Partial<Member> = {}): Member => ({
  id: id(n),
  role: "reader",
  address: Option.some({ host: "10.0.0.1", port: 4000 + n }),
  alive: true,
  version: "",
  watermark: Option.none(),
  draining: false,
  ...overrides
})

const ids = (members: ReadonlyArray<Member>, self: number, origin: number, path = pathOf(1)) =>
  order(members, id(self))(id(origin), path).map((peer) => peer.id)

const randomCase = Effect.gen(function*() {
  const count = yield* Random.nextIntBetween(0, 8)
  const members = yield* Effect.forEach(Array.from({ length: count }, (_, n) => n), (n) =>
    Effect.gen(function*() {
      const alive = yield* Random.nextBoolean
      const address = (yield* Random.next) < 0.8 ? member(n).address : Option.none()
      const draining = (yield* Random.next) < 0.3
      return member(n, { alive, address, draining })
    }))
  const twice = (yield* Random.nextBoolean) ? [...members, ...members] : members
  return {
    members: twice,
    self: id(yield* Random.nextIntBetween(0, 8)),
    origin: id(yield* Random.nextIntBetween(0, 8)),
    path: pathOf(yield* Random.nextIntBetween(0, 1000))
  }
})

describe("order", () => {
  const seed = 20260411

  it.effect(`names whoever may be asked, once, the origin first or last, the same each time (seed ${seed})`, () =>
    Effect.gen(function*() {
      for (let i = 0; i < 2000; i++) {
        const { members, origin, path, self } = yield* randomCase
        const peers = order(members, self)(origin, path)
        const expected = new Set(
          members
            .filter((each) => each.id !== self && Option.isSome(each.address) && (each.alive || each.id === origin))
            .map((each) => each.id)
        )
        assert.strictEqual(peers.length, expected.size)
        assert.deepStrictEqual(new Set(peers.map((peer) => peer.id)), expected)
        const place = peers.findIndex((peer) => peer.id === origin)
        const known = (id: NodeId) => members.find((each) => each.id === id)
        if (place !== -1 && known(origin)?.alive === false) assert.strictEqual(place, peers.length - 1)
        if (place !== -1 && known(origin)?.alive === true && known(origin)?.draining === false) {
          assert.strictEqual(place, 0)
        }
        const staying = peers.map((peer) => known(peer.id)?.alive === true && known(peer.id)?.draining === false)
        assert.strictEqual(staying.lastIndexOf(true), staying.filter((each) => each).length - 1)
        for (const peer of peers) {
          assert.deepStrictEqual(known(peer.id)?.address, Option.some(peer.address))
        }
        const shuffled = yield* Random.shuffle(members)
        assert.deepStrictEqual(order(shuffled, self)(origin, path), peers)
      }
    }).pipe(Random.withSeed(seed)))

  it("spreads the first question after the origin over the others, for one node's files and for one file's nodes", () => {
    const members = Array.from({ length: 10 }, (_, n) => member(n))
    const counts = (seconds: ReadonlyArray<NodeId | undefined>) => {
      const by = Map.groupBy(seconds, (second) => second)
      return [...by.values()].map((each) => each.length)
    }
    const byFile = counts(Array.from({ length: 8000 }, (_, n) => ids(members, 0, 1, pathOf(n))[1]))
    assert.strictEqual(byFile.length, 8)
    for (const count of byFile) assert.isTrue(count > 700 && count < 1300, `${byFile}`)

    const many = Array.from({ length: 100 }, (_, n) => member(n))
    const byNode = counts(Array.from({ length: 98 }, (_, n) => ids(many, n + 2, 1)[1]))
    assert.isAbove(byNode.length, 40)
  })

  it("leaves nobody to ask when there is only this node, or only members without an address", () => {
    assert.deepStrictEqual(ids([member(1)], 1, 1), [])
    assert.deepStrictEqual(ids([member(1), member(2, { address: Option.none() })], 1, 2), [])
  })
})

describe("PeerResolverOriginFirst", () => {
  const self = { id: id(1), role: "writer" } as const

  it.effect("asks the members as they are at each call", () =>
    Effect.gen(function*() {
      const address = { host: "10.0.0.2", port: 4002 }
      const resolver = yield* PeerResolver.pipe(
        Effect.provide(layer.pipe(Layer.provide(MembershipStatic.layer({ self, peers: [{ id: id(2), address }] }))))
      )
      assert.deepStrictEqual(yield* resolver.candidates(id(2), pathOf(1)), [{ id: id(2), address }])
      assert.deepStrictEqual(yield* resolver.candidates(id(1), pathOf(1)), [{ id: id(2), address }])
    }))

  it.effect("sees a member that came later, and fails with the reason when the members can't be read", () =>
    Effect.gen(function*() {
      const path = join(yield* temporaryFolder, "members.db")
      const membershipOf = (n: number) =>
        Layer.build(MembershipSqlite.layer({ path, version: "", self: { id: id(n), role: "writer" } }))
      const first = yield* membershipOf(1)
      const resolver = Context.get(
        yield* Layer.build(layer.pipe(Layer.provide(Layer.succeedContext(first)))),
        PeerResolver
      )
      assert.deepStrictEqual(yield* resolver.candidates(id(2), pathOf(1)), [])
      const address = { host: "10.0.0.2", port: 4002 }
      yield* Context.get(yield* membershipOf(2), Membership).announce(address)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* resolver.candidates(id(2), pathOf(1)), [{ id: id(2), address }])
      yield* Effect.sync(() => {
        const file = new DatabaseSync(path)
        file.exec("UPDATE node SET role = 'king'")
        file.close()
      })
      yield* TestClock.adjust("1 second")
      const error = yield* Effect.flip(resolver.candidates(id(2), pathOf(1)))
      assert.strictEqual(error._tag, "PeerLookupFailed")
      assert.include(error.message, "role: ")
    }))
})
