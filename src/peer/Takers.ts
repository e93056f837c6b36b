/**
 * Who takes a large file from this node, and who has taken it lately. When there are several of them, whoever can take
 * it elsewhere is told so, so that a file costs its origin a few bodies and not one for each node.
 */
import { Clock, Effect, Exit, Schema } from "effect"
import { setWithin } from "../internal/boundedMap.ts"
import { type FileEntry, NodeId } from "../ports/FileEntry.ts"
import { Refused } from "./answers.ts"
import type { Granted } from "./grants.ts"
import type * as Messages from "./protocol/Messages.ts"

/** Whoever lacks so much of a file can take it elsewhere, bytes; less is a question for it, or its end. */
export const sharedBytes = 1024 * 1024

/** So many take a file from one node, or have lately; others are told to go elsewhere. */
const several = 2
/** How long a node that has taken a file is named to others, milliseconds. */
const namedMillis = 600_000
/** Files whose takers are known; beyond it the oldest are forgotten, which costs a body more at worst. */
const manyFiles = 4096
/** So many takers of a file are known, the latest, and so many of them named. */
const manyTakers = 64
const manyNamed = 8

const isNodeId = Schema.is(NodeId)

/** When to come again, milliseconds: soon where it is not known; where somebody takes the file, when that should end. */
const soonMillis = 100
const latestMillis = 2000
/** What the one who takes it needs behind the last byte. */
const commitMillis = 50
/** A taker of less, bytes per millisecond, is not waited for, once it has been at it for a while, milliseconds. */
const tooSlow = 64
const whileMillis = 5000

/** Why a file is not sent to somebody who can take it elsewhere. */
export interface Crowd {
  /** Who has taken all of it; empty while it is only on its way to others. */
  readonly holders: ReadonlyArray<string>
  /** When it is worth to ask again, milliseconds. */
  readonly retryAfterMillis: number
}

/** One body. */
export interface Taking {
  /** So many more of its bytes have been sent. */
  readonly sent: (bytes: number) => void
  /** It has ended. Once. `whole`: all of its bytes were sent. */
  readonly ended: (whole: boolean, now: number) => void
}

interface Taker {
  readonly began: number
  readonly length: number
  sent: number
  /** When it had everything. */
  had: number | undefined
}

type Asking = Pick<Messages.FetchFile, "node_id" | "can_wait" | "not_at">

export interface Takers {
  /** Begins a body for whoever asks; but where several others have or get the file, and it can wait, says so. */
  readonly take: (request: Asking, granted: Granted, now: number) => Taking | Crowd
}

const nowMillis = Effect.map(Clock.currentTimeMillis, Math.round)

const unnoticed: Taking = { sent: () => undefined, ended: () => undefined }

/** A memory of its own. */
export const make = (): Takers => {
  // The one that was asked for last is the last.
  const files = new Map<string, { readonly sha256: string; readonly takers: Map<string, Taker> }>()

  const takersOf = ({ path, sha256 }: FileEntry, now: number): Map<string, Taker> => {
    const known = files.get(path)
    const takers = known?.sha256 === sha256 ? known.takers : new Map<string, Taker>()
    for (const [node, { had }] of takers) {
      // Later than now: the clock was set back.
      if (had !== undefined && (had > now || had + namedMillis <= now)) takers.delete(node)
    }
    setWithin(files, path, { sha256, takers }, manyFiles)
    return takers
  }

  return {
    take: ({ can_wait: canWait, node_id: node, not_at: notAt }, { entry, length, offset }, now) => {
      if (length < sharedBytes || !isNodeId(node)) return unnoticed
      const takers = takersOf(entry, now)
      for (const other of notAt) if (takers.get(other)?.had !== undefined) takers.delete(other)
      const others = [...takers].filter(([other]) => other !== node)
      const holders = others.filter(([, { had }]) => had !== undefined).map(([other]) => other)
      const allTooSlow = holders.length === 0
        && others.every(([, { began, sent }]) => now - began >= whileMillis && sent < tooSlow * (now - began))
      if (canWait && others.length >= several && !allTooSlow) {
        const going = holders.length > 0 ? [] : others.filter(([, { sent }]) => sent > 0)
        return {
          holders: holders.slice(-manyNamed),
          retryAfterMillis: going.length === 0
            ? soonMillis
            : Math.min(latestMillis, ...going.map(([, taker]) => commitMillis + leftMillis(taker, now)))
        }
      }
      // Whoever asks for a part, or twice at once, is one taker all the same.
      const taker: Taker = { began: now, length, sent: 0, had: undefined }
      setWithin(takers, node, taker, manyTakers)
      return {
        sent: (bytes) => void (taker.sent += bytes),
        ended: (whole, now) => {
          if (takers.get(node) !== taker) return
          if (whole && offset + length === entry.size_bytes) taker.had = now
          else takers.delete(node)
        }
      }
    }
  }
}

/** Pure. How long a body takes still, milliseconds, at the speed that it had so far; without end where it has none. */
const leftMillis = ({ began, length, sent }: Taker, now: number): number =>
  Math.ceil((Math.max(1, now - began) * Math.max(0, length - sent)) / sent)

/** Sends a body, `body`, that says of its bytes as it goes; refuses where {@link Takers.take} does. */
export const whileTaking = <E, R>(
  takers: Takers,
  request: Messages.FetchFile,
  granted: Granted,
  body: (onSent: (bytes: number) => void) => Effect.Effect<void, E, R>
): Effect.Effect<void, E | Refused, R> =>
  Effect.acquireUseRelease(
    Effect.flatMap(nowMillis, (now) => {
      const answer = takers.take(request, granted, now)
      return "holders" in answer
        ? Effect.fail(
          new Refused({ code: "crowded", reason: `${granted.entry.path} goes to others already`, ...answer })
        )
        : Effect.succeed(answer)
    }),
    ({ sent }) => body(sent),
    ({ ended }, exit) => Effect.map(nowMillis, (now) => ended(Exit.isSuccess(exit), now))
  )
