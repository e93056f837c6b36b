/** Files that a user names: read and written with errors that name them. */
import * as NodeStream from "@effect/platform-node/NodeStream"
import { Effect, Option, PlatformError, Schema, type Scope, Stream } from "effect"
import { type BigIntStats, createReadStream } from "node:fs"
import { Socket } from "node:net"
import type { Readable } from "node:stream"
import { close, fromUnknown, fstat, open, readAll, Refused, refusedBy } from "../backend/systemCalls.ts"

/** A file that was named can't be read or written. */
export class FileFailed extends Schema.TaggedError<FileFailed>()("FileFailed", {
  file: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.file}: ${this.detail}`
  }
}

const details: Partial<Record<PlatformError.SystemErrorTag | "BadArgument", string>> = {
  NotFound: "there is no such file",
  PermissionDenied: "permission denied",
  BadResource: "it is no regular file"
}

/** What the system says of a file, as a sentence. */
export const fileFailed = (file: string) => ({ message, reason }: PlatformError.PlatformError): FileFailed => {
  const said = reason.cause instanceof Error ? reason.cause.message : message
  return new FileFailed({ file, detail: details[reason._tag] ?? reason.description ?? said })
}

/** A file that is open for reading. */
export interface Opened {
  /** In bytes; `undefined`: not known before its end, as of a pipe. */
  readonly length: number | undefined
  /**
   * All its bytes, or what comes over a pipe until it ends. Of a file on a disk there are never more than `length`, and
   * when it changes meanwhile this fails before the last of them.
   */
  readonly bytes: Stream.Stream<Uint8Array, FileFailed>
}

/** So many bytes are read in one go. */
const chunkSize = 1 << 20

/** Opens a file or a pipe until the scope closes. Of a pipe that nobody writes to, no thread waits for the first byte. */
export const openFile = Effect.fnUntraced(function*(file: string): Effect.fn.Return<Opened, FileFailed, Scope.Scope> {
  const refused = ({ code, detail }: Refused) =>
    new FileFailed({ file, detail: code === "ENOENT" ? "there is no such file" : detail })
  const failed = (cause: unknown) => refused(fromUnknown(cause))

  const onDisk = (fd: number, before: BigIntStats): Opened => {
    const length = Number(before.size)
    const bytes = Stream.paginate(0, (at) =>
      Effect.gen(function*() {
        const wanted = Math.min(chunkSize, length - at)
        const next = at + wanted
        // One byte more at the end: there must be none, and a file that the system makes up may have one.
        const buffer = Buffer.allocUnsafe(next === length ? wanted + 1 : wanted)
        const count = yield* Effect.callback<number, Refused>((resume) =>
          readAll(
            fd,
            buffer,
            at,
            (read) => resume(read instanceof Refused ? Effect.fail(read) : Effect.succeed(read))
          )
        ).pipe(Effect.uninterruptible)
        const now = yield* fstat(fd)
        if (count !== wanted || now.size !== before.size || now.mtimeNs !== before.mtimeNs) {
          return yield* new FileFailed({ file, detail: "it changed while it was read" })
        }
        const chunk = wanted === 0 ? [] : [buffer.subarray(0, wanted)]
        return [chunk, next < length ? Option.some(next) : Option.none<number>()] as const
      }).pipe(Effect.mapError((error) => error instanceof Refused ? refused(error) : error)))
    return { length, bytes }
  }

  const piped = (readable: Readable): Opened => ({
    length: undefined,
    bytes: NodeStream.fromReadable({ evaluate: () => readable, onError: failed })
  })

  if (file === "/dev/stdin") {
    const stat = yield* Effect.mapError(fstat(0), refused)
    return stat.isFile() ? onDisk(0, stat) : piped(process.stdin)
  }
  return yield* Effect.gen(function*() {
    const fd = yield* open(file, "named")
    const stat = yield* fstat(fd)
    if (stat.isFile() || stat.isDirectory()) yield* Effect.addFinalizer(() => close(fd))
    if (stat.isDirectory()) return yield* refusedBy("EISDIR")
    if (stat.isFile()) return onDisk(fd, stat)
    // Read as a file, a pipe would hold a thread until somebody writes, and the process with it.
    const readable = stat.isFIFO() ? new Socket({ fd, readable: true, writable: false }) : createReadStream("", { fd })
    yield* Effect.addFinalizer(() => Effect.sync(() => readable.destroy()))
    return piped(readable)
  }).pipe(Effect.mapError(refused), Effect.uninterruptible)
})

/** The bytes of a file that nobody needs the length of. */
export const fileBytes = (file: string): Stream.Stream<Uint8Array, FileFailed> =>
  Stream.unwrap(Effect.map(openFile(file), ({ bytes }) => bytes))

/** Whoever reads our output may have had enough, as `head` does: that is no failure. */
export const toStdout = <A, E, R>(
  written: Effect.Effect<A, E | PlatformError.PlatformError, R>
): Effect.Effect<void, E | FileFailed, R> =>
  written.pipe(
    Effect.asVoid,
    Effect.catchIf(
      (error) => error instanceof PlatformError.PlatformError,
      (error) => {
        const { cause } = error.reason
        const closed = cause instanceof Error && Reflect.get(cause, "code") === "EPIPE"
        return closed ? Effect.void : Effect.fail(fileFailed("standard output")(error))
      }
    )
  )
