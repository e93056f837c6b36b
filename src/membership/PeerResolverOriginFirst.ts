/** Asks a file's origin first, then the others, each file's turn beginning with another of them. */
import { Duration, Effect, Hash, Layer, Option } from "effect"
import type { NodeId } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { type Member, Membership } from "../ports/Membership.ts"
import { type Peer, PeerLookupFailed, PeerResolver } from "../ports/PeerResolver.ts"

/**
 * The peers to ask, best first: the origin while it is alive, then the other live members, then whoever drains, and an
 * origin that is not alive last of all, for its lapse may be over. The others come in the order of their ids, turned by
 * a number drawn from the path and the asking node: always the same for these two, spread over all of them for many
 * files and nodes.
 *
 * The members are looked at once for many files.
 */
export const order = (members: ReadonlyArray<Member>, self: NodeId) => {
  const named = new Map<NodeId, Pick<Member, "alive" | "draining"> & { readonly peer: Peer }>()
  for (const { address, alive, draining, id } of members) {
    const before = named.get(id)
    if (id === self || Option.isNone(address) || before?.alive === true || (before !== undefined && !alive)) continue
    named.set(id, { peer: { id, address: address.value }, alive, draining })
  }
  const sorted = [...named.values()].sort((a, b) => a.peer.id < b.peer.id ? -1 : 1)
  return (origin: NodeId, path: FilePath): ReadonlyArray<Peer> => {
    const first: Array<Peer> = []
    const others: Array<Peer> = []
    const last: Array<Peer> = []
    for (const { alive, draining, peer } of sorted) {
      if (alive) (draining ? last : peer.id === origin ? first : others).push(peer)
    }
    const its = named.get(origin)
    if (its?.alive === false) last.push(its.peer)
    const turn = others.length < 2 ? 0 : Math.abs(Hash.string(`${path}\0${self}`)) % others.length
    return [...first, ...others.slice(turn), ...others.slice(0, turn), ...last]
  }
}

/** For how long a list of members serves the pulls of many files. */
const freshness = Duration.millis(100)

export const layer: Layer.Layer<PeerResolver, never, Membership> = Layer.effect(
  PeerResolver,
  Effect.gen(function*() {
    const { members, self } = yield* Membership
    const known = yield* Effect.cachedWithTTL(Effect.map(members, (members) => order(members, self.id)), freshness)
    return PeerResolver.of({
      candidates: (origin, path) =>
        known.pipe(
          Effect.map((ordered) => ordered(origin, path)),
          Effect.mapError((error) => new PeerLookupFailed({ detail: error.message }))
        )
    })
  })
)
