/**
 * The files of the manifest that are verified here, as one consistent set: what an application puts its queries over.
 *
 * A change of the manifest is shown at once, when every file that it adds is verified on this disk; until then the files
 * that it removes stay shown, and stay on the disk. So a merge of small files into a large one leaves no gap, and counts
 * nothing twice, on any node and at any time. A file that is shown, or was when somebody opened the view, is not unlinked.
 *
 * There is no view before all is here that the manifest had when this node started; and it is kept until all is here
 * again when the manifest has another history.
 *
 * It holds the entry of each shown file in memory, about 1 KB, and is no part of a node by itself:
 *
 * ```ts
 * View.layer.pipe(Layer.provideMerge(Replication.layerNode))
 * ```
 */
import {
  Context,
  Duration,
  Effect,
  Layer,
  Option,
  Schema,
  type Scope,
  Semaphore,
  Stream,
  SubscriptionRef
} from "effect"
import { type FileEntry, type Registered, Revision } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { Inventory, type InventoryError } from "../ports/Inventory.ts"
import { type Cursor, type CursorLost, type EventBatch, Manifest, type Unavailable } from "../ports/Manifest.ts"
import { Background } from "./Background.ts"
import { isVerified } from "./decide.ts"
import { Leases } from "./Leases.ts"
import { Readiness } from "./Readiness.ts"
import { changeOf, enqueue, show, shownThrough, type ViewChange, wholeOf } from "./viewChanges.ts"

/** A position in one history of the manifest. */
export interface Position {
  readonly epoch: string
  readonly revision: Revision
}

/** Files that can be queried together: each verified here, and on this disk until the scope closes. */
export interface Opened {
  /** Everything that the manifest did up to this position is in the view; of what came later, what is here already. */
  readonly through: Position
  /** In no order. */
  readonly files: ReadonlyArray<Registered>
}

/** There is no view, or it is damaged: a query would miss rows. Worth asking again. */
export class Incomplete extends Schema.TaggedError<Incomplete>()("Incomplete", { reason: Schema.String }) {
  override get message(): string {
    return `this node can't show all files yet: ${this.reason}`
  }
}

export class View extends Context.Service<View, {
  /**
   * The shown files that are wanted, all at one instant. Fails `Incomplete` before there is a view, and when one of them
   * was lost or damaged on this disk and is pulled again.
   */
  readonly open: (
    wanted: (entry: FileEntry) => boolean
  ) => Effect.Effect<Opened, Incomplete | InventoryError, Scope.Scope>
  /** Where the view stands, `none` before there is one: now, then whenever it shows something else. */
  readonly changes: Stream.Stream<Option.Option<Position>>
  /** Waits until everything up to a position is shown. Another history's position is never reached. */
  readonly await: (at: Position) => Effect.Effect<void>
}>()("file-replication/View") {}

/** Files that are looked at together. */
const pageSize = 500

/** Before a manifest or an inventory that refused is asked again. */
const pause = Duration.seconds(1)

export const layer: Layer.Layer<View, never, Background | Inventory | Leases | Manifest | Readiness> = Layer.effect(
  View,
  Effect.gen(function*() {
    const inventory = yield* Inventory
    const leases = yield* Leases
    const manifest = yield* Manifest
    const background = yield* Background
    const readiness = yield* Readiness
    // One batch, or one look at what is here, at a time.
    const turn = yield* Semaphore.make(1)
    // Held while the view changes and while it is read, and for nothing else.
    const instant = yield* Semaphore.make(1)
    const position = yield* SubscriptionRef.make(Option.none<Position>())

    const shown = new Map<FilePath, Registered>()
    let waiting: ReadonlyArray<ViewChange> = []
    // Up to where the manifest was read; none before the first reading, and behind a change of its history.
    let read = Option.none<Cursor>()

    // -------------------------------------------------------------------------
    // Into the view
    // -------------------------------------------------------------------------

    /** Whether all that a change adds is here. What is here gets a lease, so that it still is when it is shown. */
    const isComplete = Effect.fnUntraced(function*({ add, missing }: ViewChange) {
      while (missing.size > 0) {
        const files = Array.from(missing.values().take(pageSize)).flatMap((path) => add.get(path) ?? [])
        const paths = files.map(({ entry }) => entry.path)
        // The lease before the look: what is verified behind it can't be unlinked any more.
        const locals = yield* Effect.onError(
          Effect.andThen(leases.take(paths), inventory.look(paths)),
          () => leases.release(paths)
        )
        const here = new Set(files.flatMap(({ entry }, n) => isVerified(locals[n]?.row, entry) ? [entry.path] : []))
        yield* leases.release(paths.filter((path) => !here.has(path)))
        for (const path of here) missing.delete(path)
        if (here.size < paths.length) return false
      }
      return true
    })

    /** Shows whatever is complete, oldest first. */
    const advance = turn.withPermit(Effect.gen(function*() {
      for (const change of waiting) {
        if (yield* isComplete(change)) {
          waiting = waiting.filter((each) => each !== change)
          yield* instant.withPermit(Effect.suspend(() => leases.release(show(shown, change))))
        } else if (change.whole) break
      }
      // Before everything that there was is here, there is nothing to stand at.
      if (waiting.some(({ whole }) => whole) || Option.isNone(read)) return
      const { epoch, revision } = read.value
      yield* SubscriptionRef.set(
        position,
        Option.some({ epoch, revision: Revision.make(shownThrough(revision, waiting)) })
      )
    }))

    // -------------------------------------------------------------------------
    // Out of the manifest
    // -------------------------------------------------------------------------

    /** Reads the whole manifest, as it stood at a position behind the reading of its last page. */
    const begin = Effect.gen(function*() {
      const { at, pages } = yield* manifest.snapshot(pageSize)
      const files = new Map<FilePath, Registered>()
      yield* Stream.runForEach(pages, (page) =>
        Effect.sync(() => {
          for (const file of page) files.set(file.entry.path, file)
        }))
      // A page shows what its files were when it was read; up to here the events tell of all that too.
      const head = yield* manifest.head
      const behind = at.revision >= head.revision ? [] : yield* manifest.events(at).pipe(
        Stream.takeUntil(({ cursor }) => cursor.revision >= head.revision),
        Stream.runCollect
      )
      for (const batch of behind) {
        const { add, remove } = changeOf(batch)
        for (const path of remove) files.delete(path)
        for (const [path, file] of add) files.set(path, file)
      }
      yield* turn.withPermit(Effect.suspend(() => {
        const dropped = waiting.flatMap(({ add, missing }) => [...add.keys()].filter((path) => !missing.has(path)))
        waiting = [wholeOf(files)]
        read = Option.some(behind.at(-1)?.cursor ?? at)
        return leases.release(dropped)
      }))
      yield* advance
    })

    const take = Effect.fnUntraced(function*(batch: EventBatch) {
      yield* turn.withPermit(Effect.suspend(() => {
        const queued = enqueue(waiting, changeOf(batch))
        waiting = queued.waiting
        read = Option.some(batch.cursor)
        return leases.release(queued.dropped)
      }))
      yield* advance
    })

    const follow = Effect.gen(function*() {
      if (Option.isNone(read)) yield* begin
      if (Option.isSome(read)) yield* Stream.runForEach(manifest.events(read.value), take)
    }).pipe(
      Effect.tapErrorTag("CursorLost", () => Effect.sync(() => (read = Option.none())))
    )

    const again = (error: CursorLost | InventoryError | Unavailable) =>
      Effect.andThen(Effect.logWarning(`the view pauses: ${error.message}`), Effect.sleep(pause))

    // What the inventory believes of this disk is not known to be true before it was compared.
    const checked = readiness.changes.pipe(
      Stream.filter((status) => status.checked),
      Stream.take(1),
      Stream.runDrain,
      Effect.tapError(again),
      Effect.eventually
    )
    yield* background.run(
      "the view's follower",
      Effect.andThen(checked, follow.pipe(Effect.catch(again), Effect.forever))
    )
    yield* background.run(
      "the view",
      Stream.runForEach(inventory.changes, () => advance).pipe(Effect.catch(again), Effect.forever)
    )

    // -------------------------------------------------------------------------
    // Out of the view
    // -------------------------------------------------------------------------

    const open = Effect.fn("View.open")(function*(wanted: (entry: FileEntry) => boolean) {
      const standing = yield* SubscriptionRef.get(position)
      if (Option.isNone(standing)) {
        return yield* new Incomplete({ reason: "not everything that there was at its start is here" })
      }
      const { files } = yield* Effect.acquireRelease(
        instant.withPermit(Effect.suspend(() => {
          const files = Array.from(shown.values()).filter(({ entry }) => wanted(entry))
          const paths = files.map(({ entry }) => entry.path)
          return Effect.as(leases.take(paths), { files, paths })
        })),
        ({ paths }) => leases.release(paths)
      )
      // The common case: nothing is owed, so nothing that is shown was lost.
      const { owed } = yield* inventory.progress
      if (owed.files > 0) {
        const locals = yield* inventory.look(files.map(({ entry }) => entry.path))
        const lost = files.find(({ entry }, n) => {
          const row = locals[n]?.row
          return row?._tag !== "Unlinking" && !isVerified(row, entry)
        })
        if (lost !== undefined) {
          return yield* new Incomplete({ reason: `${lost.entry.path} was lost on this disk and is pulled again` })
        }
      }
      return { through: standing.value, files } satisfies Opened
    })

    return {
      open,
      changes: SubscriptionRef.changes(position),
      await: (at) =>
        SubscriptionRef.changes(position).pipe(
          Stream.filter(Option.exists(({ epoch, revision }) => epoch === at.epoch && revision >= at.revision)),
          Stream.take(1),
          Stream.runDrain
        )
    }
  })
)
