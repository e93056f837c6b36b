/** Reading a manifest's events in tests. */
import { Effect, Stream } from "effect"
import { type Cursor, Manifest, type ManifestEvent } from "../../ports/Manifest.ts"

/** The state that a consumer of events holds after some of them. */
export const fold = (events: Iterable<ManifestEvent>): Map<string, string> => {
  const state = new Map<string, string>()
  for (const event of events) {
    if (event._tag === "Put") state.set(event.file.entry.path, `${event.file.entry.sha256}@${event.file.revision}`)
    else state.set(event.path, `${event.reason}@${event.revision}`)
  }
  return state
}

/** All events behind a cursor up to the head. */
export const eventsToHead = Effect.fnUntraced(function*(after: Cursor) {
  const manifest = yield* Manifest
  const head = yield* manifest.head
  if (head.revision === after.revision) return []
  const batches = yield* manifest.events(after).pipe(
    Stream.takeUntil(({ cursor }) => cursor.revision >= head.revision),
    Stream.runCollect
  )
  return batches.flatMap(({ events }) => events)
})
