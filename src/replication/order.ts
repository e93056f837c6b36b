/**
 * In which order the candidates for a file are asked, by what was learnt since they were named: about a peer, for as
 * long as this process lives, and about a peer and a file, for as long as the file is owed.
 */
import { setWithin } from "../internal/boundedMap.ts"
import { peerRest } from "../internal/rests.ts"
import type { NodeId } from "../ports/FileEntry.ts"
import type { PeerAnswer } from "../ports/Inventory.ts"
import { addressText } from "../ports/Membership.ts"
import type { Peer } from "../ports/PeerResolver.ts"

export interface Plan {
  /** Whom to ask, best first. */
  readonly ask: ReadonlyArray<Peer>
  /** Those of them that neither failed lately, nor asked to be left alone, nor sent anything wrong. */
  readonly sound: ReadonlyArray<Peer>
  /** Those, and whoever asked to be left alone for a moment. */
  readonly reachable: ReadonlyArray<Peer>
  /** Who sent wrong bytes for this file and is not asked now. */
  readonly paused: ReadonlyArray<NodeId>
  /** When the first of those may be asked again, milliseconds since 1970. */
  readonly notBefore: number | undefined
}

/** How a peer has done lately, whatever the file. */
export type Standing = "well" | "slow" | "busy" | "failing"

/**
 * Pure. Keeps the order of the candidates but for those that are slow, those that are busy or failed lately behind them, and
 * last those whose bytes for this file were not the manifest's. `first` begins, if it is among them.
 */
export const plan = (
  candidates: ReadonlyArray<Peer>,
  answers: ReadonlyMap<NodeId, PeerAnswer>,
  standingOf: (peer: Peer) => Standing,
  now: number,
  first?: NodeId
): Plan => {
  const rank = (peer: Peer): number => {
    if (peer.id === first) return 0
    const answer = answers.get(peer.id)
    if (answer?.wrongTimes !== undefined || answer?.kind === "ChecksumMismatch") return 5
    return ranks[standingOf(peer)]
  }
  const pauseOf = (peer: Peer): number => answers.get(peer.id)?.notBefore ?? 0
  const paused = candidates.filter((peer) => pauseOf(peer) > now)
  // Sorting is stable.
  const ask = candidates.filter((peer) => pauseOf(peer) <= now).sort((a, b) => rank(a) - rank(b))
  return {
    ask,
    sound: ask.filter((peer) => rank(peer) < ranks.busy),
    reachable: ask.filter((peer) => rank(peer) < ranks.failing),
    paused: paused.map(({ id }) => id),
    notBefore: paused.length === 0 ? undefined : Math.min(...paused.map(pauseOf))
  }
}

/** Pure. Whom to ask first for a file that nobody was asked for. */
export const best = (candidates: ReadonlyArray<Peer>, standingOf: (peer: Peer) => Standing): Peer | undefined => {
  let found: Peer | undefined
  let rank = Infinity
  for (const peer of candidates) {
    const its = ranks[standingOf(peer)]
    if (its < rank) [found, rank] = [peer, its]
  }
  return found
}

const ranks: Record<Standing, number> = { well: 1, slow: 2, busy: 3, failing: 4 }

/** Which peers failed lately, and which are slow. */
export interface Reach {
  /**
   * A peer could not be reached, stopped in the middle or rejected us. It is asked last for a minute, and for twice as
   * long, up to an hour, each time that it fails again behind that.
   */
  readonly failed: (peer: Peer, now: number) => void
  /** A peer asked to be left alone. */
  readonly busy: (peer: Peer, until: number) => void
  /** A peer answered. Gives whether it had failed before. */
  readonly answered: (peer: Peer) => boolean
  /** A peer has sent so many bytes within so many milliseconds. Counts when they are enough to tell anything. */
  readonly sent: (peer: Peer, bytes: number, millis: number, now: number) => void
  /** `slow`: an eighth or less of what the fastest of these peers sends. */
  readonly standingOf: (peer: Peer, among: ReadonlyArray<Peer>, now: number) => Standing
}

/** Below it a body's time is that of its answer and of our disk, bytes. */
const tellingBytes = 1024 * 1024
/** So many times slower than another is slow: workers that share a peer are not. */
const slowTimes = 8
/** How long a speed counts, milliseconds: then a slow peer has another try. */
const speedMillis = 300_000

/** More names than any cluster has; beyond it the oldest are dropped. */
const manyPeers = 4096

/**
 * A memory of its own. What is known of a peer goes with its address: one that moved begins anew. `onBack` is told of
 * each peer that answers after it had failed.
 */
export const makeReach = (onBack: (peer: NodeId) => void = () => undefined): Reach => {
  const failing = memory<{ readonly until: number; readonly rest: number }>()
  const speeds = memory<{ readonly bytesPerMilli: number; readonly until: number }>()
  const speedOf = (peer: Peer, now: number): number | undefined => {
    const known = speeds.get(peer)
    return known !== undefined && known.until > now ? known.bytesPerMilli : undefined
  }
  return {
    failed: (peer, now) => {
      const known = failing.get(peer)
      // Several workers may have asked it at the same time: it has failed once.
      if (known !== undefined && known.until > now && known.rest > 0) return
      const rest = peerRest(known?.rest ?? 0)
      failing.set(peer, { until: now + rest, rest })
    },
    busy: (peer, until) => failing.set(peer, { until, rest: 0 }),
    answered: (peer) => {
      const before = failing.get(peer)
      failing.delete(peer)
      const back = before !== undefined && before.rest > 0
      if (back) onBack(peer.id)
      return back
    },
    sent: (peer, bytes, millis, now) => {
      if (bytes < tellingBytes) return
      const latest = bytes / Math.max(1, millis)
      const before = speedOf(peer, now) ?? latest
      speeds.set(peer, { bytesPerMilli: (before + latest) / 2, until: now + speedMillis })
    },
    standingOf: (peer, among, now) => {
      const rests = failing.get(peer)
      if (rests !== undefined && rests.until > now) return rests.rest > 0 ? "failing" : "busy"
      const speed = speedOf(peer, now)
      if (speed === undefined) return "well"
      return among.some((other) => (speedOf(other, now) ?? 0) >= slowTimes * speed) ? "slow" : "well"
    }
  }
}

/** What is kept of each peer; of one that moved, nothing. */
export const memory = <A>() => {
  const kept = new Map<NodeId, { readonly address: string; readonly value: A }>()
  return {
    get: (peer: Peer): A | undefined => {
      const known = kept.get(peer.id)
      return known?.address === addressText(peer.address) ? known.value : undefined
    },
    set: (peer: Peer, value: A): void => {
      setWithin(kept, peer.id, { address: addressText(peer.address), value }, manyPeers)
    },
    delete: (peer: Peer): void => void kept.delete(peer.id)
  }
}
