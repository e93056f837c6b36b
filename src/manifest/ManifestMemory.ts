/** A manifest in memory, for tests: of one node, or shared by several nodes of one process. */
import { Effect, Layer, Option } from "effect"
import { randomUUID } from "node:crypto"
import * as Bell from "../internal/Bell.ts"
import { type FileEntry, type Registered, Revision, sameBytes } from "../ports/FileEntry.ts"
import { type FilePath, folders } from "../ports/FilePath.ts"
import {
  Conflict,
  type Cursor,
  CursorLost,
  type EventBatch,
  Gone,
  Manifest,
  type ManifestEvent,
  type Page,
  type Refusal,
  type Replacement,
  type TooLarge,
  Unavailable
} from "../ports/Manifest.ts"
import { batchLimit, boundedPage, follow, pages } from "./follow.ts"
import { askInForm, formRefusal, keptForm, keptReason, replacementInForm } from "./form.ts"

/** What befalls a real engine, at a test's word. */
export interface Control {
  /** Forgets the events up to now: a cursor below the head is `Compacted`. */
  readonly compact: Effect.Effect<void>
  /** The same files go on under another history. */
  readonly changeEpoch: Effect.Effect<void>
  /** Puts back a backup taken at `revision`: what came later never happened, the epoch stays as it is. */
  readonly restore: (revision: Revision) => Effect.Effect<void>
  /** From now on everything fails with this detail, open streams too; with `none` it works again. */
  readonly setUnavailable: (detail: Option.Option<string>) => Effect.Effect<void>
}

/** A manifest and its control. Several nodes share it by `Layer.succeed(Manifest, manifest)`. */
export const make: Effect.Effect<{ readonly manifest: Manifest["Service"]; readonly control: Control }> = Effect.sync(
  () => {
    const history = makeHistory()
    const bell = Bell.make()
    let down = Option.none<string>()

    const available = <A, E>(operation: string, body: () => Effect.Effect<A, E>): Effect.Effect<A, E | Unavailable> =>
      Effect.suspend((): Effect.Effect<A, E | Unavailable> =>
        Option.match(down, {
          onNone: body,
          onSome: (detail) => Effect.fail(new Unavailable({ operation, detail }))
        })
      )

    const register = (entry: FileEntry): Registered | Conflict | Gone => {
      const answer = history.add(entry)
      history.endChange()
      bell.ring()
      return answer
    }

    const replace = Effect.fnUntraced(function*(
      change: Replacement
    ): Effect.fn.Return<Revision, Refusal | TooLarge> {
      const { add, remove } = yield* replacementInForm(change)
      let revision = 0
      for (const { path, reason } of remove) revision = Math.max(revision, history.bury(path, reason))
      for (const entry of add) {
        const answer = history.add(entry)
        if (!("revision" in answer)) {
          history.takeBack()
          return yield* answer
        }
        revision = Math.max(revision, answer.revision)
      }
      history.endChange()
      bell.ring()
      return Revision.make(revision)
    })

    const refusals = (entries: ReadonlyArray<FileEntry>) =>
      entries.map((entry) => {
        const answer = history.add(entry)
        return "revision" in answer ? undefined : answer
      })

    const page = (after: Option.Option<FilePath>, limit: number) =>
      available("page", () => Effect.succeed(history.page(after, boundedPage(limit))))

    const head = available("head", () => Effect.succeed(history.cursorAt(history.head())))

    const touch = (body: () => void) =>
      Effect.sync(() => {
        body()
        bell.ring()
      })

    return {
      manifest: Manifest.of({
        register: (entry) =>
          available("register", () => {
            const answer = formRefusal(entry) ?? register(keptForm(entry))
            return "revision" in answer ? Effect.succeed(answer) : Effect.fail(answer)
          }),
        registerAll: (entries) =>
          available("registerAll", () => askInForm(entries, (right) => Effect.succeed(right.map(register)))),
        registerTogether: (entries) =>
          available("registerTogether", () =>
            askInForm(entries, (right) => {
              const refused = refusals(right)
              const all = right.length === entries.length && refused.every((refusal) => refusal === undefined)
              if (all) history.endChange()
              else history.takeBack()
              bell.ring()
              return Effect.succeed(refused)
            })),
        check: (entries) =>
          available("check", () =>
            askInForm(entries, (right) => {
              const refused = refusals(right)
              history.takeBack()
              return Effect.succeed(refused)
            })),
        remove: (path, reason) =>
          available("remove", () => {
            const revision = history.bury(path, keptReason(reason))
            history.endChange()
            bell.ring()
            return Effect.succeed(revision)
          }),
        replace: (change) => available("replace", () => replace(change)),
        get: (path) => available("get", () => Effect.succeed(history.standing(path))),
        page,
        head,
        snapshot: (pageSize) =>
          Effect.map(head, (at) => ({ at, pages: pages((after: Option.Option<FilePath>) => page(after, pageSize)) })),
        lost: (cursor) => available("lost", () => Effect.succeed(Option.fromUndefinedOr(history.lost(cursor)))),
        events: (after) =>
          follow(bell, after, (cursor) =>
            available("events", () => {
              const lost = history.lost(cursor)
              return lost === undefined
                ? Effect.succeed(history.batchBehind(cursor))
                : Effect.fail(new CursorLost({ reason: lost }))
            }))
      }),
      control: {
        compact: touch(history.compact),
        changeEpoch: touch(history.changeEpoch),
        restore: (revision) => touch(() => history.restore(revision)),
        setUnavailable: (detail) =>
          touch(() => {
            down = detail
          })
      }
    }
  }
)

/** A manifest of its own for each build. */
export const layer: Layer.Layer<Manifest> = Layer.effect(Manifest, Effect.map(make, ({ manifest }) => manifest))

/** One path's state: a file, or why and where it was removed. */
type State = Registered | { readonly reason: string; readonly revision: Revision }

/** One event; its revision is its place in the list, counted from 1. */
interface Row {
  readonly event: ManifestEvent
  readonly mark: string
}

const makeHistory = () => {
  let epoch: string = randomUUID()
  // Part of each mark, so that what comes after a backup was put back differs from what was there before.
  let generation = 0
  let compacted = 0
  let rows: Array<Row> = []
  // What the change under way has replaced so far.
  let open: Array<{ readonly path: FilePath; readonly before: State | undefined }> = []
  let ends = new Set<number>()
  let states = new Map<string, State>()
  let filesBelow = new Map<string, number>()
  let sorted: ReadonlyArray<Registered> | undefined

  const set = (path: string, state: State | undefined) => {
    const grown = Number(state !== undefined && "entry" in state) - Number(fileAt(path) !== undefined)
    for (const folder of folders(path)) filesBelow.set(folder, (filesBelow.get(folder) ?? 0) + grown)
    if (state === undefined) states.delete(path)
    else states.set(path, state)
    sorted = undefined
  }

  const apply = (event: ManifestEvent) =>
    event._tag === "Put" ? set(event.file.entry.path, event.file) : set(event.path, event)

  const append = (path: FilePath, event: ManifestEvent) => {
    open.push({ path, before: states.get(path) })
    rows.push({ event, mark: `${generation}.${rows.length + 1}` })
    apply(event)
  }

  const nextRevision = () => Revision.make(rows.length + 1)

  const fileAt = (path: string): Registered | undefined => {
    const state = states.get(path)
    return state !== undefined && "entry" in state ? state : undefined
  }

  const files = (): ReadonlyArray<Registered> =>
    sorted ??= [...states.values()]
      .flatMap((state) => "entry" in state ? [{ state, bytes: Buffer.from(state.entry.path) }] : [])
      .sort((a, b) => Buffer.compare(a.bytes, b.bytes))
      .map(({ state }) => state)

  const inTheWay = (path: string): Registered | undefined =>
    folders(path).map(fileAt).find((file) => file !== undefined)
      ?? ((filesBelow.get(path) ?? 0) > 0 ? files().find(({ entry }) => entry.path.startsWith(`${path}/`)) : undefined)

  const markAt = (revision: number): string | undefined => revision === 0 ? "" : rows[revision - 1]?.mark

  return {
    head: () => Revision.make(rows.length),

    cursorAt: (revision: Revision): Cursor => ({ epoch, revision, mark: markAt(revision) ?? "" }),

    add: (entry: FileEntry): Registered | Conflict | Gone => {
      const state = states.get(entry.path)
      if (state !== undefined) {
        if (!("entry" in state)) return new Gone({ path: entry.path, reason: state.reason })
        if (sameBytes(state.entry, entry)) return state
        return new Conflict({ path: entry.path, standing: state.entry, kind: "OtherBytes" })
      }
      const other = inTheWay(entry.path)
      if (other !== undefined) {
        return new Conflict({ path: entry.path, standing: other.entry, kind: "FolderAndFile" })
      }
      const file = { entry, revision: nextRevision() }
      append(entry.path, { _tag: "Put", file })
      return file
    },

    bury: (path: FilePath, reason: string): Revision => {
      const state = states.get(path)
      if (state !== undefined && !("entry" in state)) return state.revision
      const revision = nextRevision()
      append(path, { _tag: "Removed", path, revision, reason })
      return revision
    },

    endChange: () => {
      ends.add(rows.length)
      open = []
    },

    /** Undoes the change that has not ended yet. */
    takeBack: () => {
      for (const { before, path } of open.reverse()) {
        set(path, before)
        rows.pop()
      }
      open = []
    },

    restore: (revision: Revision) => {
      generation++
      rows = rows.slice(0, revision)
      ends = new Set([...ends].filter((end) => end <= revision))
      compacted = Math.min(compacted, revision)
      states = new Map()
      filesBelow = new Map()
      for (const { event } of rows) apply(event)
    },

    compact: () => {
      compacted = rows.length
    },

    changeEpoch: () => {
      epoch = randomUUID()
    },

    standing: (path: FilePath): Option.Option<Registered> => Option.fromUndefinedOr(fileAt(path)),

    page: (after: Option.Option<FilePath>, limit: number): Page => {
      const all = files()
      const bytes = Buffer.from(Option.getOrElse(after, () => ""))
      const found = all.findIndex(({ entry }) => Buffer.compare(Buffer.from(entry.path), bytes) > 0)
      const from = found === -1 ? all.length : found
      const shown = all.slice(from, from + limit)
      const last = from + limit < all.length ? shown.at(-1) : undefined
      return { files: shown, next: Option.fromUndefinedOr(last?.entry.path) }
    },

    lost: (cursor: Cursor): CursorLost["reason"] | undefined => {
      if (cursor.epoch !== epoch || cursor.mark !== markAt(cursor.revision)) return "EpochChanged"
      return cursor.revision < compacted ? "Compacted" : undefined
    },

    batchBehind: (cursor: Cursor): Option.Option<EventBatch> => {
      let end = Math.min(cursor.revision + batchLimit, rows.length)
      while (end < rows.length && !ends.has(end)) end++
      if (end === cursor.revision) return Option.none()
      return Option.some({
        cursor: { epoch, revision: Revision.make(end), mark: markAt(end) ?? "" },
        events: rows.slice(cursor.revision, end).map(({ event }) => event)
      })
    }
  }
}
