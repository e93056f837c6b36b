/**
 * Keeps `Inventory` in step with the manifest: a walk over a snapshot where there is no cursor to go on from, then
 * every event from there. Nothing else moves the cursor, and it moves in one transaction with the debts it brings.
 */
import { Clock, Duration, Effect, Layer, Option, Stream } from "effect"
import type { Registered } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { type Change, Inventory, type InventoryError, type Row } from "../ports/Inventory.ts"
import { type Cursor, type CursorLost, Manifest, type ManifestEvent, type Unavailable } from "../ports/Manifest.ts"
import { Membership } from "../ports/Membership.ts"
import { Background } from "./Background.ts"
import { decide } from "./decide.ts"
import { Puller } from "./Puller.ts"
import { Unlinker } from "./Unlinker.ts"

export interface CatchUpOptions {
  /** Between a delete event and the unlink, milliseconds. */
  readonly deleteGraceMillis: number
}

/** Entries that are looked at together in a walk. */
const pageSize = 500

/** Before a manifest or an inventory that refused is asked again. */
const pause = Duration.seconds(1)

export const layer = (
  options: CatchUpOptions
): Layer.Layer<never, never, Background | Inventory | Manifest | Membership | Puller | Unlinker> =>
  Layer.effectDiscard(Effect.gen(function*() {
    const inventory = yield* Inventory
    const manifest = yield* Manifest
    const puller = yield* Puller
    const unlinker = yield* Unlinker
    const background = yield* Background
    const { self } = yield* Membership

    const take = Effect.fnUntraced(function*(events: ReadonlyArray<ManifestEvent>, cursor?: Cursor) {
      const now = yield* Clock.currentTimeMillis
      const locals = yield* inventory.look(events.map(pathOf))
      const decisions = events.map((event, index) =>
        decide(event, locals[index] ?? { row: undefined, pending: undefined }, {
          self: self.id,
          now,
          deleteGraceMillis: options.deleteGraceMillis
        })
      )
      yield* inventory.apply(decisions.map(({ change }) => change), cursor)
      const owed: Array<Registered> = []
      for (const { _tag, change } of decisions) {
        if (_tag === "SkipSelf" || _tag === "SkipLocal") {
          yield* puller.skipped(_tag === "SkipSelf" ? "SkippedSelf" : "SkippedLocal")
        } else if (change._tag === "Owe") owed.push(change.file)
        else yield* puller.withdraw(change.path)
      }
      yield* puller.offer(owed)
      if (decisions.some(({ _tag }) => _tag === "Forget")) yield* unlinker.wake
    })

    /** What this node knows and the manifest does not. */
    const absent = Effect.fnUntraced(function*(rows: ReadonlyArray<Row>) {
      const known = yield* Effect.forEach(rows, (row) => manifest.get(pathOfRow(row)), { concurrency: 16 })
      return rows.filter((row, index) => row._tag !== "Unlinking" && Option.isNone(known[index] ?? Option.none()))
    })

    /**
     * Rows that the manifest no longer has were deleted while this node was away. In another history they are no
     * deletions: what is here stays, as an orphan that is reported; only what was merely owed is let go.
     */
    const sweep = Effect.fnUntraced(function*(at: Cursor, sameHistory: boolean) {
      let after = Option.none<FilePath>()
      let orphans = 0
      while (true) {
        const rows = yield* inventory.page(after, pageSize)
        const last = rows.at(-1)
        if (last === undefined) break
        after = Option.some(pathOfRow(last))
        const now = yield* Clock.currentTimeMillis
        const changes: Array<Change> = []
        for (const row of yield* absent(rows)) {
          if (row._tag === "Unlinking") continue
          if (row._tag === "Verified" && !sameHistory) orphans++
          else {
            const { entry, revision } = row.file
            const behind = revision > at.revision ? revision : at.revision
            changes.push({ _tag: "Forget", path: entry.path, revision: behind, due: now + options.deleteGraceMillis })
            yield* puller.withdraw(entry.path)
          }
        }
        if (changes.length > 0) yield* inventory.apply(changes)
      }
      if (orphans > 0) {
        yield* Effect.logWarning(`${orphans} files here are not in the manifest, which has another history; they stay`)
      }
      yield* unlinker.wake
    })

    const walk = Effect.fn("CatchUp.walk")(function*(known: Option.Option<Cursor>) {
      const snapshot = yield* manifest.snapshot(pageSize)
      yield* Stream.runForEach(
        snapshot.pages,
        (files) => take(files.map((file) => ({ _tag: "Put", file })))
      )
      if (Option.isSome(known)) yield* sweep(snapshot.at, known.value.epoch === snapshot.at.epoch)
      yield* inventory.apply([], snapshot.at)
      return snapshot.at
    })

    /** From wherever this node stands; ends only by failing. */
    const follow = Effect.gen(function*() {
      const { cursor } = yield* inventory.progress
      const from = Option.isSome(cursor) ? cursor.value : yield* walk(cursor)
      const events = (after: Cursor): Effect.Effect<void, CursorLost | InventoryError | Unavailable> =>
        Stream.runForEach(manifest.events(after), (batch) => take(batch.events, batch.cursor))
      yield* events(from).pipe(
        Effect.catchTag(
          "CursorLost",
          Effect.fnUntraced(function*(lost: CursorLost) {
            yield* Effect.logWarning(lost.message)
            const known = yield* inventory.progress
            yield* walk(known.cursor)
          })
        )
      )
    })

    yield* background.run(
      "the follower of the manifest",
      follow.pipe(
        Effect.catch((error) =>
          Effect.logWarning(`catching up pauses: ${error.message}`).pipe(Effect.andThen(Effect.sleep(pause)))
        ),
        Effect.forever
      )
    )
  }))

const pathOf = (event: ManifestEvent): FilePath => (event._tag === "Put" ? event.file.entry.path : event.path)
const pathOfRow = (row: Row): FilePath => (row._tag === "Unlinking" ? row.path : row.file.entry.path)
