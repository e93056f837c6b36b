/**
 * The manifest in etcd: the engine for nodes of several machines. It stands as long as a majority of etcd's members do.
 *
 * `etcdKeys.ts` says how it lies there, `etcdWrites.ts` how it is changed, `etcdEvents.ts` how it is followed.
 */
import { Context, Effect, Layer, Option, Result, type Scope, Stream } from "effect"
import { EtcdClient } from "../etcd/EtcdClient.ts"
import type { EtcdError } from "../etcd/EtcdError.ts"
import type { KeyValue } from "../etcd/messages.ts"
import { type FileEntry, type Registered, Revision } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import {
  type Conflict,
  type Cursor,
  type Gone,
  Manifest,
  ManifestCollector,
  maxReplacement,
  type Replacement,
  TooLarge,
  Unavailable
} from "../ports/Manifest.ts"
import { makeCollect } from "./etcdCollect.ts"
import type { Addition, Draft } from "./etcdDraft.ts"
import { epochOf, makeEvents } from "./etcdEvents.ts"
import { fileOf, keysOf } from "./etcdKeys.ts"
import { makePages } from "./etcdPages.ts"
import * as Writes from "./etcdWrites.ts"
import { boundedPage, keptForm, pages } from "./follow.ts"
import { groupCommit, type Registration } from "./groupCommit.ts"

export interface Options {
  /** Whose keys these are: several manifests may share one etcd. */
  readonly namespace: string
}

/** The most registrations of one caller that wait for a commit together. */
const commitLimit = 500

export const layer = (options: Options): Layer.Layer<Manifest | ManifestCollector, never, EtcdClient> =>
  Layer.effectContext(make(options))

const unavailable =
  (operation: string) => <A>(self: Effect.Effect<A, EtcdError | Unavailable>): Effect.Effect<A, Unavailable> =>
    Effect.mapError(
      self,
      (error) => error._tag === "Unavailable" ? error : new Unavailable({ operation, detail: error.message })
    )

const make = Effect.fnUntraced(function*(
  options: Options
): Effect.fn.Return<Context.Context<Manifest | ManifestCollector>, never, EtcdClient | Scope.Scope> {
  const client = yield* EtcdClient
  const keys = keysOf(options.namespace)
  const writes = Writes.make(client, keys)
  const { events, standing } = makeEvents(client, keys)
  const readPage = makePages(client, keys)

  /** Few enough entries for one change; each has an answer of its own. */
  const registerSome = Effect.fnUntraced(function*(entries: ReadonlyArray<FileEntry>) {
    const { answer, revision } = yield* writes.change({ add: entries, remove: [] }, (draft) => ({
      answer: entries.map((entry) => ({ entry, addition: draft.add(entry) })),
      write: true
    }))
    return answer.map(({ addition, entry }) => registrationOf(addition, entry, revision))
  })

  const commit = (entries: ReadonlyArray<FileEntry>): Effect.Effect<ReadonlyArray<Registration>, Unavailable> =>
    Effect.forEach(Writes.inChanges(entries), registerSome).pipe(
      Effect.map((answers) => answers.flat()),
      unavailable("register")
    )
  const register = yield* groupCommit(commit, commitLimit)

  /** Gives the revision behind the whole change, or why nothing of it was made. */
  const replace = Effect.fnUntraced(function*({ add, remove }: Replacement) {
    const { answer, revision } = yield* writes.change<Revision | Conflict | Gone | undefined>(
      { add, remove },
      (draft) => {
        let stood = 0
        for (const removal of remove) {
          const burial = draft.bury(removal)
          if (burial._tag === "Standing") stood = Math.max(stood, burial.revision)
        }
        for (const entry of add) {
          const addition = draft.add(entry)
          if (addition._tag === "Conflict" || addition._tag === "Gone") return { answer: addition, write: false }
          if (addition._tag === "Standing") stood = Math.max(stood, addition.file.revision)
        }
        // When all of it stands already, the revision is behind what made it so.
        return { answer: draft.writes.length === 0 ? Revision.make(stood) : undefined, write: true }
      }
    )
    return answer ?? revision
  })

  const head = client.range({ key: keys.head }).pipe(
    Effect.map(({ header, kvs: [head] }): Cursor => ({
      epoch: epochOf(header),
      revision: Revision.make(head?.modRevision ?? 0),
      mark: head?.value.toString("utf8") ?? ""
    })),
    unavailable("head")
  )

  const page = (after: Option.Option<FilePath>, limit: number) =>
    readPage(after, boundedPage(limit)).pipe(unavailable("page"))

  const collect = makeCollect(client, keys)
  const collector = ManifestCollector.of({
    collect: (through, age) => collect(through, age).pipe(unavailable("collect"))
  })

  const manifest = Manifest.of({
    register: (entry) =>
      Effect.flatMap(
        register(keptForm(entry)),
        (answer) => "revision" in answer ? Effect.succeed(answer) : Effect.fail(answer)
      ),
    registerAll: Effect.fn("Manifest.registerAll")((entries) => commit(entries.map(keptForm))),
    registerTogether: Effect.fn("Manifest.registerTogether")(function*(entries) {
      const add = entries.map(keptForm)
      const { answer, written } = yield* writes.long({ add, remove: [] }, (draft) => {
        const refused = refusals(draft, add)
        return { answer: refused, write: refused.every((refusal) => refusal === undefined) }
      }).pipe(unavailable("registerTogether"))
      const refusal = written === 0 ? undefined : answer.find((refusal) => refusal !== undefined)
      if (refusal === undefined) return answer
      return yield* new Unavailable({
        operation: "registerTogether",
        detail: `another writer came between, when ${written} of ${entries.length} files were registered already: `
          + `${refusal.message}; the same list again says what is in its way now`
      })
    }),
    check: Effect.fn("Manifest.check")(function*(entries) {
      const add = entries.map(keptForm)
      return refusals(yield* writes.draft({ add, remove: [] }).pipe(unavailable("check")), add)
    }),
    remove: Effect.fn("Manifest.remove")(function*(path, reason) {
      const answer = yield* replace({ add: [], remove: [{ path, reason: reason.toWellFormed() }] }).pipe(
        unavailable("remove")
      )
      return typeof answer === "number" ? answer : yield* Effect.die(answer)
    }),
    replace: Effect.fn("Manifest.replace")(function*({ add, remove }) {
      const paths = add.length + remove.length
      if (paths > maxReplacement) return yield* new TooLarge({ paths, limit: maxReplacement })
      const answer = yield* replace({
        add: add.map(keptForm),
        remove: remove.map(({ path, reason }) => ({ path, reason: reason.toWellFormed() }))
      }).pipe(unavailable("replace"))
      return typeof answer === "number" ? answer : yield* answer
    }),
    get: (path) =>
      client.range({ key: keys.file(path) }).pipe(
        Effect.flatMap(({ kvs: [kv] }) => kv === undefined ? Effect.succeedNone : Effect.fromResult(standingOf(kv))),
        unavailable("get")
      ),
    page,
    head,
    snapshot: (pageSize) =>
      Effect.map(head, (at) => ({ at, pages: pages((after: Option.Option<FilePath>) => page(after, pageSize)) })),
    lost: (cursor) =>
      standing(cursor).pipe(
        Effect.map((answer) => answer._tag === "Lost" ? Option.some(answer.reason) : Option.none()),
        unavailable("lost")
      ),
    events: (after) =>
      events(after).pipe(
        Stream.catchTag(
          "EtcdError",
          (error) => Stream.fail(new Unavailable({ operation: "events", detail: error.message }))
        )
      )
  })
  return Context.make(Manifest, manifest).pipe(Context.add(ManifestCollector, collector))
})

const registrationOf = (addition: Addition, entry: FileEntry, revision: Revision): Registration => {
  if (addition._tag === "Added") return { entry, revision }
  return addition._tag === "Standing" ? addition.file : addition
}

/** What a list meets, in the manifest and in itself. */
const refusals = (draft: Draft, entries: ReadonlyArray<FileEntry>): ReadonlyArray<Conflict | Gone | undefined> =>
  entries.map((entry) => {
    const addition = draft.add(entry)
    return addition._tag === "Conflict" || addition._tag === "Gone" ? addition : undefined
  })

const standingOf = (kv: KeyValue) =>
  Result.map(fileOf(kv), ({ entry, revision }): Option.Option<Registered> => Option.some({ entry, revision }))
