/**
 * One attempt to get one file: its candidates, best first, until one of them has delivered it whole.
 *
 * Bytes that arrived are kept between peers, attempts and processes; only the hash of the whole file trusts them. A
 * peer is blamed for wrong bytes only when it alone sent all of them. Where bytes of several were wrong together, the
 * next attempts take them from one peer alone, from 0 on, so that it shows who it is.
 */
import { Clock, Effect, Option, Schema } from "effect"
import { setWithin } from "../internal/boundedMap.ts"
import { Backend, type BackendError, type DigestMismatch, type Staged } from "../ports/Backend.ts"
import type { ByteSink } from "../ports/ByteSink.ts"
import { type Crowded, type Elsewhere, FetchClient, type FetchError, ShortBody } from "../ports/FetchClient.ts"
import type { FileEntry, NodeId, Registered, Sha256 } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import type { InventoryError, PeerAnswer } from "../ports/Inventory.ts"
import { type Peer, PeerResolver } from "../ports/PeerResolver.ts"
import * as Metrics from "../telemetry/Metrics.ts"
import { answered, blamed, explainAnswers, explainPauses, kindOf } from "./answers.ts"
import { named, type OthersFirst, othersFirst, unreachable } from "./crowds.ts"
import { plan, type Reach } from "./order.ts"
import { Placement } from "./Placement.ts"
import { type Claim, Room } from "./Room.ts"

/** An attempt that ended without the file. */
export class AttemptFailed extends Schema.TaggedError<AttemptFailed>()("AttemptFailed", {
  /**
   * `NoPeer`: nobody to ask. `Mismatch`: the bytes are not those of the manifest. `Disk`: this node's own fault.
   * `Peers`: nobody delivered.
   */
  kind: Schema.Literals(["NoPeer", "Mismatch", "Disk", "Peers"]),
  reason: Schema.String,
  /** Every peer that is known rests because of its wrong bytes: before this time another attempt has nobody to ask. */
  notBefore: Schema.optionalKey(Schema.Int)
}) {
  override get message(): string {
    return this.reason
  }
}

/** The file does not fit on this disk now. What has arrived of it is kept, and nobody is to blame. */
export class NoRoom extends Schema.TaggedError<NoRoom>()("NoRoom", {
  /** It can't go on before there is room for so many bytes. */
  bytes: Schema.Natural,
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
  /** Whether the file may come later, behind others: then the attempt may end with `OthersFirst` if nothing of it is here. */
  readonly canWait: boolean
  /** Whether it never was left to others. */
  readonly isFirst: boolean
  /** Told of each answer, for the counts. */
  readonly onAnswer: (kind: string, peer?: NodeId) => void
  /** Told of bytes as they come over the wire. */
  readonly onBytes: (count: number) => void
}

/** What bytes are called among the answers that were wrong together, of several peers or of an earlier process. */
export const wrongMixture = "WrongMixture"

/** Who sent what is staged. */
type Origin =
  | { readonly _tag: "Nobody" }
  | { readonly _tag: "One"; readonly peer: NodeId }
  /** Several peers, or it is not known. */
  | { readonly _tag: "Mixed" }

const nobody: Origin = { _tag: "Nobody" }
const mixed: Origin = { _tag: "Mixed" }

const joinedBy = (origin: Origin, peer: NodeId): Origin =>
  origin._tag === "Nobody" || (origin._tag === "One" && origin.peer === peer) ? { _tag: "One", peer } : mixed

/** What this process knows of a file's earlier attempts. */
interface Trail {
  readonly sha256: Sha256
  readonly origin: Origin
  /** Bytes of several were wrong together: from now on from one peer alone. */
  readonly alone: boolean
}

/** Files whose trail is known; beyond that the oldest is forgotten, which costs another mixture at worst. */
const manyTrails = 16_384

/** A peer that is asked alone and breaks goes on next time, when it has sent at least so many bytes. */
const worthGoingOn = 1024 * 1024

/**
 * `pauseMillis`: how long a peer rests that has sent wrong bytes for one file for the nth time. `reach` learns of each
 * peer how it does.
 */
export const make = Effect.fnUntraced(function*(
  pauseMillis: (times: number) => number,
  reach: Reach
) {
  const backend = yield* Backend
  const client = yield* FetchClient
  const peers = yield* PeerResolver
  const placement = yield* Placement
  const room = yield* Room
  const trails = new Map<FilePath, Trail>()

  const trailOf = ({ path, sha256 }: FileEntry): Trail => {
    const trail = trails.get(path)
    return trail?.sha256 === sha256 ? trail : { sha256, origin: mixed, alone: false }
  }

  const keepTrail = (path: FilePath, trail: Trail): void => {
    if (trail.origin._tag === "One" || trail.alone) setWithin(trails, path, trail, manyTrails)
    else trails.delete(path)
  }

  const answer = (round: Round, given: PeerAnswer): PeerAnswer => {
    round.answers.set(given.peer, given)
    round.onAnswer(given.kind, given.peer)
    return given
  }

  /** `named`: another peer said that this one has the file, which it may not have verified yet. */
  const refused = Effect.fnUntraced(function*(
    round: Round,
    peer: Peer,
    error: Exclude<FetchError, Crowded>,
    named: boolean
  ) {
    const at = Math.round(yield* Clock.currentTimeMillis)
    if (!named || error._tag !== "FileNotOnPeer") yield* Metrics.fetchFailed(peer.id, error)
    if (error._tag === "ChecksumMismatch") yield* Metrics.mismatched(peer.id)
    const isRejected = error._tag === "PeerRejected" && error.code === "auth"
    // Whoever rejects us is ever slower to say so.
    if (error._tag === "PeerUnreachable" || error._tag === "Stalled" || isRejected) {
      reach.failed(peer, at)
    } else if (error._tag === "PeerRejected" && error.code === "busy") {
      reach.busy(peer, at + (error.retryAfterMillis ?? 0))
    } else reach.answered(peer)
    const { id } = peer
    return answer(
      round,
      answered(round.answers.get(id), { peer: id, at, kind: kindOf(error), detail: error.message })
    )
  })

  const claimRoom = (path: FilePath, bytes: number) =>
    room.claim(path, bytes).pipe(
      Effect.catchIf(isFull, ({ message }) => Effect.fail(new NoRoom({ bytes, reason: message })))
    )

  /** Asks one peer for the rest of the file. Gives the failure that lets the next one have a try. */
  const ask = Effect.fnUntraced(function*(
    peer: Peer,
    round: Round,
    staged: Staged,
    claim: Claim,
    elsewhere: Elsewhere | undefined,
    onFirst: () => void
  ) {
    const offset = yield* staged.length
    const sink: ByteSink<BackendError> = {
      write: (chunk) => {
        onFirst()
        round.onBytes(chunk.length)
        const written = Effect.map(staged.write(chunk), () => void (claim.left -= chunk.length))
        return Effect.andThen(Metrics.received(peer.id, chunk.length), written)
      }
    }
    const { path, size_bytes: size } = round.file.entry
    // A client that says that all is here when it is not is no word about the manifest.
    const short = Effect.map(
      staged.length,
      (length) => new ShortBody({ peer: peer.id, path, expected: size - offset, received: length - offset })
    )
    return yield* client.fetch(peer, round.file.entry, offset, sink, elsewhere).pipe(
      Effect.andThen(Effect.filterOrFail(short, ({ expected, received }) => received >= expected, (error) => error)),
      Effect.as(Option.none<FetchError>()),
      Effect.catchTag(
        [
          "ChecksumMismatch",
          "FileNotOnPeer",
          "BadOffset",
          "Crowded",
          "PeerRejected",
          "PeerUnreachable",
          "Stalled",
          "ShortBody",
          "ProtocolViolation"
        ],
        (error) => Effect.succeedSome(error)
      )
    )
  })

  const attempt = Effect.fnUntraced(function*(round: Round) {
    const { file } = round
    const { path, sha256, size_bytes: size } = file.entry
    const staged = yield* backend.stage(path, sha256)
    let { alone, origin } = trailOf(file.entry)
    yield* Effect.addFinalizer(() => Effect.sync(() => keepTrail(path, { sha256, origin, alone })))

    /** The bytes were dropped. */
    const mixture = () => {
      origin = nobody
      alone = true
      round.onAnswer(wrongMixture)
    }

    if ((yield* staged.length) === size) {
      const placed = yield* placement.place(file, staged).pipe(
        Effect.asSome,
        Effect.catchTag("DigestMismatch", () => Effect.sync(() => (mixture(), Option.none())))
      )
      if (Option.isSome(placed)) return delivered(Option.none(), 0, placed.value)
    }
    const found = yield* staged.length
    const claim = yield* claimRoom(path, found > size ? size : size - found)
    const restart = Effect.map(staged.restart, () => {
      origin = nobody
      claim.left = size
    })
    if (found > size) yield* restart
    if (found === 0) origin = nobody

    const candidates = yield* peers.candidates(file.entry.origin_node_id, path)
    if (candidates.length === 0) {
      return yield* new AttemptFailed({ kind: "NoPeer", reason: "no peer is known that could have it" })
    }
    const now = yield* Clock.currentTimeMillis
    const going = alone && origin._tag === "One" ? origin.peer : undefined
    const { ask: asked, notBefore, paused, reachable, sound } = plan(
      candidates,
      round.answers,
      (peer) => reach.standingOf(peer, candidates, now),
      now,
      going
    )
    if (asked.length === 0) {
      return yield* new AttemptFailed({
        kind: "Mismatch",
        reason: explainPauses(round.answers, paused),
        ...(notBefore === undefined ? {} : { notBefore })
      })
    }

    let from: Peer | undefined
    let bytes = 0
    const given: Array<PeerAnswer> = []
    const crowds = new Map<NodeId, Crowded>()

    /** Gives whether a peer has delivered the rest. */
    const askAll = Effect.fnUntraced(function*(some: ReadonlyArray<Peer>, elsewhere?: Elsewhere) {
      let left = some
      for (let peer = left[0]; peer !== undefined; peer = left[0]) {
        left = left.slice(1)
        const others = origin._tag === "Mixed" || (origin._tag === "One" && origin.peer !== peer.id)
        if (alone && others) yield* restart
        const before = yield* staged.length
        const { id } = peer
        const began = yield* Clock.currentTimeMillis
        const failure = yield* ask(peer, round, staged, claim, elsewhere, () => {
          origin = joinedBy(origin, id)
        })
        const ended = yield* Clock.currentTimeMillis
        const sent = (yield* staged.length) - before
        reach.sent(peer, sent, ended - began, ended)
        bytes += sent
        if (Option.isNone(failure)) {
          reach.answered(peer)
          from = peer
          return true
        }
        if (failure.value._tag === "Crowded") {
          reach.answered(peer)
          // Behind what others said before.
          crowds.delete(id)
          crowds.set(id, failure.value)
          const only = crowds.size === 1 && failure.value.holders.length === 0
          left = round.isFirst && only
            // Another may hold it for long, of whom the one that was asked knows nothing.
            ? left.filter((other) => sound.includes(other)).slice(0, 1)
            : named([...crowds.values()], sound, [...crowds.values(), ...given])
          continue
        }
        given.push(yield* refused(round, peer, failure.value, crowds.size > 0))
        if (failure.value._tag === "ChecksumMismatch") {
          return yield* new AttemptFailed({ kind: "Mismatch", reason: failure.value.message })
        }
        if (alone && sent >= worthGoingOn) return false
      }
      return false
    })

    // What is here already is read again by each try, and may be dropped by one: then it does not wait.
    const elsewhere = round.canWait && found === 0 && !alone ? { notAt: [] } : undefined
    let whole = yield* askAll(asked, elsewhere)
    const unwilling = asked.filter(({ id }) => given.some((each) => each.peer === id && each.kind === "BadOffset"))
    if (!whole && bytes === 0 && unwilling.length > 0 && (yield* staged.length) > 0) {
      // Nobody goes on from here, so what is kept is worth nothing.
      yield* restart
      whole = yield* askAll(unwilling, elsewhere)
    }
    const notAt = whole ? [] : unreachable([...crowds.values()], reachable)
    if (notAt.length > 0) whole = yield* askAll(asked.filter(({ id }) => crowds.has(id)), { notAt })
    if (!whole && crowds.size > 0) return yield* othersFirst([...crowds.values()])
    if (!whole || from === undefined) return yield* new AttemptFailed({ kind: "Peers", reason: explainAnswers(given) })

    const mismatch = Effect.fnUntraced(function*({ actual, expected }: DigestMismatch) {
      const by = origin
      origin = nobody
      if (by._tag === "Nobody") {
        const reason = `the manifest's sha256 is not that of a file of ${size} bytes`
        return yield* new AttemptFailed({ kind: "Mismatch", reason })
      }
      if (by._tag === "Mixed") {
        mixture()
        yield* Metrics.mismatched(Metrics.severalPeers)
        const reason = "bytes that had come from several peers or earlier tries were wrong together; begun again from 0"
        return yield* new AttemptFailed({ kind: "Mismatch", reason })
      }
      const at = Math.round(yield* Clock.currentTimeMillis)
      const detail = `${by.peer} sent bytes with sha256 ${actual}`
      yield* Metrics.mismatched(by.peer)
      const rests = answer(round, blamed(round.answers.get(by.peer), { peer: by.peer, at, detail }, pauseMillis))
      yield* Effect.logWarning(`${path}: ${detail}, the manifest says ${expected}`)
      const left = asked.some(({ id }) => id !== by.peer)
      return yield* new AttemptFailed({
        kind: "Mismatch",
        reason: detail,
        ...(left || rests.notBefore === undefined
          ? {}
          : { notBefore: Math.min(rests.notBefore, notBefore ?? Infinity) })
      })
    })
    const placed = yield* placement.place(file, staged).pipe(Effect.catchTag("DigestMismatch", mismatch))
    origin = nobody
    alone = false
    return delivered(Option.some(from.id), bytes, placed)
  }, Effect.scoped)

  const failed = (kind: AttemptFailed["kind"]) => (error: { readonly message: string }) =>
    Effect.fail(new AttemptFailed({ kind, reason: error.message }))

  const onDisk = (error: BackendError): Effect.Effect<never, AttemptFailed | NoRoom> =>
    // How much it lacks is not known: the disk has refused although there should have been room.
    isFull(error)
      ? Effect.andThen(room.refused, Effect.fail(new NoRoom({ bytes: 1, reason: error.message })))
      : failed("Disk")(error)

  return (round: Round): Effect.Effect<Delivered, AttemptFailed | NoRoom | OthersFirst | InventoryError> =>
    Effect.catchTags(attempt(round), { BackendError: onDisk, PeerLookupFailed: failed("NoPeer") })
})

const isFull = ({ reason }: BackendError): boolean => reason === "NoSpace"

const delivered = (from: Option.Option<NodeId>, bytes: number, placed: Delivered["placed"]): Delivered => ({
  from,
  bytes,
  placed
})
