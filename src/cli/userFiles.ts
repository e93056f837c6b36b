/** Files that a user names: read and written with errors that name them. */
import * as NodeStream from "@effect/platform-node/NodeStream"
import { Effect, FileSystem, Option, PlatformError, Schema, Stream } from "effect"
import { createReadStream } from "node:fs"

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

/** The bytes of a file, or what comes over a pipe until it ends. */
export const fileBytes = (file: string): Stream.Stream<Uint8Array, FileFailed, FileSystem.FileSystem> => {
  const failed = (cause: unknown) =>
    new FileFailed({ file, detail: cause instanceof Error ? cause.message : String(cause) })
  // Read as a file it would keep an interrupt waiting for the next line.
  if (file === "/dev/stdin") return NodeStream.fromReadable({ evaluate: () => process.stdin, onError: failed })
  return Stream.unwrap(Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const info = yield* Effect.option(fs.stat(file))
    // A pipe has no position to read at.
    return Option.exists(info, ({ type }) => type === "FIFO")
      ? NodeStream.fromReadable<Uint8Array, FileFailed>({ evaluate: () => createReadStream(file), onError: failed })
      : Stream.mapError(fs.stream(file, { chunkSize: 1 << 20 }), fileFailed(file))
  }))
}

/** How long a file is, in bytes. A pipe has no length, and so no end in sight: `undefined`. */
export const fileLength = Effect.fnUntraced(function*(file: string) {
  const info = yield* Effect.option((yield* FileSystem.FileSystem).stat(file))
  return Option.isSome(info) && info.value.type === "File" ? Number(info.value.size) : undefined
})

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
