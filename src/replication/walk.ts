/**
 * The whole manifest against everything that `Inventory` knows, page by page in the order of the paths, both ways:
 * what is not here is owed, what the manifest no longer has is forgotten. Then the folder: what nobody knows is counted.
 *
 * A page is read and recorded while no event is, so that an event which is taken afterwards is never older than what
 * the page has said of a path. Only a page at a time is in memory.
 */
import { Clock, Effect, Option, type Semaphore, Stream } from "effect"
import { Backend, type BackendError } from "../ports/Backend.ts"
import type { Registered, Revision } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { type Brief, type Change, Inventory, type InventoryError } from "../ports/Inventory.ts"
import {
  type Cursor,
  CursorLost,
  getAll,
  Gone,
  Manifest,
  type ManifestEvent,
  type Page,
  type Unavailable
} from "../ports/Manifest.ts"
import { Puller } from "./Puller.ts"
import { Unlinker } from "./Unlinker.ts"

/** Entries that are looked at together. */
const pageSize = 500

/** How many events became debts, and how many were here already. */
export interface Taken {
  readonly enqueued: number
  readonly skipped: number
}

/** What one page has brought. */
export interface Paged extends Taken {
  readonly walked: number
}

export interface WalkOptions {
  /** Between a deletion that is found out and the unlink, milliseconds. */
  readonly deleteGraceMillis: number
  /** Held while events are taken. */
  readonly turn: Semaphore.Semaphore
  /** Records events as debts; not their cursor. */
  readonly take: (events: ReadonlyArray<ManifestEvent>) => Effect.Effect<Taken, InventoryError>
  /** Counts files that are here. */
  readonly skip: (files: ReadonlyArray<Registered>) => Effect.Effect<void>
  /** Waits until the queue has room for more. */
  readonly room: Effect.Effect<void>
  /** A position of the history that this node's rows belong to. */
  readonly position: Effect.Effect<Cursor>
}

export interface Walk {
  /**
   * One page behind a path, as far as it was registered up to a revision: what came later comes as an event. `next` is
   * where the next page begins, `none` behind the last.
   */
  readonly page: (after: Option.Option<FilePath>, upTo: Revision) => Effect.Effect<
    { readonly paged: Paged; readonly next: Option.Option<FilePath> },
    CursorLost | InventoryError | Unavailable
  >
  /** How many files lie in the folder that neither this node nor the manifest ever knew, and one of them. */
  readonly strangers: Effect.Effect<
    { readonly files: number; readonly example: Option.Option<FilePath> },
    BackendError | InventoryError | Unavailable
  >
}

export const make = Effect.fnUntraced(function*(options: WalkOptions) {
  const backend = yield* Backend
  const inventory = yield* Inventory
  const manifest = yield* Manifest
  const puller = yield* Puller
  const unlinker = yield* Unlinker

  const sameHistory = Effect.fnUntraced(function*(at: Cursor) {
    const lost = yield* manifest.lost(at)
    if (Option.isSome(lost)) return yield* new CursorLost({ reason: lost.value })
  })

  /**
   * Rows of this history that the manifest no longer has were deleted while nobody looked. A row of an earlier history
   * is no deletion: what is here stays, an orphan that is counted; only what was merely owed is let go.
   */
  const forget = Effect.fnUntraced(function*(absent: ReadonlyArray<Brief>, at: Cursor) {
    const suspects = absent.filter(({ revision, state }) => state === "Owed" || (state === "Verified" && revision > 0))
    if (suspects.length === 0) return
    // One that was registered behind the page's reading is not gone.
    const known = yield* getAll(manifest, suspects.map(({ path }) => path))
    const gone = suspects.filter((_, index) => Option.isNone(known[index] ?? Option.none()))
    if (gone.length === 0) return
    // Asked last: an answer of another history would be taken for a deletion.
    yield* sameHistory(at)
    const now = yield* Clock.currentTimeMillis
    const changes = gone.map(({ path, revision }): Change =>
      revision === 0 ? { _tag: "Release", path } : {
        _tag: "Forget",
        path,
        revision: revision > at.revision ? revision : at.revision,
        due: now + options.deleteGraceMillis
      }
    )
    yield* inventory.apply(changes)
    yield* Effect.forEach(gone, ({ path }) => puller.withdraw(path), { discard: true })
    yield* unlinker.wake
  })

  /**
   * Files of our own that are on their way, and were registered and deleted again before this walk's position. No event
   * comes of that any more, and no row is there yet: their record would bring them back. What is settled meanwhile is a
   * row when the pages are read, so this comes before them.
   */
  const forgetPending = Effect.fnUntraced(function*(at: Cursor) {
    const entries = (yield* inventory.pendings).map(({ entry }) => entry)
    if (entries.length === 0) return
    const answers = yield* manifest.check(entries)
    const gone = entries.filter((_, index) => answers[index] instanceof Gone)
    if (gone.length === 0) return
    yield* sameHistory(at)
    const now = yield* Clock.currentTimeMillis
    yield* inventory.apply(gone.map(({ path }): Change => ({
      _tag: "Forget",
      path,
      revision: at.revision,
      due: now + options.deleteGraceMillis
    })))
    yield* unlinker.wake
  })

  const compare = Effect.fnUntraced(function*(
    { files, next }: Page,
    after: Option.Option<FilePath>,
    upTo: Revision,
    at: Cursor
  ) {
    const paths = new Set(files.map(({ entry }) => entry.path))
    const known = new Map<FilePath, Brief>()
    // The rows between this page's first and last path; there may be any number of them.
    for (let from = after;;) {
      const briefs = yield* inventory.briefs(from, pageSize)
      const within = Option.isNone(next)
        ? briefs
        : briefs.filter(({ path }) => paths.has(path) || !isBehind(path, next.value))
      for (const brief of within) if (paths.has(brief.path)) known.set(brief.path, brief)
      yield* forget(within.filter(({ path }) => !paths.has(path)), at)
      const last = within.at(-1)
      if (last === undefined || within.length < pageSize) break
      from = Option.some(last.path)
    }
    // A row of this very revision knows all that the page says.
    const old = files.filter(({ revision }) => revision <= upTo)
    const news = old.filter(({ entry, revision }) => known.get(entry.path)?.revision !== revision)
    const taken = yield* options.take(news.map((file) => ({ _tag: "Put", file })))
    const held = old.filter(({ entry, revision }) => {
      const brief = known.get(entry.path)
      return brief?.state === "Verified" && brief.revision === revision
    })
    yield* options.skip(held)
    return {
      walked: files.length,
      enqueued: taken.enqueued,
      skipped: taken.skipped + held.length
    } satisfies Paged
  })

  const page = Effect.fnUntraced(function*(after: Option.Option<FilePath>, upTo: Revision) {
    // Before the manifest is asked: the history of what it answers must still be this one when something is forgotten.
    const at = yield* options.position
    if (Option.isNone(after)) yield* forgetPending(at)
    const page = yield* manifest.page(after, pageSize)
    return { paged: yield* compare(page, after, upTo, at), next: page.next }
  }, options.turn.withPermit)

  const strange = Effect.fnUntraced(function*(paths: ReadonlyArray<FilePath>) {
    const unknown = yield* inventory.unknown(paths)
    const known = yield* getAll(manifest, unknown)
    // One that the manifest has is on its way to the inventory.
    return unknown.filter((_, index) => Option.isNone(known[index] ?? Option.none()))
  })

  const walk: Walk = {
    page: (after, upTo) => Effect.andThen(options.room, page(after, upTo)),
    strangers: backend.list("").pipe(
      Stream.map(({ path }) => path),
      Stream.grouped(pageSize),
      Stream.mapEffect(strange),
      Stream.runFold(
        () => ({ files: 0, example: Option.none<FilePath>() }),
        ({ example, files }, some) => ({
          files: files + some.length,
          example: Option.orElse(example, () => Option.fromUndefinedOr(some[0]))
        })
      )
    )
  }
  return walk
})

/** Behind in the order of the paths' bytes, which is not that of their UTF-16. */
const isBehind = (path: string, border: string): boolean =>
  path !== border && Buffer.compare(Buffer.from(path), Buffer.from(border)) > 0
