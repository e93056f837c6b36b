/**
 * What this node holds and what it owes, durably, by path.
 *
 * It is a cache of the truth on disk and of what the manifest asks for. One row a path:
 *
 * ```
 *            owe                       settle
 *   absent ───────▶ Owed ──────────────────────────▶ Verified
 *    ▲ ▲             │ ▲ ▲                             │  │
 *    │ └── release ──┤ │ └── lost: gone or damaged ────┤  │
 *    │               │ └──── owe: other bytes ─────────┘  │
 *    │        forget │                                    │ forget
 *    │               ▼                                    │
 *    └────────── Unlinking ◀──────────────────────────────┘
 *     unlinked
 * ```
 *
 * An owe of a higher revision leads from `Unlinking` back to `Owed`.
 *
 * Revisions are those of one history of the manifest. When that becomes another one, every row's revision becomes 0:
 * older than anything that the new history says, and recognizable as what it has not confirmed yet.
 *
 * A file that this node writes is *pending* besides, from the moment its bytes are sealed until it is settled.
 */
import { Context, Effect, Option, type Result, Schema, type Stream } from "effect"
import { Held } from "./Backend.ts"
import { FileEntry, NodeId, type Registered, Revision } from "./FileEntry.ts"
import { FilePath } from "./FilePath.ts"
import { Cursor } from "./Manifest.ts"

/** What one peer said when it was last asked for a file. */
export const PeerAnswer = Schema.Struct({
  peer: NodeId,
  /** Milliseconds since 1970. */
  at: Schema.Int,
  /** The tag of the error: `FileNotOnPeer`, `PeerUnreachable`, … */
  kind: Schema.String,
  /** A sentence for people. */
  detail: Schema.String,
  /** How often it has sent a whole body of wrong bytes for this file, all of them its own; absent: never. */
  wrongTimes: Schema.optionalKey(Schema.Natural),
  /** It is not asked for this file before, milliseconds since 1970, because of that. */
  notBefore: Schema.optionalKey(Schema.Int)
})
export interface PeerAnswer extends Schema.Schema.Type<typeof PeerAnswer> {}

/** A file that must still arrive. */
export interface Owed {
  readonly _tag: "Owed"
  readonly file: Registered
  /** Since when, milliseconds since 1970. */
  readonly since: number
  /** Rounds of attempts that ended without the file. */
  readonly rounds: number
  /** When it is tried next, milliseconds since 1970. */
  readonly due: number
  /** Why it is still owed, in a sentence. */
  readonly reason: string
  readonly answers: ReadonlyArray<PeerAnswer>
}

/** A file whose bytes were hashed on this disk and agree with the manifest. */
export interface Verified {
  readonly _tag: "Verified"
  readonly file: Registered
  readonly held: Held
}

/** A file that was deleted from the manifest and must leave this disk. */
export interface Unlinking {
  readonly _tag: "Unlinking"
  readonly path: FilePath
  readonly revision: Revision
  /** When it may be unlinked, milliseconds since 1970. */
  readonly due: number
}

export type Row = Owed | Verified | Unlinking

/** A file of our own, sealed in staging under `token`, not settled yet. */
export interface Pending {
  readonly entry: FileEntry
  readonly token: string
}

/** What is known of one path. */
export interface Local {
  readonly row: Row | undefined
  readonly pending: Pending | undefined
}

/**
 * One change of what the manifest asks for.
 *
 * - `Owe`: the file must be here. A row that is verified with the same bytes stays verified and takes the new
 *   revision; one that is owed with them takes it too and is tried at `due`, if that is sooner; one that is owed at
 *   the same revision stays as it is.
 * - `Forget`: the file must go, at `due`. A row of a higher revision stays; a pending file is dropped.
 * - `Lost`: the file is not on this disk any more, or damaged there. A row that is verified as this very file, by inode
 *   and time, is owed again with the same bytes, whatever its revision has become; any other stays as it is.
 * - `NewHistory`: the manifest has another history. Every row's revision becomes 0, and there is no cursor any more.
 * - `Release`: the new history does not know the file. A row that is owed at revision 0 goes, nothing on disk is
 *   touched, and a note says that the file was known; any other stays as it is.
 */
export type Change =
  | { readonly _tag: "Owe"; readonly file: Registered; readonly reason: string; readonly due: number }
  | { readonly _tag: "Forget"; readonly path: FilePath; readonly revision: Revision; readonly due: number }
  | {
    readonly _tag: "Lost"
    readonly path: FilePath
    readonly held: Pick<Held, "inode" | "mtime">
    readonly reason: string
    readonly due: number
  }
  | { readonly _tag: "NewHistory" }
  | { readonly _tag: "Release"; readonly path: FilePath }

/** A row without its entry: what it takes to compare very many of them with a disk or a manifest. */
export interface Brief {
  readonly path: FilePath
  readonly state: Row["_tag"]
  readonly revision: Revision
  /** Length in bytes, by the manifest; 0 while it is unlinked. */
  readonly size: number
  /** What `stat` said when it was verified; 0 in any other state. */
  readonly mtime: bigint
  readonly inode: bigint
}

/** Which debts to bring forward, and when they are tried then; times in milliseconds since 1970. */
export interface Rearm {
  readonly from: number
  readonly until: number
  /** Not before `until`, so that nothing is brought forward twice. */
  readonly behind: number
  readonly limit: number
}

/** Where this node stands, for readiness and for people. */
export interface Progress {
  /** How far the manifest's events have been taken; `none` before the first snapshot was. */
  readonly cursor: Option.Option<Cursor>
  /** Files and bytes that must still arrive. */
  readonly owed: { readonly files: number; readonly bytes: number }
  /** Since when the oldest of them has been owed, milliseconds since 1970. */
  readonly oldestOwed: Option.Option<number>
  /** Files and bytes that are verified here. */
  readonly verified: { readonly files: number; readonly bytes: number }
  /** Files that must still be unlinked. */
  readonly unlinking: number
  /** Everything up to this revision is here, verified: the lowest owed one less 1, else the cursor's. */
  readonly verifiedThrough: Revision
}

/** The inventory can't be read or written. */
export class InventoryError extends Schema.TaggedError<InventoryError>()("InventoryError", {
  operation: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `the inventory failed (${this.operation}): ${this.detail}`
  }
}

export class Inventory extends Context.Service<Inventory, {
  /** All changes and the cursor behind them, in one durable transaction. */
  readonly apply: (changes: ReadonlyArray<Change>, cursor?: Cursor) => Effect.Effect<void, InventoryError>
  /** Records a sealed file of our own, durably, before it is registered. */
  readonly pend: (pending: Pending) => Effect.Effect<void, InventoryError>
  /** Takes a pending file back that will never be registered. */
  readonly unpend: (path: FilePath) => Effect.Effect<void, InventoryError>
  /** Every pending file, for a start to finish. */
  readonly pendings: Effect.Effect<ReadonlyArray<Pending>, InventoryError>
  /**
   * Records a file as verified, by compare-and-set: it is owed, verified or pending with these very bytes. `false`: it was deleted or replaced meanwhile, and the file on disk must go.
   */
  readonly settle: (file: Registered, held: Held) => Effect.Effect<boolean, InventoryError>
  /** The same for many, in their order: one that could not be recorded says nothing of the others. */
  readonly settleTogether: (
    settlements: ReadonlyArray<{ readonly file: Registered; readonly held: Held }>
  ) => Effect.Effect<ReadonlyArray<Result.Result<boolean, InventoryError>>>
  /** Turns a deleted file's row into none, when it is still unlinking at this revision. */
  readonly unlinked: (path: FilePath, revision: Revision) => Effect.Effect<void, InventoryError>
  /** What is known of each of many paths, in their order: one read for a whole batch of events. */
  readonly look: (paths: ReadonlyArray<FilePath>) => Effect.Effect<ReadonlyArray<Local>, InventoryError>
  /** What is known of a path. */
  readonly why: (path: FilePath) => Effect.Effect<Option.Option<Row>, InventoryError>
  /** The file that is verified here under a path. Asked for every request that a peer makes. */
  readonly verified: (path: FilePath) => Effect.Effect<Option.Option<Verified>, InventoryError>
  /**
   * Owed files whose time has come: at most `limit` small ones that have not failed yet, then as many giants, the newest
   * revision first, then at most `limit` that have failed, the earliest first. One that is pending here is left out: its
   * bytes are sealed on this disk, and whoever wrote it finishes it. So are those that are `inHand` at this revision.
   */
  readonly due: (
    now: number,
    limit: number,
    inHand?: ReadonlyArray<Registered>
  ) => Effect.Effect<ReadonlyArray<Owed>, InventoryError>
  /** At most `limit` files to unlink whose time has come. */
  readonly dueUnlinks: (now: number, limit: number) => Effect.Effect<ReadonlyArray<Unlinking>, InventoryError>
  /** The earliest time behind `now` at which something is due, owed or to be unlinked. */
  readonly nextDue: (now: number) => Effect.Effect<Option.Option<number>, InventoryError>
  /** Records a round of attempts that ended without the file. Nothing happens when it is no longer owed at its revision. */
  readonly postpone: (
    file: Registered,
    due: number,
    reason: string,
    answers: ReadonlyArray<PeerAnswer>
  ) => Effect.Effect<void, InventoryError>
  /**
   * Brings debts forward: at most `limit` owed files whose time is behind `behind` get times from `from` on and before
   * `until`, evenly spread, the earliest first. Gives how many: fewer than `limit` means that there are no more.
   */
  readonly rearm: (span: Rearm) => Effect.Effect<number, InventoryError>
  /** At most `limit` rows behind a path, in the order of their paths' bytes. */
  readonly page: (after: Option.Option<FilePath>, limit: number) => Effect.Effect<ReadonlyArray<Row>, InventoryError>
  /** The same, in brief: some ten times cheaper, for pages of thousands. */
  readonly briefs: (
    after: Option.Option<FilePath>,
    limit: number
  ) => Effect.Effect<ReadonlyArray<Brief>, InventoryError>
  /** Of many paths, those that have neither a row nor a pending file. */
  readonly unknown: (paths: ReadonlyArray<FilePath>) => Effect.Effect<ReadonlyArray<FilePath>, InventoryError>
  /** A small text that was kept under a name, for what this node must know again after a restart. */
  readonly recall: (name: string) => Effect.Effect<Option.Option<string>, InventoryError>
  /** Keeps a small text under a name, durably; `none` drops it. */
  readonly remember: (name: string, text: Option.Option<string>) => Effect.Effect<void, InventoryError>
  readonly progress: Effect.Effect<Progress, InventoryError>
  /** How many owed files at least one round of attempts has ended without. */
  readonly failed: Effect.Effect<number, InventoryError>
  /**
   * How many verified files only an earlier history of the manifest knew: those at revision 0. None while there is no
   * cursor, because they have not been compared with the new history yet.
   */
  readonly orphans: Effect.Effect<number, InventoryError>
  /** The progress now, then whenever it has changed: the latest, changes in between left out. */
  readonly changes: Stream.Stream<Progress, InventoryError>
}>()("file-replication/Inventory") {}

/**
 * What this node knows of a file by itself, while the manifest does not answer: what it has verified. At revision 0 only
 * an earlier history of the manifest knew it.
 */
export const knownHere = (
  inventory: Inventory["Service"],
  path: FilePath
): Effect.Effect<Option.Option<Registered>, InventoryError> =>
  Effect.map(
    inventory.verified(path),
    Option.flatMap(({ file }) => file.revision > 0 ? Option.some(file) : Option.none())
  )
