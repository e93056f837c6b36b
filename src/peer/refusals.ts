/** What a peer's refusal means to whoever asked. Nothing of its text is taken over. */
import { Schema } from "effect"
import { BadOffset, Crowded, FileNotOnPeer, PeerRejected } from "../ports/FetchClient.ts"
import { type FileEntry, NodeId } from "../ports/FileEntry.ts"
import type { FetchFileAck } from "./protocol/Messages.ts"

/** The longest that a peer can ask us to leave it alone, milliseconds. */
const maxRetryAfterMillis = 300_000n
/** The most nodes that a peer can send us to for one file. */
const maxHolders = 16

const isNodeId = Schema.is(NodeId)

/** `canWait`: whether the request said so. Whoever says `crowded` all the same does not keep to the protocol. */
export const refusalOf = (
  asked: { readonly peer: NodeId; readonly path: FileEntry["path"] },
  offset: number,
  ack: FetchFileAck,
  canWait: boolean
): FileNotOnPeer | BadOffset | Crowded | PeerRejected => {
  switch (ack.code) {
    case "not_found":
    case "manifest":
      return new FileNotOnPeer({ ...asked, code: ack.code })
    case "bad_offset":
      return new BadOffset({ ...asked, offset })
    case "busy":
      return new PeerRejected({ ...asked, code: ack.code, ...retryAfter(ack.retry_after_ms) })
    case "crowded":
      return canWait
        ? new Crowded({
          ...asked,
          holders: ack.holders.filter(isNodeId).slice(0, maxHolders),
          retryAfterMillis: retryAfter(ack.retry_after_ms).retryAfterMillis ?? 0
        })
        : new PeerRejected({ ...asked, code: "unknown" })
    case "auth":
    case "backend":
    case "raft":
    case "invalid_path":
      return new PeerRejected({ ...asked, code: ack.code })
    case "":
      return legacyRefusalOf(asked, ack.error)
    default:
      return new PeerRejected({ ...asked, code: "unknown" })
  }
}

// Older peers send a sentence only. It counts when it is exactly one of these two; a crafted one must not steer us.
const legacyRefusalOf = (
  asked: { readonly peer: NodeId; readonly path: FileEntry["path"] },
  error: string
): FileNotOnPeer | PeerRejected => {
  switch (error) {
    case "file not in manifest":
      return new FileNotOnPeer({ ...asked, code: "manifest" })
    case "file not found on local backend":
      return new FileNotOnPeer({ ...asked, code: "not_found" })
    default:
      return new PeerRejected({ ...asked, code: "unknown" })
  }
}

const retryAfter = (millis: bigint): { readonly retryAfterMillis?: number } =>
  millis > 0n ? { retryAfterMillis: Number(millis < maxRetryAfterMillis ? millis : maxRetryAfterMillis) } : {}
