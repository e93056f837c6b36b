/**
 * A change in the making: what its parts meet, in what was read of the manifest and in each other, and what is to be
 * written if nothing of what was read has changed. Pure.
 */
import type { Compare } from "../etcd/messages.ts"
import { type FileEntry, type Registered, type Revision, sameBytes } from "../ports/FileEntry.ts"
import { type FilePath, folders } from "../ports/FilePath.ts"
import { Conflict, Gone } from "../ports/Manifest.ts"
import type { Keys, StandingFile, Tombstone } from "./etcdKeys.ts"

/** What was read, of every path that the change can meet. */
export interface View {
  readonly head: Revision
  readonly file: (path: string) => StandingFile | undefined
  readonly tombstone: (path: string) => Tombstone | undefined
  /** Files below a path, in their order: one more of them than the change removes there, if there are as many. */
  readonly below: (path: string) => ReadonlyArray<StandingFile>
}

export interface Removal {
  readonly path: FilePath
  readonly reason: string
}

/** What is written, in the order of its events. */
export type Write =
  | { readonly _tag: "Add"; readonly entry: FileEntry }
  | { readonly _tag: "Bury"; readonly removal: Removal; readonly buried: StandingFile | undefined }

/** `Added` and `Buried`: as the change is made. Anything else stands already. */
export type Addition =
  | { readonly _tag: "Added" }
  | { readonly _tag: "Standing"; readonly file: Registered }
  | Conflict
  | Gone
export type Burial = { readonly _tag: "Buried" } | { readonly _tag: "Standing"; readonly revision: Revision }

export interface Draft {
  readonly add: (entry: FileEntry) => Addition
  readonly bury: (removal: Removal) => Burial
  readonly writes: ReadonlyArray<Write>
  /** What must still hold when it is written; `undefined` when that is more than a comparison of keys can say. */
  readonly guards: () => ReadonlyArray<Compare> | undefined
}

export const makeDraft = (view: View, keys: Keys): Draft => {
  const writes: Array<Write> = []
  const added = new Map<string, FileEntry>()
  const addedBelow = new Map<string, FileEntry>()
  const buried = new Map<string, string>()
  const guards = new Map<string, Compare>()
  let beyondGuards = false

  const unchanged = (key: string, revision: number) =>
    guards.set(key, { key, target: "MOD", result: "EQUAL", value: revision })

  const standing = (path: string): StandingFile | undefined => (buried.has(path) ? undefined : view.file(path))

  /** The file in whose way a new path stands: one of the path's folders, or one below the path. */
  const inTheWay = (path: string): FileEntry | undefined => {
    for (const folder of folders(path)) {
      const file = added.get(folder) ?? standing(folder)?.entry
      if (file !== undefined) return file
    }
    return view.below(path).find(({ entry }) => !buried.has(entry.path))?.entry ?? addedBelow.get(path)
  }

  const guard = (path: string): void => {
    unchanged(keys.file(path), view.file(path)?.revision ?? 0)
    unchanged(keys.tombstone(path), view.tombstone(path)?.revision ?? 0)
    for (const folder of folders(path)) unchanged(keys.file(folder), view.file(folder)?.revision ?? 0)
    if (view.below(path).length > 0) beyondGuards = true
    const below = { key: keys.file(`${path}/`), rangeEnd: keys.file(`${path}0`) }
    guards.set(below.key, { ...below, target: "CREATE", result: "EQUAL", value: 0 })
  }

  return {
    writes,
    guards: () => (beyondGuards ? undefined : [...guards.values()]),
    add: (entry) => {
      const { path } = entry
      const reason = buried.get(path) ?? view.tombstone(path)?.reason
      if (reason !== undefined) return new Gone({ path, reason })
      const own = added.get(path)
      if (own !== undefined) {
        return sameBytes(own, entry) ? { _tag: "Added" } : new Conflict({ path, kind: "OtherBytes", standing: own })
      }
      const file = standing(path)
      if (file !== undefined) {
        if (!sameBytes(file.entry, entry)) return new Conflict({ path, kind: "OtherBytes", standing: file.entry })
        unchanged(keys.file(path), file.revision)
        return { _tag: "Standing", file: { entry: file.entry, revision: file.revision } }
      }
      const other = inTheWay(path)
      if (other !== undefined) return new Conflict({ path, kind: "FolderAndFile", standing: other })
      guard(path)
      added.set(path, entry)
      for (const folder of folders(path)) if (!addedBelow.has(folder)) addedBelow.set(folder, entry)
      writes.push({ _tag: "Add", entry })
      return { _tag: "Added" }
    },
    bury: (removal) => {
      const { path, reason } = removal
      const tombstone = view.tombstone(path)
      if (tombstone !== undefined) return { _tag: "Standing", revision: tombstone.revision }
      if (buried.has(path)) return { _tag: "Buried" }
      const file = view.file(path)
      unchanged(keys.file(path), file?.revision ?? 0)
      unchanged(keys.tombstone(path), 0)
      buried.set(path, reason)
      writes.push({ _tag: "Bury", removal, buried: file })
      return { _tag: "Buried" }
    }
  }
}
