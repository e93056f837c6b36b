/**
 * The list of all files of the cluster, the same for every node.
 *
 * It is the only source of additions and deletions. An implementation is as linearizable as its engine: what
 * `register` acknowledged is in every later `head`, on every node.
 */
import { Context, type Duration, Effect, type Option, Schema, type Stream } from "effect"
import { FileEntry, type Registered, Revision } from "./FileEntry.ts"
import { FilePath } from "./FilePath.ts"

/**
 * A position in one history of one manifest. `epoch` names the history, `mark` is the identity of the last event at
 * `revision`: another mark there means another history, for example a backup that was put back. `""` at revision 0.
 */
export const Cursor = Schema.Struct({ epoch: Schema.String, revision: Revision, mark: Schema.String })
export interface Cursor extends Schema.Schema.Type<typeof Cursor> {}

export type ManifestEvent =
  | { readonly _tag: "Put"; readonly file: Registered }
  | { readonly _tag: "Removed"; readonly path: FilePath; readonly revision: Revision; readonly reason: string }

/** Everything that one change did, never split, and the cursor behind it. */
export interface EventBatch {
  readonly cursor: Cursor
  readonly events: ReadonlyArray<ManifestEvent>
}

/** Files in the order of their paths, and where the next page begins: `none` behind the last. */
export interface Page {
  readonly files: ReadonlyArray<Registered>
  readonly next: Option.Option<FilePath>
}

export interface Snapshot {
  /** The position of the snapshot: `events(at)` continues it without a gap. */
  readonly at: Cursor
  /** Every file that stands at `at`; files changed while the pages are read may show their newer state. */
  readonly pages: Stream.Stream<ReadonlyArray<Registered>, CursorLost | Unavailable>
}

/** One change of the manifest: all of it or nothing. */
export interface Replacement {
  readonly add: ReadonlyArray<FileEntry>
  readonly remove: ReadonlyArray<{ readonly path: FilePath; readonly reason: string }>
}

/** The most paths that one `replace` takes, on every engine alike. */
export const maxReplacement = 100

/** The path is taken: by other bytes, or by a file where the new path needs a folder, or the reverse. */
export class Conflict extends Schema.TaggedError<Conflict>()("Conflict", {
  path: FilePath,
  standing: FileEntry,
  kind: Schema.Literals(["OtherBytes", "FolderAndFile"])
}) {
  override get message(): string {
    return this.kind === "OtherBytes"
      ? `${this.path} is already registered with other bytes (sha256 ${this.standing.sha256}, `
        + `${this.standing.size_bytes} bytes, from ${this.standing.origin_node_id}); publish under another path`
      : `${this.path} can't be registered: ${this.standing.path} is already a file, and one of the two would have to `
        + "be a folder; publish under another path"
  }
}

/**
 * The path was deleted. A deleted path never comes back with a late registration. `replaced`: a file was to take its
 * place, and no file stands there.
 */
export class Gone extends Schema.TaggedError<Gone>()("Gone", {
  path: FilePath,
  reason: Schema.String,
  replaced: Schema.optionalKey(Schema.Literal(true))
}) {
  override get message(): string {
    if (this.replaced === true) return `${this.path} can't be replaced: ${this.reason}`
    return `${this.path} was deleted (${this.reason}); publish under another path`
  }
}

/**
 * The engine answers, and does not take this entry, however often it is asked: it breaks the rules of entries, is more
 * than the engine takes in one request, or what the engine holds of its path is damaged. Others are not held up by it.
 */
export class EntryRefused extends Schema.TaggedError<EntryRefused>()("EntryRefused", {
  path: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.path} can't be registered: ${this.detail}`
  }
}

/** Why one entry is not registered, whatever becomes of the others. */
export type Refusal = Conflict | Gone | EntryRefused

/** More paths than one `replace` takes. */
export class TooLarge extends Schema.TaggedError<TooLarge>()("TooLarge", { paths: Schema.Int, limit: Schema.Int }) {
  override get message(): string {
    return `a replacement of ${this.paths} paths is over the limit of ${this.limit}; split it`
  }
}

/**
 * `events` can't go on from a cursor. `Compacted`: the events behind it are no longer kept. `EpochChanged`: it
 * belongs to another history. Either way: take a new snapshot, compare, go on from its cursor.
 *
 * Behind `Compacted` whoever compares unlinks what is no longer listed, so it is a promise: the cursor is of this very
 * history. An engine that can't tell says `EpochChanged`, behind which nothing is ever unlinked.
 */
export class CursorLost extends Schema.TaggedError<CursorLost>()("CursorLost", {
  reason: Schema.Literals(["Compacted", "EpochChanged"])
}) {
  override get message(): string {
    return this.reason === "Compacted"
      ? "the manifest no longer keeps the events behind this cursor; take a new snapshot"
      : "the manifest has another history than this cursor; take a new snapshot"
  }
}

/** The engine can't be reached or does not answer. Nothing is known of the outcome; asking again is safe. */
export class Unavailable extends Schema.TaggedError<Unavailable>()("Unavailable", {
  operation: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `the manifest is unavailable (${this.operation}): ${this.detail}`
  }
}

export class Manifest extends Context.Service<Manifest, {
  /** Adds a file. The same bytes again are fine and give the entry that stands. */
  readonly register: (entry: FileEntry) => Effect.Effect<Registered, Refusal | Unavailable>
  /** Adds many files, each with an answer of its own, in the order given: durable together, in one round trip. */
  readonly registerAll: (
    entries: ReadonlyArray<FileEntry>
  ) => Effect.Effect<ReadonlyArray<Registered | Refusal>, Unavailable>
  /**
   * Adds many files, all of them or none: when one is refused nothing is registered. Gives each one's refusal,
   * `undefined` where there is none. They meet each other, so it is one transaction of any length, and others wait.
   *
   * An engine whose transactions have a length checks all of them as of one moment and then registers piece by piece,
   * each only if nobody has changed anything since. When another writer comes between and takes a path of the list, it
   * fails with `Unavailable`, which says how many are registered by then; the same list again names the refusal.
   */
  readonly registerTogether: (
    entries: ReadonlyArray<FileEntry>
  ) => Effect.Effect<ReadonlyArray<Refusal | undefined>, Unavailable>
  /** What {@link registerAll} would answer now, without registering anything; `undefined` where it would succeed. */
  readonly check: (
    entries: ReadonlyArray<FileEntry>
  ) => Effect.Effect<ReadonlyArray<Refusal | undefined>, Unavailable>
  /**
   * Deletes a path for good. Fine when it is absent: it gets a tombstone all the same. Gives the tombstone's revision.
   * Of the reason the first 1,000 characters are kept.
   */
  readonly remove: (path: FilePath, reason: string) => Effect.Effect<Revision, Unavailable>
  /** Adds and removes at once: nobody ever sees a part of it. Gives the revision behind the whole change. */
  readonly replace: (change: Replacement) => Effect.Effect<Revision, Refusal | TooLarge | Unavailable>
  readonly get: (path: FilePath) => Effect.Effect<Option.Option<Registered>, Unavailable>
  /** The same of many paths, in their order. For an engine that answers many sooner than one by one; see {@link getAll}. */
  readonly getAll?:
    | ((paths: ReadonlyArray<FilePath>) => Effect.Effect<ReadonlyArray<Option.Option<Registered>>, Unavailable>)
    | undefined
  /** A page of at most `limit` files behind `after`, in the order of their paths' bytes. */
  readonly page: (after: Option.Option<FilePath>, limit: number) => Effect.Effect<Page, Unavailable>
  /** The newest position. Everything acknowledged before the call is at or below it. */
  readonly head: Effect.Effect<Cursor, Unavailable>
  /** All files, `pageSize` at a time; followed by `events(at)` it misses nothing. */
  readonly snapshot: (pageSize: number) => Effect.Effect<Snapshot, Unavailable>
  /** Why `events` could not go on from a cursor now; `none` when it could. */
  readonly lost: (cursor: Cursor) => Effect.Effect<Option.Option<CursorLost["reason"]>, Unavailable>
  /**
   * Every change behind a cursor, in order, each once, then those to come. Ends only by failing: one that ends is
   * followed anew a second later, as behind `Unavailable`. The cursor of any batch is a good place to begin again. What
   * `head` has told comes within seconds: a node that waits longer for it is not ready.
   */
  readonly events: (after: Cursor) => Stream.Stream<EventBatch, CursorLost | Unavailable>
}>()("file-replication/Manifest") {}

/** Asked at once of an engine that answers one path at a time. */
const asked = 16

/** What a manifest says of many paths, in their order. */
export const getAll = (
  manifest: Manifest["Service"],
  paths: ReadonlyArray<FilePath>
): Effect.Effect<ReadonlyArray<Option.Option<Registered>>, Unavailable> =>
  manifest.getAll?.(paths) ?? Effect.forEach(paths, manifest.get, { concurrency: asked })

/**
 * Drops tombstones that nobody needs any more. Each is what keeps a deleted path from coming back, and what tells a
 * node that was away of the deletion. An engine that ends them by itself has none.
 */
export class ManifestCollector extends Context.Service<ManifestCollector, {
  /**
   * Drops the tombstones at or below `through` that are at least `age` old, and gives how many. A path whose tombstone
   * is dropped may be registered again. A cursor below the newest one dropped is `Compacted` from then on, where the
   * tombstones are what is kept of the events.
   */
  readonly collect: (through: Revision, age: Duration.Input) => Effect.Effect<number, Unavailable>
}>()("file-replication/ManifestCollector") {}

/** What an engine of several parts says of them while it answers. One that answers or does not has none. */
export class ManifestHealth extends Context.Service<ManifestHealth, {
  /** What an operator should look at, a sentence each: empty while all is well. Never waits for long. */
  readonly complaints: Effect.Effect<ReadonlyArray<string>>
}>()("file-replication/ManifestHealth") {}
