/** Fetches the bytes of one file from one peer. */
import { Context, type Effect, type Option, Schema } from "effect"
import type { ByteSink } from "./ByteSink.ts"
import { type FileEntry, NodeId } from "./FileEntry.ts"
import { FilePath } from "./FilePath.ts"
import type { Peer } from "./PeerResolver.ts"

const asked = { peer: NodeId, path: FilePath }

/** The peer's manifest has another digest than ours. No byte was taken. */
export class ChecksumMismatch extends Schema.TaggedError<ChecksumMismatch>()("ChecksumMismatch", {
  ...asked,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.peer} has other bytes for ${this.path}: ${this.detail}`
  }
}

/** The peer does not hold the file. */
export class FileNotOnPeer extends Schema.TaggedError<FileNotOnPeer>()("FileNotOnPeer", {
  ...asked,
  code: Schema.Literals(["not_found", "manifest"])
}) {
  override get message(): string {
    return this.code === "manifest"
      ? `${this.path} is not in the manifest of ${this.peer}`
      : `${this.peer} does not hold ${this.path}`
  }
}

/** The peer refuses to begin at this offset. */
export class BadOffset extends Schema.TaggedError<BadOffset>()("BadOffset", { ...asked, offset: Schema.Natural }) {
  override get message(): string {
    return `${this.peer} refuses to serve ${this.path} from byte ${this.offset}`
  }
}

/** The peer sends the file to others already, or has lately, and we said that we can take it elsewhere or later. */
export class Crowded extends Schema.TaggedError<Crowded>()("Crowded", {
  ...asked,
  /** Nodes that have it whole, as far as the peer knows; empty while it is only on its way to them. */
  holders: Schema.Array(NodeId),
  /** When it is worth to ask again. */
  retryAfterMillis: Schema.Natural
}) {
  override get message(): string {
    const holders = this.holders.length === 0 ? "" : `; those have it: ${this.holders.join(", ")}`
    return `${this.peer} sends ${this.path} to others first${holders}`
  }
}

/** The peer refused. `auth`: it does not accept us; check the shared secret, the cluster name and the clocks. */
export class PeerRejected extends Schema.TaggedError<PeerRejected>()("PeerRejected", {
  ...asked,
  code: Schema.Literals(["auth", "backend", "raft", "invalid_path", "busy", "unknown"]),
  /** How long to leave the peer alone, when it said so. */
  retryAfterMillis: Schema.optionalKey(Schema.Natural)
}) {
  override get message(): string {
    return this.code === "auth"
      ? `${this.peer} rejected our authentication: check the shared secret, the cluster name and the clocks`
      : `${this.peer} refused to serve ${this.path} (${this.code})`
  }
}

/** No connection. */
export class PeerUnreachable extends Schema.TaggedError<PeerUnreachable>()("PeerUnreachable", {
  ...asked,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.peer} can't be reached: ${this.detail}`
  }
}

/** The peer stopped sending. */
export class Stalled extends Schema.TaggedError<Stalled>()("Stalled", {
  ...asked,
  /** What we waited for. */
  phase: Schema.Literals(["ack", "body"]),
  /** How long, milliseconds. */
  millis: Schema.Int
}) {
  override get message(): string {
    return `${this.peer} made no progress for ${this.millis} ms while we waited for the ${this.phase} of ${this.path}`
  }
}

/** The peer closed before the last byte. What arrived is kept. */
export class ShortBody extends Schema.TaggedError<ShortBody>()("ShortBody", {
  ...asked,
  expected: Schema.Natural,
  received: Schema.Natural
}) {
  override get message(): string {
    return `${this.peer} closed after ${this.received} of ${this.expected} bytes of ${this.path}`
  }
}

/** The peer does not keep to the protocol. */
export class ProtocolViolation extends Schema.TaggedError<ProtocolViolation>()("ProtocolViolation", {
  ...asked,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.peer} broke the protocol over ${this.path}: ${this.detail}`
  }
}

export type FetchError =
  | ChecksumMismatch
  | FileNotOnPeer
  | BadOffset
  | Crowded
  | PeerRejected
  | PeerUnreachable
  | Stalled
  | ShortBody
  | ProtocolViolation

/** Whoever asks can take the file from another peer, or later. */
export interface Elsewhere {
  /** Nodes that were said to have it and can't be asked. */
  readonly notAt: ReadonlyArray<NodeId>
}

/** What may be asked for together: files, bytes of each, bytes of all, and UTF-16 units of all their paths. */
export const together = { files: 64, fileBytes: 256 * 1024, bytes: 1024 * 1024, pathLength: 8 * 1024 } as const

/** At least one. */
export type Entries = readonly [FileEntry, ...ReadonlyArray<FileEntry>]

/**
 * Asks for several small files, no more than {@link together} says, and lends their bytes for as long as they are used:
 * in the order of the files from the one numbered `from` on, each of the right length but not checked otherwise; nothing
 * of those that did not come, for what is asked for alone tells why. They are used in one step, or in several where they
 * come slowly. Fails when the peer says nothing at all, so that nobody else waits for it.
 */
export type FetchTogether = (
  entries: Entries,
  use: (bodies: ReadonlyArray<Uint8Array | undefined>, from: number) => Effect.Effect<void>
) => Effect.Effect<void, PeerUnreachable>

export class FetchClient extends Context.Service<FetchClient, {
  /**
   * Writes exactly `size_bytes − offset` bytes of a file into a sink, after the peer's answer was found to agree with
   * the entry. The bytes themselves are checked by whoever stages them. A failure of the sink stays the sink's.
   * Interruption closes the connection at once. With `elsewhere` a peer that sends the file to others already may
   * fail this with `Crowded`, which it does not otherwise.
   */
  readonly fetch: <E>(
    peer: Peer,
    entry: FileEntry,
    offset: number,
    sink: ByteSink<E>,
    elsewhere?: Elsewhere
  ) => Effect.Effect<void, FetchError | E>
  /** How to ask a peer for several small files at once; `none`: it is asked for each alone now. Left out: never. */
  readonly together?: (peer: Peer) => Option.Option<FetchTogether>
}>()("file-replication/FetchClient") {}
