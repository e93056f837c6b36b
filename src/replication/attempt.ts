/**
 * One attempt to get one file: its candidates, best first, until one of them has delivered it whole.
 *
 * Bytes that arrived are kept between peers, attempts and processes; only the hash of the whole file trusts them. A
 * peer is blamed for wrong bytes only when it alone sent all of them.
 */
import { Clock, Effect, Option, Schema } from "effect"
import { Backend, type BackendError, type Staged } from "../ports/Backend.ts"
import type { ByteSink } from "../ports/ByteSink.ts"
import { FetchClient, type FetchError } from "../ports/FetchClient.ts"
import type { NodeId, Registered } from "../ports/FileEntry.ts"
import type { InventoryError, PeerAnswer } from "../ports/Inventory.ts"
import { type Peer, type PeerLookupFailed, PeerResolver } from "../ports/PeerResolver.ts"
import { Placement } from "./Placement.ts"

/** An attempt that ended without the file. */
export class AttemptFailed extends Schema.TaggedError<AttemptFailed>()("AttemptFailed", {
  /**
   * `NoPeer`: nobody to ask. `Mismatch`: the bytes are not those of the manifest. `Disk`: this node's own fault.
   * `Peers`: nobody delivered.
   */
  kind: Schema.Literals(["NoPeer", "Mismatch", "Disk", "Peers"]),
  reason: Schema.String
}) {
  override get message(): string {
    return this.reason
  }
}

export interface Delivered {
  /** Who sent the last byte; `none` when every byte was here already. */
  readonly from: Option.Option<NodeId>
  /** Bytes that came over the wire in this attempt. */
  readonly bytes: number
  readonly placed: "Placed" | "Withdrawn"
}

/** What the attempts of one round have in common. */
export interface Round {
  readonly file: Registered
  /** Each peer's last answer, from earlier rounds too; kept up to date by the attempts. */
  readonly answers: Map<NodeId, PeerAnswer>
  /** Told of each answer, for the counts. */
  readonly onAnswer: (kind: string) => void
  /** Told of bytes as they come over the wire. */
  readonly onBytes: (count: number) => void
}

/** What a peer's wrong bytes are called among the answers. */
const wrongBytes = "WrongBytes"

/** Those who sent wrong bytes for this file before are asked last. */
export const order = (
  candidates: ReadonlyArray<Peer>,
  answers: ReadonlyMap<NodeId, PeerAnswer>
): ReadonlyArray<Peer> => {
  const blamed = (peer: Peer) => answers.get(peer.id)?.kind === wrongBytes
  return [...candidates.filter((peer) => !blamed(peer)), ...candidates.filter(blamed)]
}

/** Why nobody delivered, in a sentence for people. */
export const explainAnswers = (answers: ReadonlyArray<PeerAnswer>): string => {
  const authOnly = answers.length > 0 && answers.every(({ kind }) => kind === "PeerRejected:auth")
  if (authOnly) return "rejected by all peers: check the shared secret, the cluster name and the clocks"
  return `no peer delivered it: ${answers.map(({ detail }) => detail).join("; ")}`
}

const kindOf = (
  error: FetchError
): string => (error._tag === "PeerRejected" ? `${error._tag}:${error.code}` : error._tag)

export const make = Effect.gen(function*() {
  const backend = yield* Backend
  const client = yield* FetchClient
  const peers = yield* PeerResolver
  const placement = yield* Placement

  const answer = Effect.fnUntraced(function*(round: Round, peer: NodeId, kind: string, detail: string) {
    const given = { peer, at: yield* Clock.currentTimeMillis, kind, detail }
    round.answers.set(peer, given)
    round.onAnswer(kind)
    return given
  })

  /** Asks one peer for the rest of the file. Gives the failure that lets the next one have a try. */
  const ask = Effect.fnUntraced(function*(peer: Peer, { file, onBytes }: Round, staged: Staged) {
    const offset = yield* staged.length
    const sink: ByteSink<BackendError> = {
      write: (chunk) => {
        onBytes(chunk.length)
        return staged.write(chunk)
      }
    }
    return yield* client.fetch(peer, file.entry, offset, sink).pipe(
      Effect.as(Option.none<Exclude<FetchError, { _tag: "ChecksumMismatch" }>>()),
      Effect.catchTag(
        [
          "FileNotOnPeer",
          "BadOffset",
          "PeerRejected",
          "PeerUnreachable",
          "Stalled",
          "ShortBody",
          "ProtocolViolation"
        ],
        (error) => Effect.succeed(Option.some(error))
      )
    )
  })

  const attempt = Effect.fnUntraced(function*(round: Round) {
    const { file } = round
    const candidates = order(yield* peers.candidates(file.entry.origin_node_id, file.entry.path), round.answers)
    const staged = yield* backend.stage(file.entry.path, file.entry.sha256)
    if ((yield* staged.length) > file.entry.size_bytes) yield* staged.restart
    const found = yield* staged.length
    let whole = found === file.entry.size_bytes
    let from: Peer | undefined
    // The offset at which the peer that is asked begins: 0 means that all bytes will be its own.
    let began = found
    let bytes = 0
    const given: Array<PeerAnswer> = []

    const askAll = Effect.fnUntraced(function*(asked: ReadonlyArray<Peer>) {
      for (const peer of asked) {
        began = yield* staged.length
        const failure = yield* ask(peer, round, staged)
        bytes += (yield* staged.length) - began
        if (Option.isNone(failure)) {
          from = peer
          whole = true
          return
        }
        given.push(yield* answer(round, peer.id, kindOf(failure.value), failure.value.message))
      }
    })

    if (!whole) {
      if (candidates.length === 0) {
        return yield* new AttemptFailed({ kind: "NoPeer", reason: "no peer is known that could have it" })
      }
      yield* askAll(candidates)
      const refused = candidates.filter(({ id }) => given.some((each) => each.peer === id && each.kind === "BadOffset"))
      if (!whole && found > 0 && refused.length > 0) {
        // Nobody goes on from here, so what is kept is worth nothing.
        yield* staged.restart
        yield* askAll(refused)
      }
      if (!whole) return yield* new AttemptFailed({ kind: "Peers", reason: explainAnswers(given) })
    }
    const placed = yield* placement.place(file, staged).pipe(
      Effect.catchTag(
        "DigestMismatch",
        Effect.fnUntraced(function*(mismatch) {
          if (from === undefined || began > 0) {
            round.onAnswer(wrongBytes)
            const reason = "the bytes that had been kept from earlier tries were wrong; begun again from 0"
            return yield* new AttemptFailed({ kind: "Mismatch", reason })
          }
          const detail = `${from.id} sent bytes with sha256 ${mismatch.actual}`
          yield* answer(round, from.id, wrongBytes, detail)
          yield* Effect.logWarning(`${file.entry.path}: ${detail}, the manifest says ${mismatch.expected}`)
          return yield* new AttemptFailed({ kind: "Mismatch", reason: detail })
        })
      )
    )
    return { from: Option.map(Option.fromUndefinedOr(from), ({ id }) => id), bytes, placed } satisfies Delivered
  }, Effect.scoped)

  const failed = (kind: AttemptFailed["kind"]) => (error: { readonly message: string }) =>
    Effect.fail(new AttemptFailed({ kind, reason: error.message }))

  return (round: Round): Effect.Effect<Delivered, AttemptFailed | InventoryError> =>
    attempt(round).pipe(
      Effect.catchTag("ChecksumMismatch", (error) =>
        answer(round, error.peer, error._tag, error.message).pipe(Effect.andThen(failed("Mismatch")(error)))),
      Effect.catchTag("BackendError", (error: BackendError) =>
        failed("Disk")(error)),
      Effect.catchTag("PeerLookupFailed", (error: PeerLookupFailed) => failed("NoPeer")(error))
    )
})
