/** Whom to ask for a file. */
import { Context, type Effect, Schema } from "effect"
import { type NodeId } from "./FileEntry.ts"
import type { FilePath } from "./FilePath.ts"
import { type Address, addressText } from "./Membership.ts"

export interface Peer {
  readonly id: NodeId
  readonly address: Address
}

/** Tells peers apart, and a peer from itself at another address. */
export const keyOf = ({ address, id }: Peer): string => `${id} ${addressText(address)}`

/** Who could be asked is not known, because membership failed. */
export class PeerLookupFailed extends Schema.TaggedError<PeerLookupFailed>()("PeerLookupFailed", {
  detail: Schema.String
}) {
  override get message(): string {
    return `the peers can't be looked up: ${this.detail}`
  }
}

export class PeerResolver extends Context.Service<PeerResolver, {
  /**
   * The peers to ask for a file, best first: its origin, then the others that are alive. Never this node, nobody
   * twice; empty when there is nobody. Looked up afresh on each call.
   */
  readonly candidates: (
    origin: NodeId,
    path: FilePath
  ) => Effect.Effect<ReadonlyArray<Peer>, PeerLookupFailed>
}>()("file-replication/PeerResolver") {}
