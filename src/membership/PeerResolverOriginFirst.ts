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
 */
export const order = (
  members: ReadonlyArray<Member>,
  self: NodeId,
  origin: NodeId,
  path: FilePath
): ReadonlyArray<Peer> => {
  const peers = new Map<NodeId, Peer & { readonly rank: number }>()
  for (const { address, alive, draining, id } of members) {
    if (id !== self && Option.isSome(address) && (alive || id === origin) && !peers.has(id)) {
      peers.set(id, { id, address: address.value, rank: !alive ? 3 : draining ? 2 : id === origin ? 0 : 1 })
    }
  }
  const sorted = [...peers.values()].sort((a, b) => a.id < b.id ? -1 : 1)
  const ranked = (rank: number) => sorted.filter((peer) => peer.rank === rank)
  const others = ranked(1)
  const turn = others.length === 0 ? 0 : Math.abs(Hash.string(`${path}\0${self}`)) % others.length
  return [...ranked(0), ...others.slice(turn), ...others.slice(0, turn), ...ranked(2), ...ranked(3)]
    .map(({ address, id }) => ({ id, address }))
}

/** For how long a list of members serves the pulls of many files. */
const freshness = Duration.millis(100)

export const layer: Layer.Layer<PeerResolver, never, Membership> = Layer.effect(
  PeerResolver,
  Effect.gen(function*() {
    const { members, self } = yield* Membership
    const known = yield* Effect.cachedWithTTL(members, freshness)
    return PeerResolver.of({
      candidates: (origin, path) =>
        known.pipe(
          Effect.map((members) => order(members, self.id, origin, path)),
          Effect.mapError((error) => new PeerLookupFailed({ detail: error.message }))
        )
    })
  })
)
