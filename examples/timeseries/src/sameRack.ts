/** The resolver of this application: peers of the same rack first. A node's rack is what stands before the dot of its id. */
import { Effect, Layer } from "effect"
import { Membership, PeerResolver, PeerResolverOriginFirst } from "effect-file-replication"

const rackOf = (id: string) => id.split(".")[0]

export const layer = Layer.effect(
  PeerResolver.PeerResolver,
  Effect.gen(function*() {
    // What ours says is kept: never this node, nobody twice, nobody who is gone. Only the order is another.
    const ours = yield* PeerResolver.PeerResolver
    const { self } = yield* Membership.Membership
    const isNear = ({ id }: PeerResolver.Peer) => rackOf(id) === rackOf(self.id)
    return PeerResolver.PeerResolver.of({
      candidates: (origin, path) =>
        Effect.map(ours.candidates(origin, path), (peers) => [
          ...peers.filter(isNear),
          ...peers.filter((peer) => !isNear(peer))
        ])
    })
  })
).pipe(Layer.provide(PeerResolverOriginFirst.layer))
