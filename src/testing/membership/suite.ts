/** What every list of members must do, whatever keeps it. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Option, Queue, Stream } from "effect"
import { NodeId } from "../../ports/FileEntry.ts"
import {
  type Address,
  type Member,
  Membership,
  type MembershipError,
  type NodeIdTaken
} from "../../ports/Membership.ts"
import { watermark } from "./marks.ts"

export const self = { id: NodeId.make("node-1"), role: "writer" } as const
export const other = { id: NodeId.make("node-2"), address: { host: "10.0.0.2", port: 4002 } } as const

/** Each list of members that comes, in order. */
export const told = Effect.fnUntraced(function*(membership: Membership["Service"]) {
  const lists = yield* Queue.unbounded<ReadonlyArray<Member>>()
  yield* membership.changes.pipe(Stream.runForEach((list) => Queue.offer(lists, list)), Effect.forkScoped)
  return Queue.take(lists)
})

export const find = (list: ReadonlyArray<Member>, id: NodeId): Member => {
  const found = list.filter((member) => member.id === id)
  assert.strictEqual(found.length, 1, `${id} is there once`)
  const [member] = found
  assert(member !== undefined)
  return member
}

/** Who is in the list. */
export interface Members {
  /** Whose view of the list it is. It has not announced an address yet. */
  readonly self: Membership["Service"]["self"]
  /** The only other member, alive, with the address that it has announced. */
  readonly other: { readonly id: NodeId; readonly address: Address }
}

/** `fresh`: a list with these members and nobody else; built anew for each test. */
export const suite = (
  name: string,
  fresh: (members: Members) => Layer.Layer<Membership, MembershipError | NodeIdTaken>
): void => {
  const open = Effect.map(
    Layer.build(Layer.suspend(() => fresh({ self, other }))),
    (context) => Context.get(context, Membership)
  )
  const here: Address = { host: "10.0.0.1", port: 4001 }
  const there: Address = { host: "::1", port: 4001 }

  describe(`Membership: ${name}`, () => {
    it.live("knows itself and the others, itself without an address before it has announced one", () =>
      Effect.gen(function*() {
        const membership = yield* open
        assert.deepStrictEqual(membership.self, self)
        const members = yield* membership.members
        assert.strictEqual(members.length, 2)
        const own = find(members, self.id)
        assert.deepStrictEqual([own.role, own.address, own.alive], ["writer", Option.none(), true])
        const peer = find(members, other.id)
        assert.deepStrictEqual([peer.address, peer.alive], [Option.some(other.address), true])
      }))

    it.live("announces an address, and another one later", () =>
      Effect.gen(function*() {
        const membership = yield* open
        for (const address of [here, there]) {
          yield* membership.announce(address)
          assert.deepStrictEqual(find(yield* membership.members, self.id).address, Option.some(address))
        }
      }))

    it.live("tells of the members now, then of each move, and not of what is no change", () =>
      Effect.gen(function*() {
        const membership = yield* open
        const next = yield* told(membership)
        assert.deepStrictEqual(find(yield* next, self.id).address, Option.none())
        yield* membership.announce(here)
        assert.deepStrictEqual(find(yield* next, self.id).address, Option.some(here))
        yield* membership.announce(here)
        yield* membership.publish(Option.some(watermark(7)))
        yield* membership.announce(there)
        assert.deepStrictEqual(find(yield* next, self.id).address, Option.some(there))
      }))

    it.live("says of itself how far it holds everything, and that it does not know any more", () =>
      Effect.gen(function*() {
        const membership = yield* open
        const own = Effect.map(membership.members, (members) => find(members, self.id).watermark)
        assert.deepStrictEqual(yield* own, Option.none())
        yield* membership.publish(Option.some(watermark(41)))
        yield* membership.announce(here)
        yield* membership.publish(Option.some(watermark(42)))
        assert.deepStrictEqual(yield* own, Option.some(watermark(42)))
        yield* membership.publish(Option.none())
        assert.deepStrictEqual(yield* own, Option.none())
      }))

    it.live("says of itself that it drains, and that it does not any more", () =>
      Effect.gen(function*() {
        const membership = yield* open
        yield* membership.announce(here)
        const next = yield* told(membership)
        assert.isFalse(find(yield* next, self.id).draining)
        for (const draining of [true, false]) {
          yield* membership.drain(draining)
          assert.strictEqual(find(yield* next, self.id).draining, draining)
        }
      }))

    it.live("removes no member that is alive", () =>
      Effect.gen(function*() {
        const membership = yield* open
        const error = yield* Effect.flip(membership.remove(other.id))
        assert.strictEqual(error._tag, "NotRemoved")
        assert.match(error.message, /^node-2 was not removed: /)
        assert.isTrue(find(yield* membership.members, other.id).alive)
      }))
  })
}
