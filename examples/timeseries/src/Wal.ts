/**
 * What was acknowledged and is not in a published file yet. A write is answered when its points are on the disk, in the
 * open segment; a flush closes the segment, publishes its points and then deletes it. A crash leaves segments, which the
 * next start publishes first.
 */
import { Effect, Schema, Semaphore } from "effect"
import { randomUUID } from "node:crypto"
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises"
import { join } from "node:path"

/** One write that was acknowledged. Timestamps are as they were sent, `now` for those that had none. */
export const Accepted = Schema.Struct({
  database: Schema.String,
  precision: Schema.Literals(["ns", "us", "ms", "s", "m", "h"]),
  /** Nanoseconds since 1970. */
  now: Schema.BigInt,
  lines: Schema.String
})
export interface Accepted extends Schema.Schema.Type<typeof Accepted> {}

const Line = Schema.fromJsonString(Schema.toCodecJson(Accepted))

/** The log can't be written or read. */
export class WalFailed extends Schema.TaggedError<WalFailed>()("WalFailed", { detail: Schema.String }) {
  override get message(): string {
    return `the write-ahead log failed: ${this.detail}`
  }
}

const attempt = <A>(body: () => Promise<A>) =>
  Effect.tryPromise({
    try: body,
    catch: (cause) => new WalFailed({ detail: cause instanceof Error ? cause.message : String(cause) })
  })

export interface Wal {
  /** Durable when it succeeds. When it fails nothing is kept, and the segment goes on behind what was there before. */
  readonly append: (accepted: Accepted) => Effect.Effect<void, WalFailed>
  /** Closes the open segment and gives its id. */
  readonly rotate: Effect.Effect<string, WalFailed>
  readonly drop: (segment: string) => Effect.Effect<void, WalFailed>
}

const syncFolder = async (folder: string) => {
  const handle = await open(folder, "r")
  await handle.sync().finally(() => handle.close())
}

/** Opens a log. Gives the segments that an earlier process has left, oldest first, by their ids. */
export const make = Effect.fnUntraced(function*(folder: string) {
  yield* attempt(() => mkdir(folder, { recursive: true }))
  const names = (yield* attempt(() => readdir(folder))).filter((name) => name.endsWith(".wal")).sort()
  const left: Array<{ readonly segment: string; readonly writes: ReadonlyArray<Accepted> }> = []
  for (const name of names) {
    const text = yield* attempt(() => readFile(join(folder, name), "utf8"))
    // A last line without its end was never acknowledged.
    const lines = text.split("\n").slice(0, -1)
    const writes = yield* Effect.forEach(lines, (line) => Schema.decodeEffect(Line)(line)).pipe(
      Effect.mapError((error) => new WalFailed({ detail: `${name} is damaged: ${error.message}` }))
    )
    left.push({ segment: name.slice(0, -".wal".length), writes })
  }

  const turn = yield* Semaphore.make(1)
  let counter = 0
  const begin = attempt(async () => {
    // Sorted by their names, segments are in the order of their beginnings, over restarts too.
    const last = left.at(-1)?.segment.slice(0, 8) ?? "00000000"
    const number = String(Number(last) + ++counter).padStart(8, "0")
    const segment = `${number}-${randomUUID()}`
    const handle = await open(join(folder, `${segment}.wal`), "ax")
    await syncFolder(folder)
    return { segment, handle, size: 0 }
  })
  let current: { readonly segment: string; readonly handle: FileHandle; size: number } = yield* begin
  yield* Effect.addFinalizer(() => Effect.ignore(attempt(() => current.handle.close())))

  const wal: Wal = {
    append: (accepted) =>
      Effect.gen(function*() {
        const line = Buffer.from(`${yield* Effect.orDie(Schema.encodeEffect(Line)(accepted))}\n`)
        yield* attempt(async () => {
          try {
            await current.handle.appendFile(line)
            await current.handle.datasync()
            current.size += line.length
          } catch (cause) {
            await current.handle.truncate(current.size)
            throw cause
          }
        })
      }).pipe(Effect.uninterruptible, turn.withPermit),
    rotate: Effect.gen(function*() {
      const before = current
      current = yield* begin
      yield* attempt(() => before.handle.close())
      return before.segment
    }).pipe(Effect.uninterruptible, turn.withPermit),
    drop: (segment) => attempt(() => rm(join(folder, `${segment}.wal`), { force: true }))
  }
  return { wal, left }
})

/** Replaces a small file as a whole, durably. */
export const replaceFile = (folder: string, name: string, text: string) =>
  attempt(async () => {
    const handle = await open(join(folder, `${name}.new`), "w")
    try {
      await handle.writeFile(text)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(join(folder, `${name}.new`), join(folder, name))
    await syncFolder(folder)
  })
