/**
 * What was acknowledged and is not in a published file yet. A write is answered when its points are on the disk, in the
 * open segment; a flush closes the segment, publishes its points and then deletes it. A crash leaves segments, which the
 * next start publishes first.
 */
import { Effect, Option, Schema, Semaphore } from "effect"
import { randomUUID } from "node:crypto"
import { access, type FileHandle, mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises"
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
  /** Keeps a segment as `ID.aside`, which no start reads. One that is aside already stays so. */
  readonly setAside: (segment: string) => Effect.Effect<void, WalFailed>
}

const setAside = (folder: string, segment: string) =>
  attempt(async () => {
    const aside = join(folder, `${segment}.aside`)
    try {
      await rename(join(folder, `${segment}.wal`), aside)
    } catch (cause) {
      if (Reflect.get(Object(cause), "code") !== "ENOENT") throw cause
      await access(aside).catch(() => {
        throw cause
      })
    }
    await syncFolder(folder)
  }).pipe(Effect.uninterruptible)

const syncFolder = async (folder: string) => {
  const handle = await open(folder, "r")
  await handle.sync().finally(() => handle.close())
}

/**
 * Opens a log. Gives the segments that an earlier process has left, oldest first, by their ids. One that can't be read
 * is set aside.
 */
export const make = Effect.fnUntraced(function*(folder: string) {
  yield* attempt(() => mkdir(folder, { recursive: true }))
  const names = (yield* attempt(() => readdir(folder))).filter((name) => name.endsWith(".wal")).sort()
  let last = "00000000"
  const left: Array<{ readonly segment: string; readonly writes: ReadonlyArray<Accepted> }> = []
  for (const name of names) {
    const text = yield* attempt(() => readFile(join(folder, name), "utf8"))
    // A last line without its end was never acknowledged.
    const lines = text.split("\n").slice(0, -1)
    const segment = name.slice(0, -".wal".length)
    last = segment
    const writes = yield* Effect.option(Effect.forEach(lines, (line) => Schema.decodeEffect(Line)(line)))
    if (Option.isSome(writes)) left.push({ segment, writes: writes.value })
    else {
      yield* setAside(folder, segment)
      yield* Effect.logError(`${name} is damaged, and kept as ${segment}.aside: what it holds is not published`)
    }
  }

  const turn = yield* Semaphore.make(1)
  let counter = 0
  const begin = attempt(async () => {
    // Sorted by their names, segments are in the order of their beginnings, over restarts too.
    const number = String(Number(last.slice(0, 8)) + ++counter).padStart(8, "0")
    const segment = `${number}-${randomUUID()}`
    const handle = await open(join(folder, `${segment}.wal`), "ax")
    await syncFolder(folder)
    return { segment, handle, size: 0, torn: false }
  })
  // `torn`: behind `size` there may be a part of a write that failed.
  let current: { readonly segment: string; readonly handle: FileHandle; size: number; torn: boolean } = yield* begin
  yield* Effect.addFinalizer(() => Effect.ignore(attempt(() => current.handle.close())))

  const wal: Wal = {
    append: (accepted) =>
      Effect.gen(function*() {
        const line = Buffer.from(`${yield* Effect.orDie(Schema.encodeEffect(Line)(accepted))}\n`)
        yield* attempt(async () => {
          const repair = async () => {
            await current.handle.truncate(current.size)
            current.torn = false
          }
          if (current.torn) await repair()
          current.torn = true
          try {
            await current.handle.appendFile(line)
            await current.handle.datasync()
          } catch (cause) {
            await repair()
            throw cause
          }
          current.size += line.length
          current.torn = false
        })
      }).pipe(Effect.uninterruptible, turn.withPermit),
    rotate: Effect.gen(function*() {
      const before = current
      current = yield* begin
      // All of it is synced already: whoever rotates must come to know its id, or its points would be published twice.
      yield* attempt(() => before.handle.close()).pipe(
        Effect.catch((error) => Effect.logWarning(`${before.segment}.wal was not closed: ${error.message}`))
      )
      return before.segment
    }).pipe(Effect.uninterruptible, turn.withPermit),
    drop: (segment) => attempt(() => rm(join(folder, `${segment}.wal`), { force: true })),
    setAside: (segment) => setAside(folder, segment)
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
  }).pipe(Effect.uninterruptible)
