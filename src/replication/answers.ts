/** What peers answered about one file, as it is kept with the debt. Pure. */
import type { FetchError } from "../ports/FetchClient.ts"
import type { NodeId } from "../ports/FileEntry.ts"
import type { PeerAnswer } from "../ports/Inventory.ts"

/** What a peer's wrong bytes are called among the answers. */
export const wrongBytes = "WrongBytes"

/** How many answers are kept with a debt: the latest. */
const kept = 64

export const kindOf = (error: FetchError): string =>
  error._tag === "PeerRejected" ? `${error._tag}:${error.code}` : error._tag

/** A new answer in the place of the peer's last. What it once sent wrong is not forgotten over it. */
export const answered = (before: PeerAnswer | undefined, now: PeerAnswer): PeerAnswer => ({
  ...now,
  ...(before?.wrongTimes === undefined ? {} : { wrongTimes: before.wrongTimes }),
  ...(before?.notBefore === undefined ? {} : { notBefore: before.notBefore })
})

/**
 * A peer sent a whole body of wrong bytes, all of them its own. It is not asked for this file again before a pause is
 * over; `pauseMillis` gives it for the nth time.
 */
export const blamed = (
  before: PeerAnswer | undefined,
  now: Pick<PeerAnswer, "peer" | "at" | "detail">,
  pauseMillis: (times: number) => number
): PeerAnswer => {
  const wrongTimes = (before?.wrongTimes ?? 0) + 1
  return { ...now, kind: wrongBytes, wrongTimes, notBefore: Math.ceil(now.at + pauseMillis(wrongTimes)) }
}

/** Those worth keeping: the latest, whoever left long ago drops out. */
export const latest = (answers: Iterable<PeerAnswer>): ReadonlyArray<PeerAnswer> =>
  [...answers].sort((a, b) => b.at - a.at).slice(0, kept)

/** Why nobody delivered, in a sentence for people. */
export const explainAnswers = (answers: ReadonlyArray<PeerAnswer>): string => {
  const authOnly = answers.length > 0 && answers.every(({ kind }) => kind === "PeerRejected:auth")
  if (authOnly) return "rejected by all peers: check the shared secret, the cluster name and the clocks"
  return `no peer delivered it: ${answers.map(({ detail }) => detail).join("; ")}`
}

/** Why nobody is asked, though there are peers. */
export const explainPauses = (answers: ReadonlyMap<NodeId, PeerAnswer>, paused: ReadonlyArray<NodeId>): string => {
  const each = paused.map((peer) => `${peer} (${answers.get(peer)?.wrongTimes ?? 0} times)`)
  return `every peer that could be asked has sent wrong bytes for it and rests: ${each.join(", ")}`
}
