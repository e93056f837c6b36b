/**
 * This node's own files: the data folder, and nothing else.
 *
 * A path is visible under its final name only after `commit`, whole and verified. Everything before lies in a
 * staging folder on the same filesystem.
 */
import { Context, type Effect, type Option, type Result, Schema, type Scope, type Stream } from "effect"
import type { ByteSink } from "./ByteSink.ts"
import { type FileEntry, Sha256 } from "./FileEntry.ts"
import { FilePath } from "./FilePath.ts"

/** A whole file on this disk: what was hashed, and what `stat` said of it right then. */
export const Held = Schema.Struct({
  sha256: Sha256,
  /** Length in bytes. */
  size: Schema.Natural,
  /** Time of the last change, in nanoseconds since 1970. */
  mtime: Schema.BigInt,
  /** The file's number on its filesystem. */
  inode: Schema.BigInt
})
export interface Held extends Schema.Schema.Type<typeof Held> {}

/** Whether what was hashed here is what the manifest asks for. */
export const agrees = (held: Held, entry: FileEntry): boolean =>
  held.sha256 === entry.sha256 && held.size === entry.size_bytes

/** A file as `stat` shows it; nothing is known of its bytes. */
export interface FileStat {
  readonly path: FilePath
  readonly size: number
  readonly mtime: bigint
  readonly inode: bigint
}

/**
 * The disk refused. `NoSpace`: it is full. `NotFound`: no such file. `Unsafe`: no file can have this
 * name here; it is too long, or something stands in the way: a symbolic link, which could lead out of the data folder, a
 * file in place of a folder, or what is no file. `Unreadable`: it has lost the bytes. `Io`: anything else.
 */
export class BackendError extends Schema.TaggedError<BackendError>()("BackendError", {
  operation: Schema.String,
  path: Schema.String,
  reason: Schema.Literals(["NoSpace", "NotFound", "Unsafe", "Unreadable", "Io"]),
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.operation} ${this.path}: ${this.detail}`
  }
}

/** The bytes that were staged are not those that were expected. They have been dropped. */
export class DigestMismatch extends Schema.TaggedError<DigestMismatch>()("DigestMismatch", {
  path: FilePath,
  expected: Sha256,
  actual: Sha256
}) {
  override get message(): string {
    return `${this.path}: the bytes have sha256 ${this.actual}, not ${this.expected}`
  }
}

/** A file already stands under the final name. It stays as it is, and so do the staged bytes. */
export class AlreadyExists extends Schema.TaggedError<AlreadyExists>()("AlreadyExists", { path: FilePath }) {
  override get message(): string {
    return `${this.path} already exists in the data folder`
  }
}

/** What was read of many files. */
export interface ReadTogether {
  /** The bytes of all that could be read, one behind another in the order asked. */
  readonly bytes: Uint8Array
  /** Why others could not, by their place in what was asked for. */
  readonly unread: ReadonlyMap<number, BackendError>
}

/** A small file whose bytes are all in memory. */
export interface Whole {
  readonly path: FilePath
  /** What its bytes must have. */
  readonly sha256: Sha256
  readonly bytes: Uint8Array
}

/** What may be kept of one kind of leftovers. */
export interface Cap {
  readonly maxBytes: number
  readonly maxAgeMillis: number
}

/** Leftovers that were dropped. */
export interface Dropped {
  readonly files: number
  readonly bytes: number
}

/** Bytes on their way to a final name, hashed as they are written, in order. */
export interface Staged extends ByteSink<BackendError> {
  /** Bytes in place and in the running hash: the next byte to ask for. */
  readonly length: Effect.Effect<number>
  /** Drops every byte so far and begins at 0. */
  readonly restart: Effect.Effect<void, BackendError>
  /**
   * Makes the bytes durable and ends the hash; nothing can be written afterwards. The bytes then outlive this scope
   * and this process, until `commit` or `discard`. `token` finds them again through {@link Backend} `unseal`.
   */
  readonly seal: Effect.Effect<{ readonly sha256: Sha256; readonly size: number; readonly token: string }, BackendError>
  /**
   * Shows the bytes under their final name: seal, rename, never over another file, sync the folder. Not
   * interruptible. With `DigestMismatch` nothing is kept.
   */
  readonly commit: (expected: Sha256) => Effect.Effect<Held, DigestMismatch | AlreadyExists | BackendError>
  /** Drops the bytes for good. */
  readonly discard: Effect.Effect<void, BackendError>
}

/**
 * A program has a file open for writing; or may have, because this one can't see all others: of other users, of other
 * containers.
 */
export type Writing = "Open" | "Unknown"

export class Backend extends Context.Service<Backend, {
  /**
   * Opens a staging file for `path`. With `expected`, the digest of the whole file, an earlier try for the same path
   * and digest goes on where it ended, rounded down to 16 KiB, and closing the scope keeps what has arrived. Without,
   * it begins empty, and closing the scope drops what was not sealed.
   */
  readonly stage: (path: FilePath, expected?: Sha256) => Effect.Effect<Staged, BackendError, Scope.Scope>
  /**
   * Writes many small files and shows each under its final name, as `commit` does. Gives what became of each, in their
   * order: one that fails leaves nothing behind, and keeps no other from its place. Not interruptible.
   */
  readonly commitTogether: (
    files: ReadonlyArray<Whole>
  ) => Effect.Effect<ReadonlyArray<Result.Result<Held, DigestMismatch | AlreadyExists | BackendError>>>
  /** Finds sealed bytes again, after a restart too, and hashes them anew; `none` when they are gone. */
  readonly unseal: (path: FilePath, token: string) => Effect.Effect<Option.Option<Staged>, BackendError, Scope.Scope>
  /** Drops sealed bytes that nobody will unseal any more: all but those with these tokens. Gives how many there were. */
  readonly dropSealed: (kept: ReadonlySet<string>) => Effect.Effect<number, BackendError>
  /**
   * Drops what is left over beyond its cap: what is too old, then the oldest until the rest fits. `partials`: tries to
   * pull that nobody has in hand, by when they were last written to; sealed bytes are none of them. `quarantined`: files
   * that were set aside, by when they were.
   */
  readonly trim: (
    caps: { readonly partials: Cap; readonly quarantined: Cap }
  ) => Effect.Effect<{ readonly partials: Dropped; readonly quarantined: Dropped }, BackendError>
  /** Feeds `length` bytes from `offset` into a sink. Fails with `NotFound` or `Io` when the file is shorter. */
  readonly read: <E>(
    path: FilePath,
    offset: number,
    length: number,
    sink: ByteSink<E>
  ) => Effect.Effect<void, BackendError | E>
  /** Reads the first `length` bytes of each of many small files. All of them are in memory at once. */
  readonly readTogether: (
    files: ReadonlyArray<{ readonly path: FilePath; readonly length: number }>
  ) => Effect.Effect<ReadTogether, BackendError>
  /** Hashes what lies under a final name; `none` when nothing does. */
  readonly adopt: (path: FilePath) => Effect.Effect<Option.Option<Held>, BackendError>
  readonly stat: (path: FilePath) => Effect.Effect<Option.Option<FileStat>, BackendError>
  /**
   * Of many files, those that are not as they were: size, time or inode differ, nothing lies there, or something that
   * is no file. Nothing is opened, no symbolic link is followed, and the event loop is left alone; thousands at once
   * are fine.
   */
  readonly differing: (files: ReadonlyArray<FileStat>) => Effect.Effect<ReadonlyArray<FilePath>, BackendError>
  /**
   * Of many paths, those under which nothing lies. What can't be told without doubt is left out. Nothing is opened, and
   * the event loop is left alone; thousands at once are fine.
   */
  readonly absent: (paths: ReadonlyArray<FilePath>) => Effect.Effect<ReadonlyArray<FilePath>, BackendError>
  /** Every file under a folder (`""`: all), without our own. Names that are no valid paths are left out. */
  readonly list: (folder: string) => Stream.Stream<FileStat, BackendError>
  /**
   * The names of files and folders at which something appears or changes, from now on; `""` stands for all of them, and
   * is the first once watching has begun. A name may be one of ours, or of nothing any more, and with a system that
   * loses track one may be missing.
   */
  readonly watch: Stream.Stream<string, BackendError>
  /** Of some files, those that a program has open for writing, and those that one may be writing unseen. */
  readonly writing: (paths: ReadonlyArray<FilePath>) => Effect.Effect<ReadonlyMap<FilePath, Writing>>
  /** Whether `writing` sees every program that could write into the folder. */
  readonly seesWriters: Effect.Effect<boolean>
  /**
   * Fails when a file could not be shown under a name, as far as that can be told before, and makes nothing. One that
   * stands there is fine.
   */
  readonly checkName: (path: FilePath) => Effect.Effect<void, BackendError>
  /**
   * Deletes a file and whatever is staged for it. Fine when there is none, which no file can be where something else
   * stands or under a name that is too long: what is no file stays.
   */
  readonly remove: (path: FilePath) => Effect.Effect<void, BackendError>
  /** Sets a file aside, out of sight; only `trim` ever deletes it. Fine when it is absent. */
  readonly quarantine: (path: FilePath) => Effect.Effect<void, BackendError>
  /** The id that the data folder carries, to tell it from another or from an empty one; `none` when it has none. */
  readonly id: Effect.Effect<Option.Option<string>, BackendError>
  /** Gives the data folder an id unless it has one. Gives the one that it then has. */
  readonly claim: (id: string) => Effect.Effect<string, BackendError>
  /** Bytes that this process may still write. */
  readonly freeSpace: Effect.Effect<number, BackendError>
}>()("file-replication/Backend") {}
