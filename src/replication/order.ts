/**
 * In which order the candidates for a file are asked, by what was learnt since they were named: about a peer, for as
 * long as this process lives, and about a peer and a file, for as long as the file is owed.
 */
import type { NodeId } from "../ports/FileEntry.ts"
import type { PeerAnswer } from "../ports/Inventory.ts"
import { addressText } from "../ports/Membership.ts"
import type { Peer } from "../ports/PeerResolver.ts"

export interface Plan {
  /** Whom to ask, best first. */
  readonly ask: ReadonlyArray<Peer>
  /** Who sent wrong bytes for this file and is not asked now. */
  readonly paused: ReadonlyArray<NodeId>
  /** When the first of those may be asked again, milliseconds since 1970. */
  readonly notBefore: number | undefined
}

/**
 * Pure. Keeps the order of the candidates but for those that failed lately, who come last, and behind them those whose
 * bytes for this file were not the manifest's. `first` begins, if it is among them.
 */
export const plan = (
  candidates: ReadonlyArray<Peer>,
  answers: ReadonlyMap<NodeId, PeerAnswer>,
  isFailing: (peer: Peer) => boolean,
  now: number,
  first?: NodeId
): Plan => {
  const rank = (peer: Peer): number => {
    if (peer.id === first) return 0
    const answer = answers.get(peer.id)
    if (answer?.wrongTimes !== undefined || answer?.kind === "ChecksumMismatch") return 3
    return isFailing(peer) ? 2 : 1
  }
  const pauseOf = (peer: Peer): number => answers.get(peer.id)?.notBefore ?? 0
  const paused = candidates.filter((peer) => pauseOf(peer) > now)
  return {
    // Sorting is stable.
    ask: candidates.filter((peer) => pauseOf(peer) <= now).sort((a, b) => rank(a) - rank(b)),
    paused: paused.map(({ id }) => id),
    notBefore: paused.length === 0 ? undefined : Math.min(...paused.map(pauseOf))
  }
}

/** Which peers failed lately. */
export interface Reach {
  /** A peer could not be reached, or stopped in the middle, or asked to be left alone. */
  readonly failed: (peer: Peer, until: number) => void
  /** A peer answered. */
  readonly answered: (peer: Peer) => void
  readonly isFailing: (peer: Peer, now: number) => boolean
}

/** More names than any cluster has; beyond it the oldest are dropped. */
const manyPeers = 4096

/** A memory of its own. What is known of a peer goes with its address: one that moved begins anew. */
export const makeReach = (): Reach => {
  const failing = new Map<NodeId, { readonly address: string; readonly until: number }>()
  return {
    failed: (peer, until) => {
      const oldest = failing.size < manyPeers ? undefined : failing.keys().next().value
      if (oldest !== undefined) failing.delete(oldest)
      failing.delete(peer.id)
      failing.set(peer.id, { address: addressText(peer.address), until })
    },
    answered: (peer) => void failing.delete(peer.id),
    isFailing: (peer, now) => {
      const known = failing.get(peer.id)
      return known !== undefined && known.until > now && known.address === addressText(peer.address)
    }
  }
}
