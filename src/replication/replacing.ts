/**
 * Replacements of this node: files that take the place of others, all at once.
 *
 * One at a time. Before the manifest is asked everything is written down: the bytes, sealed; the whole replacement, as a
 * note in the inventory; and each new file as pending. A crash at any point leaves either nothing, or a note that the
 * next start carries out as it stands. So a part of a replacement is never registered by itself.
 */
import { Effect, Option, Result, Schema, Semaphore } from "effect"
import { Backend, type Staged } from "../ports/Backend.ts"
import { fromJson, type Registered, type Revision, sameBytes, toJson } from "../ports/FileEntry.ts"
import { FilePath } from "../ports/FilePath.ts"
import { Inventory, type Pending } from "../ports/Inventory.ts"
import { Gone, Manifest, type Replacement } from "../ports/Manifest.ts"
import { Membership } from "../ports/Membership.ts"
import * as Traces from "../telemetry/Traces.ts"
import { inManifest } from "./FileReport.ts"
import { Placement } from "./Placement.ts"
import { manifestAgain } from "./retry.ts"

/** What a replacement has done. */
export interface Replaced {
  /** Behind the whole change. */
  readonly revision: Revision
  /** The new files that stand; one that was deleted again meanwhile is left out. */
  readonly files: ReadonlyArray<Registered>
}

/** What is written down of a replacement. */
interface Plan {
  readonly add: ReadonlyArray<Pending>
  readonly remove: Replacement["remove"]
}

const noteName = "replacement"

/** An entry as its own text, because it may hold integers of 64 bits. */
const Note = Schema.fromJsonString(Schema.Struct({
  add: Schema.Array(Schema.Struct({ entry: Schema.String, token: Schema.String })),
  remove: Schema.Array(Schema.Struct({ path: FilePath, reason: Schema.String }))
}))

const readNote = (text: string): Result.Result<Plan, unknown> =>
  Result.gen(function*() {
    const { add, remove } = yield* Schema.decodeResult(Note)(text)
    const entries = yield* Result.all(add.map(({ entry }) => fromJson(entry)))
    return { add: entries.map((entry, n) => ({ entry, token: add[n]?.token ?? "" })), remove }
  })

const writeNote = ({ add, remove }: Plan) =>
  Effect.orDie(
    Schema.encodeEffect(Note)({
      add: add.map(({ entry, token }) => ({ entry: toJson(entry), token })),
      remove
    })
  )

const patiently = <A, E extends { readonly _tag: string }>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
  Effect.retry(effect, { schedule: manifestAgain, while: ({ _tag }) => _tag === "Unavailable" })

export const make = Effect.gen(function*() {
  const backend = yield* Backend
  const inventory = yield* Inventory
  const manifest = yield* Manifest
  const placement = yield* Placement
  const { self } = yield* Membership
  // The node's tracer, whoever replaces.
  const tracer = yield* Effect.tracer
  const permit = yield* Semaphore.make(1)

  let open = Option.none<Plan>()
  let known = false

  /** What is not finished yet, from an earlier process too. */
  const unfinished = Effect.gen(function*() {
    if (!known) {
      const text = yield* inventory.recall(noteName)
      open = Option.flatMap(text, (text) => Result.getSuccess(readNote(text)))
      known = true
    }
    return open
  })

  const writeDown = Effect.fnUntraced(function*(plan: Plan) {
    yield* inventory.remember(noteName, Option.some(yield* writeNote(plan)))
    open = Option.some(plan)
    yield* Effect.forEach(plan.add, inventory.pend, { discard: true })
  })

  const find = ({ entry, token }: Pending, given: Given) =>
    Effect.suspend(() => {
      const staged = given.get(entry.path)
      return staged === undefined ? backend.unseal(entry.path, token) : Effect.succeedSome(staged)
    })

  const drop = Effect.fnUntraced(function*(pending: Pending, given: Given) {
    yield* inventory.unpend(pending.entry.path)
    const staged = yield* find(pending, given)
    if (Option.isSome(staged)) yield* staged.value.discard
  }, Effect.scoped)

  /** Behind its files: as long as the note stands, none of them is finished by itself. */
  const strikeOut = Effect.gen(function*() {
    yield* inventory.remember(noteName, Option.none())
    open = Option.none()
  })

  /** A file that somebody else has replaced or deleted meanwhile can't be replaced again: its rows would count twice. */
  const check = Effect.fnUntraced(function*({ add, remove }: Plan) {
    const replaced = yield* Effect.forEach(remove, ({ path }) => manifest.get(path))
    const absent = remove[replaced.findIndex(Option.isNone)]
    if (absent === undefined) return
    // Unless it was this very replacement, and its answer was lost.
    const added = yield* Effect.forEach(add, ({ entry }) => manifest.get(entry.path))
    const done = add.every(({ entry }, n) =>
      Option.exists(added[n] ?? Option.none(), (file) => sameBytes(file.entry, entry))
    )
    if (done) return
    const { path } = absent
    const standing = yield* Effect.provideService(inManifest(path), Manifest, manifest)
    const reason = standing.state === "deleted" ? `it was deleted (${standing.reason})` : "it is not in the manifest"
    return yield* new Gone({ path, reason, replaced: true })
  })

  const show = Effect.fnUntraced(function*(pending: Pending, given: Given) {
    const { entry } = pending
    const file = yield* patiently(manifest.get(entry.path))
    if (Option.isNone(file) || !sameBytes(file.value.entry, entry)) return Option.none<Registered>()
    const staged = yield* find(pending, given)
    const placed = Option.isNone(staged)
      // It may have become visible just before a crash.
      ? yield* placement.adopt(file.value)
      : yield* placement.place(file.value, staged.value).pipe(
        Effect.asSome,
        // Damaged after it was hashed: it is in the manifest, and so owed; only another copy could help.
        Effect.catchTag("DigestMismatch", (error) => Effect.as(Effect.logError(error.message), Option.none()))
      )
    return Option.contains(placed, "Placed") ? file : Option.none<Registered>()
  }, (effect, { entry }) =>
    effect.pipe(
      Effect.scoped,
      Traces.sinceRegistration(
        "publish",
        entry,
        self.id,
        Option.match({
          onNone: () => ({ deleted: true }),
          onSome: ({ revision }: Registered) => ({ revision })
        })
      ),
      Effect.withTracer(tracer)
    ))

  /** From a note to visible files. */
  const carryOut = Effect.fnUntraced(function*(plan: Plan, given: Given) {
    const add = plan.add.map(({ entry }) => entry)
    const revision = yield* patiently(
      Effect.andThen(check(plan), manifest.replace({ add, remove: plan.remove }))
    ).pipe(
      Effect.tapErrorTag(["Conflict", "EntryRefused", "Gone", "TooLarge"], () =>
        Effect.andThen(
          Effect.forEach(plan.add, (pending) => drop(pending, given)),
          strikeOut
        ))
    )
    const files: Array<Registered> = []
    for (const pending of plan.add) {
      const file = yield* show(pending, given)
      if (Option.isSome(file)) files.push(file.value)
      else yield* drop(pending, given)
    }
    yield* strikeOut
    return { revision, files } satisfies Replaced
  })

  const finish = Effect.gen(function*() {
    const plan = yield* unfinished
    if (Option.isNone(plan)) return
    yield* writeDown(plan.value)
    yield* carryOut(plan.value, new Map())
  })

  return {
    /** What a start must keep of what is sealed. */
    tokens: Effect.map(
      unfinished,
      Option.match({ onNone: () => [], onSome: ({ add }) => add.map(({ token }) => token) })
    ),
    /** Whether a pending file is part of a replacement that is not finished: nobody else may finish it. */
    holds: (path: FilePath) =>
      Effect.map(unfinished, Option.exists(({ add }) => add.some(({ entry }) => entry.path === path))),
    /** Finishes what an earlier process, or an unreachable manifest, has left behind; nothing while another runs. */
    resume: permit.withPermitsIfAvailable(1)(finish),
    /** Replaces, behind what is not finished; `sealed` are the files' own bytes. */
    run: <E>(remove: Replacement["remove"], sealed: Effect.Effect<ReadonlyArray<Sealed>, E>) =>
      permit.withPermit(Effect.gen(function*() {
        // Whatever becomes of the older one, this one has its own answer.
        yield* finish.pipe(
          Effect.catchTag(["Conflict", "EntryRefused", "Gone", "TooLarge"], (error) => Effect.logWarning(error.message))
        )
        const files = yield* sealed
        const plan = { add: files.map(({ pending }) => pending), remove }
        yield* writeDown(plan)
        return yield* carryOut(plan, new Map(files.map(({ pending, staged }) => [pending.entry.path, staged])))
      }))
  }
})

/** Staged bytes that are in hand; others are found by their token. */
type Given = ReadonlyMap<FilePath, Staged>

/** A new file whose bytes are complete, and not visible yet. */
export interface Sealed {
  readonly pending: Pending
  readonly staged: Staged
}
