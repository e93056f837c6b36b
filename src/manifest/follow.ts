/** What every engine that is read by pages has in common: its stream of events, its snapshot. */
import { Effect, Option, Stream } from "effect"
import type { Bell } from "../internal/Bell.ts"
import type { FilePath } from "../ports/FilePath.ts"
import type { Cursor, EventBatch, Page } from "../ports/Manifest.ts"

/**
 * The most events of one batch, except that a change is never split. A batch may hold several changes: whoever keeps
 * them durably then pays for one transaction, not for hundreds.
 */
export const batchLimit = 500

/** The most files of one page, so that reading it never holds up the event loop for long. */
export const pageLimit = 5000

export const boundedPage = (limit: number): number => Math.max(1, Math.min(pageLimit, Math.floor(limit) || 1))

/** Reads batch after batch, and waits for the bell when there is none. */
export const follow = <E>(
  bell: Bell,
  after: Cursor,
  read: (after: Cursor) => Effect.Effect<Option.Option<EventBatch>, E>
): Stream.Stream<EventBatch, E> =>
  Stream.unfold(
    after,
    Effect.fnUntraced(function*(cursor: Cursor) {
      while (true) {
        const rung = yield* bell.next
        const batch = yield* read(cursor)
        if (Option.isSome(batch)) return [batch.value, batch.value.cursor] as const
        yield* rung
      }
    })
  )

/** All pages, one at a time. */
export const pages = <E>(
  page: (after: Option.Option<FilePath>) => Effect.Effect<Page, E>
): Stream.Stream<Page["files"], E> =>
  Stream.paginate(
    Option.none<FilePath>(),
    (after) => Effect.map(page(after), ({ files, next }) => [[files], Option.map(next, Option.some)] as const)
  ).pipe(Stream.filter((files) => files.length > 0))
