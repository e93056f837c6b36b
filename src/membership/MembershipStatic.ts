/** A fixed list of members, from the configuration. All of them count as alive. */
import { Effect, Layer, Option } from "effect"
import * as Bell from "../internal/Bell.ts"
import type { NodeId } from "../ports/FileEntry.ts"
import { type Address, type Member, Membership, MembershipError } from "../ports/Membership.ts"
import { NotRemoved, type Role, type Watermark } from "../ports/Membership.ts"
import { changesOf } from "./changes.ts"

export interface Options {
  readonly self: { readonly id: NodeId; readonly role: Role }
  /** The others. An entry for this node itself is left out, so that one list does for all nodes. */
  readonly peers: ReadonlyArray<{ readonly id: NodeId; readonly address: Address }>
}

/** Fails when two peers go by one id. */
export const layer = (options: Options): Layer.Layer<Membership, MembershipError> =>
  Layer.effect(Membership, make(options))

const make = Effect.fnUntraced(function*(
  { peers, self }: Options
): Effect.fn.Return<Membership["Service"], MembershipError> {
  const others = new Map<NodeId, Member>()
  for (const { address, id } of peers) {
    if (others.has(id)) {
      return yield* new MembershipError({ operation: "open", detail: `the list of peers names ${id} twice` })
    }
    others.set(id, {
      id,
      // A list of addresses says nothing about roles; "reader" promises the least.
      role: "reader",
      address: Option.some(address),
      alive: true,
      version: "",
      watermark: Option.none(),
      draining: false
    })
  }
  others.delete(self.id)

  const bell = Bell.make()
  let address = Option.none<Address>()
  let watermark = Option.none<Watermark>()
  let draining = false
  const members = Effect.sync((): ReadonlyArray<Member> => [
    { ...self, address, alive: true, version: "", watermark, draining },
    ...others.values()
  ])

  return Membership.of({
    self,
    members,
    changes: changesOf(members, bell),
    announce: (announced) =>
      Effect.sync(() => {
        address = Option.some(announced)
        bell.ring()
      }),
    publish: (given) =>
      Effect.sync(() => {
        watermark = given
      }),
    // The others don't hear of it: they go on asking.
    drain: (given) =>
      Effect.sync(() => {
        draining = given
        bell.ring()
      }),
    // The list is what it is.
    departed: () => Effect.void,
    trouble: Effect.succeedNone,
    remove: (id) =>
      Effect.fail(
        new NotRemoved({ id, detail: "the members are a fixed list; take it out of cluster.peers on every node" })
      )
  })
})
