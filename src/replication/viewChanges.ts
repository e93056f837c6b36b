/**
 * Changes of the manifest on their way into a view. Each is shown at once or not at all, when all the files that it
 * adds are here; one that waits holds up no other, unless they touch the same path: then they are shown together.
 */
import { type Registered, Revision } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import type { EventBatch } from "../ports/Manifest.ts"

export interface ViewChange {
  /** Its first revision; 0 for a whole manifest. */
  readonly first: Revision
  /** Whether it says all that there is, so that everything else goes. */
  readonly whole: boolean
  readonly add: Map<FilePath, Registered>
  readonly remove: Set<FilePath>
  /** Of what it adds, what is not known to be here yet. */
  readonly missing: Set<FilePath>
}

/** What one batch of events does, its own contradictions settled. */
export const changeOf = ({ cursor, events }: EventBatch): ViewChange => {
  const add = new Map<FilePath, Registered>()
  const remove = new Set<FilePath>()
  let first = cursor.revision
  for (const event of events) {
    if (event._tag === "Put") {
      add.set(event.file.entry.path, event.file)
      if (event.file.revision < first) first = event.file.revision
    } else {
      add.delete(event.path)
      remove.add(event.path)
      if (event.revision < first) first = event.revision
    }
  }
  return { first, whole: false, add, remove, missing: new Set(add.keys()) }
}

/** The whole manifest as one change. */
export const wholeOf = (files: Map<FilePath, Registered>): ViewChange => ({
  first: Revision.make(0),
  whole: true,
  add: files,
  remove: new Set(),
  missing: new Set(files.keys())
})

const touch = (a: ViewChange, b: ViewChange): boolean => {
  for (const path of b.remove) if (a.add.has(path) || a.remove.has(path)) return true
  for (const path of b.add.keys()) if (a.add.has(path) || a.remove.has(path)) return true
  return false
}

/**
 * Puts a newer change behind those that wait, together with every one that touches a path of it. `dropped`: files that
 * were known to be here and are never shown, because the newer change takes them back.
 */
export const enqueue = (waiting: ReadonlyArray<ViewChange>, next: ViewChange): {
  readonly waiting: ReadonlyArray<ViewChange>
  readonly dropped: ReadonlyArray<FilePath>
} => {
  const [into, ...others] = waiting.filter((each) => touch(each, next))
  if (into === undefined) return { waiting: [...waiting, next], dropped: [] }
  const dropped: Array<FilePath> = []
  for (const newer of [...others, next]) {
    for (const path of [...newer.remove, ...newer.add.keys()]) {
      if (into.add.delete(path) && !into.missing.delete(path)) dropped.push(path)
    }
    for (const path of newer.remove) into.remove.add(path)
    for (const [path, file] of newer.add) into.add.set(path, file)
    for (const path of newer.missing) into.missing.add(path)
  }
  return { waiting: waiting.filter((each) => !others.includes(each)), dropped }
}

/**
 * Shows a change whose files are all here. Gives the files that are shown no more, and those that are shown anew in
 * place of themselves.
 */
export const show = (shown: Map<FilePath, Registered>, change: ViewChange): ReadonlyArray<FilePath> => {
  const gone: Array<FilePath> = []
  for (const path of change.whole ? Array.from(shown.keys()) : change.remove) if (shown.delete(path)) gone.push(path)
  for (const [path, file] of change.add) {
    if (shown.has(path)) gone.push(path)
    shown.set(path, file)
  }
  return gone
}

/** Everything up to here is shown: the position that was read to, less what still waits. */
export const shownThrough = (read: Revision, waiting: ReadonlyArray<ViewChange>): number =>
  waiting.reduce<number>((least, { first }) => Math.min(least, Math.max(0, first - 1)), read)
