/** One connection to another node: bytes in, bytes out, each as an effect. */
import { Clock, Effect, Option, Schema } from "effect"
import type { Socket } from "node:net"
import { certifiedNode } from "./Tls.ts"

/** The connection broke. What was sent last may or may not have arrived. */
export class ConnectionLost extends Schema.TaggedError<ConnectionLost>()("ConnectionLost", { detail: Schema.String }) {
  override get message(): string {
    return `the connection broke: ${this.detail}`
  }
}

/** The other side moved too few bytes while we waited for it. */
export class NoProgress extends Schema.TaggedError<NoProgress>()("NoProgress", { millis: Schema.Int }) {
  override get message(): string {
    return `no progress for ${this.millis} ms`
  }
}

export interface Connection {
  /** Address and port of the other side, for the log. */
  readonly remote: string
  /** The node that the other side's certificate was made for, when it says so. */
  readonly certified: () => string | undefined
  /** The next bytes, lent until the next `read`; `none` once the other side has ended. */
  readonly read: (progress?: Progress) => Effect.Effect<Option.Option<Uint8Array>, ConnectionLost>
  /**
   * Sends bytes. Ends when the system has taken all of them, after which their memory may be reused. Interrupting it
   * breaks the connection, because a part may be on its way.
   */
  readonly write: (chunk: Uint8Array, progress?: Progress) => Effect.Effect<void, ConnectionLost>
  /** Says that nothing more will be written. */
  readonly end: Effect.Effect<void>
  /** Whether it is open in both directions and nothing has come that was not read. */
  readonly isQuiet: () => boolean
}

// ---------------------------------------------------------------------------------------------------------------------
// Progress
// ---------------------------------------------------------------------------------------------------------------------

/** The bytes that must move in each window of waiting. */
const progressBytes = 64 * 1024

/**
 * Watches that the other side moves at least 64 KiB, or the rest, in each window. Only time in which we wait for it
 * counts: our own slow disk is not its fault.
 */
export interface Progress {
  /** From now on we wait. */
  readonly begin: () => void
  /** We no longer wait, and so many bytes have moved. */
  readonly end: (bytes: number) => void
  /** Runs beside the transfer and fails when a window has passed without enough progress. */
  readonly watch: Effect.Effect<never, NoProgress>
}

export const makeProgress = (windowMillis: number): Effect.Effect<Progress> =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const now = () => Number(clock.monotonicTimeNanosUnsafe() / 1000n) / 1000
    let bytes = 0
    let waited = 0
    let since: number | undefined

    const watch: Effect.Effect<never, NoProgress> = Effect.suspend(() => {
      const left = windowMillis - waited - (since === undefined ? 0 : now() - since)
      return left <= 0
        ? Effect.fail(new NoProgress({ millis: windowMillis }))
        : Effect.andThen(Effect.sleep(Math.ceil(left)), watch)
    })

    return {
      begin: () => {
        since = now()
      },
      end: (moved) => {
        if (since !== undefined) waited += now() - since
        since = undefined
        bytes += moved
        if (bytes < progressBytes) return
        bytes = 0
        waited = 0
      },
      watch
    }
  })

// ---------------------------------------------------------------------------------------------------------------------
// On a socket
// ---------------------------------------------------------------------------------------------------------------------

/** Where a socket's bytes are kept until they are read. */
export interface Received {
  /** Lends the oldest bytes, and takes the ones that were lent before back. */
  readonly take: () => Uint8Array | undefined
  /** Somebody waits for bytes and there are none. */
  readonly demand: () => void
}

/** A connection and the call that tells it that bytes have arrived. */
export interface SocketConnection {
  readonly connection: Connection
  readonly arrived: () => void
}

/** What is given to the system at once: a slow link shows progress, and the calls don't count. */
export const pieceBytes = 64 * 1024

/** Wraps a socket, whose incoming bytes the caller puts into `received`. */
export const fromSocket = (socket: Socket, received: Received): SocketConnection => {
  let ended = false
  let lost: ConnectionLost | undefined
  let waiter: (() => void) | undefined

  const wake = () => waiter?.()
  const lose = (detail: string) => {
    lost ??= new ConnectionLost({ detail })
    wake()
  }
  socket.on("end", () => {
    ended = true
    wake()
  })
  socket.on("error", (error) => lose(error.message))
  socket.on("close", () => lose("it was closed"))

  const poll = (): Effect.Effect<Option.Option<Uint8Array>, ConnectionLost> | undefined => {
    const chunk = received.take()
    if (chunk !== undefined) return Effect.succeedSome(chunk)
    if (ended) return Effect.succeedNone
    return lost === undefined ? undefined : Effect.fail(lost)
  }

  const connection: Connection = {
    remote: `${socket.remoteAddress ?? "?"}:${socket.remotePort ?? "?"}`,
    certified: () => certifiedNode(socket),
    read: (progress) =>
      // Looks and begins to wait in one step: what arrived in between would wake nobody.
      Effect.callback<Option.Option<Uint8Array>, ConnectionLost>((resume) => {
        const ready = poll()
        if (ready !== undefined) return resume(ready)
        progress?.begin()
        waiter = () => {
          const result = poll()
          if (result === undefined) return
          waiter = undefined
          resume(result)
        }
        received.demand()
        return Effect.sync(() => {
          waiter = undefined
        })
      }).pipe(
        progress === undefined
          ? (effect) => effect
          : Effect.tap((chunk) => Effect.sync(() => progress.end(Option.isSome(chunk) ? chunk.value.length : 0)))
      ),
    write: (chunk, progress) =>
      Effect.callback<void, ConnectionLost>((resume) => {
        let written = 0
        const next = (bytes: number) => {
          written += bytes
          progress?.end(bytes)
          if (written === chunk.length) return resume(Effect.void)
          const piece = chunk.subarray(written, written + pieceBytes)
          progress?.begin()
          socket.write(piece, (error) => {
            if (error) return resume(Effect.fail(lost ?? new ConnectionLost({ detail: error.message })))
            next(piece.length)
          })
        }
        next(0)
        return Effect.sync(() => socket.destroy())
      }),
    end: Effect.sync(() => {
      socket.end()
    }),
    isQuiet: () => !ended && lost === undefined && received.take() === undefined
  }
  return { connection, arrived: wake }
}
