/**
 * A node that is about to leave says so: it is asked last, its copies count for nobody, and it stays until every file
 * that it holds is on another node too. Which are not is found out again and again, and told.
 *
 * It ends with the process: a node that starts again is like any other.
 */
import { Clock, Context, Duration, Effect, Layer, Option, Schema, Stream, SubscriptionRef } from "effect"
import { FilePath } from "../ports/FilePath.ts"
import { Inventory, type InventoryError } from "../ports/Inventory.ts"
import { Membership, type MembershipError } from "../ports/Membership.ts"
import { Background } from "./Background.ts"
import { Copies, held, type Survey } from "./Copies.ts"

/** A file that no other node holds. */
const Left = Schema.Struct({ path: FilePath, detail: Schema.String })

export const DrainStatus = Schema.Struct({
  /** `none`: this node does not drain. Milliseconds since 1970. */
  since: Schema.OptionFromNullOr(Schema.Int),
  /** When all files have last been looked at, milliseconds since 1970; `none` before the first time. */
  looked: Schema.OptionFromNullOr(Schema.Int),
  /** Files that this node held then. */
  files: Schema.Natural,
  /** How many of them no other node holds, as far as is known. */
  left: Schema.Natural,
  /** How many of these the manifest does not know: no node asks for them, so waiting is in vain. An older node says none. */
  orphans: Schema.Natural.pipe(Schema.withDecodingDefaultKey(Effect.succeed(0))),
  /** Some of these, and why. */
  examples: Schema.Array(Left),
  /** This node is not needed any more and can be stopped. */
  done: Schema.Boolean,
  /** Why the last look came to no end. */
  lastError: Schema.OptionFromNullOr(Schema.String)
}).pipe(
  Schema.encodeKeys({ since: "since_ms", looked: "looked_ms", lastError: "last_error" }),
  Schema.annotate({ identifier: "DrainStatus" })
)
export interface DrainStatus extends Schema.Schema.Type<typeof DrainStatus> {}

export class Drain extends Context.Service<Drain, {
  /** Tells the others, and begins to look for files that only this node holds. Fine when it drains already. */
  readonly start: Effect.Effect<void, MembershipError>
  /** This node stays after all. */
  readonly stop: Effect.Effect<void, MembershipError>
  readonly status: Effect.Effect<DrainStatus>
}>()("file-replication/Drain") {}

const idle: DrainStatus = {
  since: Option.none(),
  looked: Option.none(),
  files: 0,
  left: 0,
  orphans: 0,
  examples: [],
  done: false,
  lastError: Option.none()
}

/** Rows that are read together. */
const pageSize = 4000

/** Files that the others are asked for by name in one look; more than these are only counted. */
const askedFor = 1000

const askedAtOnce = 8
const named = 100

/** Between two looks, at least; longer when one takes long. */
const rest = 2000

/**
 * How old what is known of the others may be, milliseconds: another one that began to drain at the same moment is heard
 * of within it. Nothing is said to be done before, or two nodes that hold the last copies could both leave.
 */
const hearsay = 7000

export const layer: Layer.Layer<Drain, never, Background | Copies | Inventory | Membership> = Layer.effect(
  Drain,
  Effect.gen(function*() {
    const inventory = yield* Inventory
    const membership = yield* Membership
    const copies = yield* Copies
    const background = yield* Background
    const since = yield* SubscriptionRef.make(Option.none<number>())
    let status = idle

    // Files that another node was found to hold, by asking for them, while the others were these.
    let confirmed = new Set<FilePath>()
    let others = ""

    /** Why no other node holds a file; `undefined` when one does. */
    const lack = Effect.fnUntraced(function*({ find }: Survey, path: FilePath) {
      const row = yield* inventory.verified(path)
      // Deleted meanwhile.
      if (Option.isNone(row)) return undefined
      const [, ...elsewhere] = yield* find(row.value.file)
      if (held(elsewhere) > 0) return undefined
      return elsewhere.length === 0
        ? "there is no other member"
        : elsewhere.map(({ detail, node }) => `${node} ${detail}`).join("; ")
    })

    const look = Effect.fnUntraced(function*(since: number): Effect.fn.Return<
      Partial<DrainStatus>,
      InventoryError | MembershipError
    > {
      const began = yield* Clock.currentTimeMillis
      const survey = yield* copies.survey
      const now = survey.others.join(" ")
      if (now !== others) confirmed = new Set()
      others = now

      const alone: Array<FilePath> = []
      const strange: Array<FilePath> = []
      // A revision of 0 is of no history: no watermark says anything of it. Once the new history has been compared with
      // it, no peer does either, for none gives what the manifest does not know.
      const compared = Option.isSome((yield* inventory.progress).cursor)
      let files = 0
      let orphans = 0
      let more = 0
      let after = Option.none<FilePath>()
      while (true) {
        const page = yield* inventory.briefs(after, pageSize)
        for (const { path, revision, state } of page) {
          if (state !== "Verified") continue
          files++
          if (revision === 0 && compared) {
            orphans++
            if (strange.length < named) strange.push(path)
            continue
          }
          if ((revision > 0 && revision <= survey.covered) || confirmed.has(path)) continue
          if (alone.length < askedFor) alone.push(path)
          else more++
        }
        const last = page.at(-1)
        if (last === undefined) break
        after = Option.some(last.path)
      }

      const lacks = yield* Effect.forEach(alone, (path) => lack(survey, path), { concurrency: askedAtOnce })
      const examples: Array<typeof Left.Type> = []
      for (const [index, path] of alone.entries()) {
        const detail = lacks[index]
        if (detail === undefined) confirmed.add(path)
        else examples.push({ path, detail })
      }
      for (const { entry: { path } } of yield* inventory.pendings) {
        files++
        examples.push({ path, detail: "it is written and not registered yet" })
      }
      const left = examples.length + more + orphans
      for (const path of strange) examples.push({ path, detail: "it is not in the manifest" })
      return {
        looked: Option.some(yield* Clock.currentTimeMillis),
        files,
        left,
        orphans,
        examples: examples.slice(0, named),
        done: left === 0 && began - since >= hearsay,
        lastError: Option.none()
      }
    })

    const again = Effect.fnUntraced(function*(since: number) {
      const before = yield* Clock.currentTimeMillis
      const found = yield* look(since).pipe(
        Effect.catch(({ message }) =>
          Effect.succeed<Partial<DrainStatus>>({ done: false, lastError: Option.some(message) })
        )
      )
      status = { ...status, ...found }
      const took = (yield* Clock.currentTimeMillis) - before
      yield* Effect.sleep(Duration.millis(Math.max(rest, took * 5)))
    })

    yield* background.run(
      "the drain",
      SubscriptionRef.changes(since).pipe(
        Stream.switchMap((since) => Option.isNone(since) ? Stream.empty : Stream.fromEffectRepeat(again(since.value))),
        Stream.runDrain
      )
    )

    return {
      start: Effect.gen(function*() {
        yield* membership.drain(true)
        const now = yield* Clock.currentTimeMillis
        yield* SubscriptionRef.update(since, (before) => Option.orElse(before, () => Option.some(now)))
      }),
      stop: Effect.gen(function*() {
        yield* membership.drain(false)
        yield* SubscriptionRef.set(since, Option.none())
        status = idle
      }),
      status: Effect.map(SubscriptionRef.get(since), (since) => ({ ...status, since }))
    }
  })
)
