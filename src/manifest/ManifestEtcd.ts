/**
 * The manifest in etcd: the engine for nodes of several machines. It stands as long as a majority of etcd's members do.
 *
 * `etcdKeys.ts` says how it lies there, `etcdWrites.ts` how it is changed, `etcdEvents.ts` how it is followed.
 */
import { Context, Effect, Layer, Option, Result, type Scope, Stream } from "effect"
import { EtcdClient, type MemberStatus } from "../etcd/EtcdClient.ts"
import { EtcdError } from "../etcd/EtcdError.ts"
import type { Operation, RangeAnswer } from "../etcd/messages.ts"
import { type FileEntry, type Registered, Revision } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import {
  type Conflict,
  type Cursor,
  EntryRefused,
  type Gone,
  Manifest,
  ManifestCollector,
  ManifestHealth,
  type Refusal,
  type Replacement,
  Unavailable
} from "../ports/Manifest.ts"
import { makeCollect } from "./etcdCollect.ts"
import type { Addition, Draft } from "./etcdDraft.ts"
import { epochOf, makeEvents } from "./etcdEvents.ts"
import { type Damaged, fileOf, keysOf } from "./etcdKeys.ts"
import { makePages } from "./etcdPages.ts"
import * as Writes from "./etcdWrites.ts"
import { boundedPage, pages } from "./follow.ts"
import { askInForm, keptReason, replacementInForm } from "./form.ts"
import { groupCommit, type Registration } from "./groupCommit.ts"

export interface Options {
  /** Whose keys these are: several manifests may share one etcd. */
  readonly namespace: string
}

const isInvalid = (error: Damaged | EtcdError | Unavailable): error is EtcdError =>
  error._tag === "EtcdError" && error.reason === "Invalid"

/** Whether asking again is in vain, as far as the entries asked for go; whatever concerns all others is not of these. */
const isForGood = (error: Damaged | EtcdError | Unavailable): error is Damaged | EtcdError =>
  error._tag === "Damaged" || isInvalid(error)

/** The most registrations of one caller that wait for a commit together. */
const commitLimit = 500

export const layer = (
  options: Options
): Layer.Layer<Manifest | ManifestCollector | ManifestHealth, never, EtcdClient> => Layer.effectContext(make(options))

const unavailable =
  (operation: string) =>
  <A>(self: Effect.Effect<A, Damaged | EtcdError | Unavailable>): Effect.Effect<A, Unavailable> =>
    Effect.mapError(
      self,
      (error) => error._tag === "Unavailable" ? error : new Unavailable({ operation, detail: error.message })
    )

const make = Effect.fnUntraced(function*(
  options: Options
): Effect.fn.Return<Context.Context<Manifest | ManifestCollector | ManifestHealth>, never, EtcdClient | Scope.Scope> {
  const client = yield* EtcdClient
  const keys = keysOf(options.namespace)
  const writes = Writes.make(client, keys)
  const { events, standing } = makeEvents(client, keys)
  const readPage = makePages(client, keys)

  /** Few enough entries for one change; each has an answer of its own. */
  const registerChange = Effect.fnUntraced(function*(entries: ReadonlyArray<FileEntry>) {
    const { answer, revision } = yield* writes.change({ add: entries, remove: [] }, (draft) => ({
      answer: entries.map((entry) => ({ entry, addition: draft.add(entry) })),
      write: true
    }))
    return answer.map(({ addition, entry }) => registrationOf(addition, entry, revision))
  })

  /** When etcd answers, and will not have it as it is, the half that is to blame is looked for, down to one entry. */
  const registerSome = (entries: ReadonlyArray<FileEntry>): ReturnType<typeof registerChange> =>
    Effect.catchIf(registerChange(entries), isForGood, (error) => {
      const [entry] = entries
      if (entries.length > 1) {
        const middle = Math.ceil(entries.length / 2)
        return Effect.map(
          Effect.forEach([entries.slice(0, middle), entries.slice(middle)], registerSome),
          (halves) => halves.flat()
        )
      }
      return Effect.succeed(
        entry === undefined ? [] : [new EntryRefused({ path: entry.path, detail: error.message })]
      )
    })

  const commit = (entries: ReadonlyArray<FileEntry>): Effect.Effect<ReadonlyArray<Registration>, Unavailable> =>
    Effect.forEach(Writes.inChanges(entries), registerSome).pipe(
      Effect.map((answers) => answers.flat()),
      unavailable("register")
    )
  const register = yield* groupCommit(commit, commitLimit)

  /** Gives the revision behind the whole change, or why nothing of it was made. */
  const replace = Effect.fnUntraced(function*({ add, remove }: Replacement) {
    const { answer, revision } = yield* writes.change<Revision | Refusal | undefined>(
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

  const check = (add: ReadonlyArray<FileEntry>) =>
    writes.draft({ add, remove: [] }).pipe(unavailable("check"), Effect.map((draft) => refusals(draft, add)))

  const together = Effect.fnUntraced(function*(add: ReadonlyArray<FileEntry>) {
    const { answer, written } = yield* writes.long({ add, remove: [] }, (draft) => {
      const refused = refusals(draft, add)
      return { answer: refused, write: refused.every((refusal) => refusal === undefined) }
    }).pipe(unavailable("registerTogether"))
    const refusal = written === 0 ? undefined : answer.find((refusal) => refusal !== undefined)
    if (refusal === undefined) return answer
    return yield* new Unavailable({
      operation: "registerTogether",
      detail: `another writer came between, when ${written} of ${add.length} files were registered already: `
        + `${refusal.message}; the same list again says what is in its way now`
    })
  })

  /** In one request, which takes a third of the time that one for each would. */
  const getSome = Effect.fnUntraced(function*(paths: ReadonlyArray<FilePath>) {
    const success = paths.map((path): Operation => ({ _tag: "Range", range: { key: keys.file(path) } }))
    const { responses } = yield* client.txn({ success })
    return yield* Effect.forEach(paths, (path, n): Effect.Effect<Option.Option<Registered>, Damaged | Unavailable> => {
      const answer = responses[n]
      // Not as if it were gone: what is gone is deleted.
      return answer?._tag === "Range"
        ? fileIn(answer.range)
        : Effect.fail(new Unavailable({ operation: "get", detail: `etcd did not say whether it has ${path}` }))
    })
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
    register,
    registerAll: Effect.fn("Manifest.registerAll")((entries) => askInForm(entries, commit)),
    registerTogether: Effect.fn("Manifest.registerTogether")((entries) =>
      // With one that has no form nothing is registered; the others are answered all the same.
      askInForm(entries, (right) => right.length < entries.length ? check(right) : together(right))
    ),
    check: Effect.fn("Manifest.check")((entries) => askInForm(entries, check)),
    remove: Effect.fn("Manifest.remove")(function*(path, reason) {
      const answer = yield* replace({ add: [], remove: [{ path, reason: keptReason(reason) }] }).pipe(
        unavailable("remove")
      )
      return typeof answer === "number" ? answer : yield* Effect.die(answer)
    }),
    replace: Effect.fn("Manifest.replace")(function*(given) {
      const change = yield* replacementInForm(given)
      const answer = yield* replace(change).pipe(
        // What etcd calls too large now, it calls too large for ever.
        Effect.catchIf(isInvalid, (error): Effect.Effect<EntryRefused, EtcdError> => {
          const [first] = change.add
          return first === undefined
            ? Effect.fail(error)
            : Effect.succeed(new EntryRefused({ path: first.path, detail: error.message }))
        }),
        unavailable("replace")
      )
      return typeof answer === "number" ? answer : yield* answer
    }),
    get: (path) =>
      client.range({ key: keys.file(path) }).pipe(
        Effect.flatMap(fileIn),
        unavailable("get")
      ),
    getAll: (paths) =>
      Effect.forEach(Writes.pieces(paths, Writes.transactionLimit), getSome, { concurrency: Writes.readsAtOnce }).pipe(
        Effect.map((answers) => answers.flat()),
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
          ["Damaged", "EtcdError"],
          (error) => Stream.fail(new Unavailable({ operation: "events", detail: error.message }))
        )
      )
  })
  const health = ManifestHealth.of({ complaints: Effect.map(client.status, complaintsOf) })
  return Context.make(Manifest, manifest).pipe(
    Context.add(ManifestCollector, collector),
    Context.add(ManifestHealth, health)
  )
})

/** Of members that are gone, and of the alarms that the others have raised, such as no space. */
const complaintsOf = (members: ReadonlyArray<MemberStatus | EtcdError>): ReadonlyArray<string> => {
  const gone = members.flatMap((one) => one instanceof EtcdError && one.reason === "Unreachable" ? [one.endpoint] : [])
  const alarms = new Set(members.flatMap((one) => one instanceof EtcdError ? [] : one.errors))
  return [
    ...(gone.length === 0 ? [] : [`${gone.length} of ${members.length} members of etcd do not answer: ${gone.join()}`]),
    ...[...alarms].map((alarm) => `etcd raises an alarm: ${alarm}`)
  ]
}

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

/** The file under a key that was asked for; `none`: nothing stands there. */
const fileIn = ({ kvs: [kv] }: RangeAnswer): Effect.Effect<Option.Option<Registered>, Damaged> =>
  kv === undefined ? Effect.succeedNone : Effect.fromResult(
    Result.map(fileOf(kv), ({ entry, revision }) => Option.some({ entry, revision }))
  )
