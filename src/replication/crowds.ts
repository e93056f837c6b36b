/**
 * What a peer's answer leads to that sends a file to others first: whoever has it by then is asked, one that named
 * another before whom it named; and when none of them gives it, it waits a moment, behind other files.
 */
import { Schema } from "effect"
import type { Crowded } from "../ports/FetchClient.ts"
import type { NodeId } from "../ports/FileEntry.ts"
import type { Peer } from "../ports/PeerResolver.ts"

/** Others take the file first, and can then give it. Nobody is to blame. */
export class OthersFirst extends Schema.TaggedError<OthersFirst>()("OthersFirst", {
  reason: Schema.String,
  /** When it is worth to ask again. */
  retryAfterMillis: Schema.Natural,
  /** Those who are said to have it did not give it, and nobody else is said to get it now. */
  vain: Schema.Boolean
}) {
  override get message(): string {
    return this.reason
  }
}

/** Pure. Whom to ask next: of those who can be asked, the ones that were named, by the last first, and nobody twice. */
export const named = (
  crowds: ReadonlyArray<Crowded>,
  peers: ReadonlyArray<Peer>,
  asked: ReadonlyArray<{ readonly peer: NodeId }>
): ReadonlyArray<Peer> => {
  const before = new Set(asked.map(({ peer }) => peer))
  const found = crowds.toReversed().flatMap(({ holders }) =>
    peers.filter(({ id }) => holders.includes(id) && !before.has(id))
  )
  return [...new Set(found)]
}

const someGetIt = ({ holders }: Crowded): boolean => holders.length === 0

/** Pure. Who was named and can't be asked; nobody as long as somebody can who was named, or gets the file now. */
export const unreachable = (crowds: ReadonlyArray<Crowded>, peers: ReadonlyArray<Peer>): ReadonlyArray<NodeId> =>
  crowds.some(someGetIt) || named(crowds, peers, []).length > 0
    ? []
    : [...new Set(crowds.flatMap(({ holders }) => holders))]

/** Pure. What is said of the answers when nobody gave the file; at least one. */
export const othersFirst = (crowds: ReadonlyArray<Crowded>): OthersFirst => {
  const coming = crowds.filter(someGetIt)
  const vain = coming.length === 0
  return new OthersFirst({
    reason: crowds.map(({ message }) => message).join("; "),
    retryAfterMillis: Math.min(...(vain ? crowds : coming).map(({ retryAfterMillis }) => retryAfterMillis)),
    vain
  })
}
