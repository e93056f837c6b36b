/**
 * On which nodes a file is, verified.
 *
 * A member vouches for every file up to its watermark. One whose watermark does not reach the file, because something
 * older is still owed there, is asked for the file itself: a node sends only what it holds, verified.
 */
import { Context, Effect, Layer, Option, Result, Schedule, Schema } from "effect"
import { FetchClient } from "../ports/FetchClient.ts"
import { type FileEntry, NodeId, type Registered, Revision, sameBytes } from "../ports/FileEntry.ts"
import { Inventory, type InventoryError } from "../ports/Inventory.ts"
import { Manifest } from "../ports/Manifest.ts"
import { type Address, type Member, Membership, type MembershipError } from "../ports/Membership.ts"

/** What is known of a file on one node. */
export const Sighting = Schema.Struct({
  node: NodeId,
  /**
   * `Held`: it has the file. `Absent`: it has said that it does not. `Silent`: it did not answer. `Away`: it is not
   * alive, can't be reached or is about to leave, and was not asked; whatever it has does not count.
   */
  kind: Schema.Literals(["Held", "Absent", "Silent", "Away"]),
  /** What follows the node's name in a sentence. */
  detail: Schema.String
})
export interface Sighting extends Schema.Schema.Type<typeof Sighting> {}

/** The members as they were at one moment, and what they vouch for. */
export interface Survey {
  /** The others that are alive, can be reached and stay. */
  readonly others: ReadonlyArray<NodeId>
  /** At least one of the others holds everything up to here. */
  readonly covered: Revision
  /** Where a file is: this node first, then each other member. */
  readonly find: (file: Registered) => Effect.Effect<ReadonlyArray<Sighting>, InventoryError>
}

export class Copies extends Context.Service<Copies, {
  readonly survey: Effect.Effect<Survey, MembershipError>
  /** Where a file is, as its survey's `find` says. */
  readonly find: (file: Registered) => Effect.Effect<ReadonlyArray<Sighting>, InventoryError | MembershipError>
  /** Waits until this many nodes hold a file, this one included. */
  readonly await: (
    file: Registered,
    copies: number
  ) => Effect.Effect<ReadonlyArray<Sighting>, InventoryError | MembershipError>
}>()("file-replication/Copies") {}

/** Pure: where a member can be asked, or why it can't be. */
const reachable = ({ address, alive }: Member): Result.Result<Address, string> =>
  alive
    ? Result.fromOption(address, () => "has not said where it listens and was not asked")
    : Result.fail("gives no sign of life and was not asked")

/** Pure: why a member's copies don't count; `undefined` when they do. */
export const absence = (member: Member): string | undefined => {
  const where = reachable(member)
  if (Result.isFailure(where)) return where.failure
  return member.draining ? "is about to leave: its copy does not count" : undefined
}

/** Pure: how many nodes hold the file. */
export const held = (sightings: ReadonlyArray<Sighting>): number =>
  sightings.filter(({ kind }) => kind === "Held").length

/** Asks a peer for the last byte of the file: it sends one only of a file that it holds, verified. */
export const askPeer = Effect.fnUntraced(function*(
  member: Member,
  entry: FileEntry
): Effect.fn.Return<Sighting, never, FetchClient> {
  const { id } = member
  const sighting = (kind: Sighting["kind"], detail: string): Sighting => ({ node: id, kind, detail })
  const where = reachable(member)
  if (Result.isFailure(where)) return sighting("Away", where.failure)
  const client = yield* FetchClient
  const last = Math.max(0, entry.size_bytes - 1)
  return yield* client.fetch({ id, address: where.success }, entry, last, { write: () => Effect.void }).pipe(
    Effect.as(sighting("Held", "has it")),
    Effect.catchTags({
      FileNotOnPeer: ({ code }) =>
        Effect.succeed(
          sighting("Absent", code === "manifest" ? "does not find it in the manifest" : "holds no verified copy")
        ),
      ChecksumMismatch: () => Effect.succeed(sighting("Absent", "has other bytes in its manifest"))
    }),
    Effect.catch((error) => Effect.succeed(sighting("Silent", error.message)))
  )
})

const nothing = Revision.make(0)

/** Members that are asked at once. */
const askedAtOnce = 8

/** Between two looks at members that do not hold a file yet. */
const looks = Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("1 second")])

/** Looks again and again until this many nodes hold a file. */
export const until = <E, R>(
  find: Effect.Effect<ReadonlyArray<Sighting>, E, R>,
  copies: number
): Effect.Effect<ReadonlyArray<Sighting>, E, R> =>
  Effect.repeat(find, { until: (sightings) => held(sightings) >= copies, schedule: looks })

export const layer: Layer.Layer<Copies, never, FetchClient | Inventory | Manifest | Membership> = Layer.effect(
  Copies,
  Effect.gen(function*() {
    const inventory = yield* Inventory
    const manifest = yield* Manifest
    const { members, self } = yield* Membership
    const client = yield* FetchClient

    /** A watermark of another history says nothing of this one; one that can't be placed says nothing either. */
    const reach = (member: Member): Effect.Effect<Revision> => {
      const { watermark } = member
      if (absence(member) !== undefined || Option.isNone(watermark)) return Effect.succeed(nothing)
      return manifest.lost(watermark.value.at).pipe(
        Effect.map((lost) => (Option.isNone(lost) ? watermark.value.through : nothing)),
        Effect.orElseSucceed(() => nothing)
      )
    }

    const own = Effect.fnUntraced(function*({ entry }: Registered, draining: boolean) {
      const verified = yield* inventory.verified(entry.path)
      if (draining) return { node: self.id, kind: "Away", detail: "this node is about to leave" } satisfies Sighting
      return Option.exists(verified, ({ file }) => sameBytes(file.entry, entry))
        ? { node: self.id, kind: "Held", detail: "has it, this node" } satisfies Sighting
        : { node: self.id, kind: "Absent", detail: "holds no verified copy, this node" } satisfies Sighting
    })

    const survey = Effect.gen(function*() {
      const known = yield* members
      const draining = known.some(({ draining, id }) => id === self.id && draining)
      const others = yield* Effect.forEach(
        known.filter(({ id }) => id !== self.id),
        (member) => Effect.map(reach(member), (through) => ({ member, why: absence(member), through })),
        { concurrency: askedAtOnce }
      )
      return {
        others: others.filter(({ why }) => why === undefined).map(({ member }) => member.id),
        covered: others.reduce((most, { through }) => (through > most ? through : most), nothing),
        find: Effect.fnUntraced(function*(file: Registered) {
          const sightings = yield* Effect.forEach(others, ({ member, through, why }): Effect.Effect<Sighting> => {
            if (why !== undefined) return Effect.succeed({ node: member.id, kind: "Away", detail: why })
            // A revision of 0 is of no history: nobody can vouch for it.
            return file.revision > 0 && through >= file.revision
              ? Effect.succeed({ node: member.id, kind: "Held", detail: "has it" })
              : Effect.provideService(askPeer(member, file.entry), FetchClient, client)
          }, { concurrency: askedAtOnce })
          return [yield* own(file, draining), ...sightings]
        })
      } satisfies Survey
    })

    const find = (file: Registered) => Effect.flatMap(survey, ({ find }) => find(file))

    return { survey, find, await: (file, copies) => until(find(file), copies) }
  })
)
