/**
 * Drops the tombstones of the manifest from time to time: those that every known member has left behind, and any that
 * is very old. A member that was away longer than that learns of the deletions from a walk, unless it can't tell any
 * more that the manifest's history is its own: then what was deleted stays there as orphans, which are reported.
 *
 * Every node does it. That it was done already is no harm.
 */
import { Duration, Effect, Layer, Option, Random } from "effect"
import { Revision } from "../ports/FileEntry.ts"
import { Manifest, ManifestCollector } from "../ports/Manifest.ts"
import { type Member, Membership } from "../ports/Membership.ts"
import { Background } from "./Background.ts"

/** Between two times, jittered by a tenth. */
const interval = Duration.minutes(10)

/** A younger one stays: a registration that was sent before the deletion may still be on its way. */
const youngest = Duration.hours(1)

/** One that is older goes, whoever has not taken it. */
const oldest = Duration.hours(72)

/**
 * Pure: up to where no member needs a tombstone. One that says nothing, or something of another history, needs all.
 *
 * The tombstone at a member's own position stays: when that is the last change the member saw, and its events are no
 * longer kept, the tombstone is what tells the position from one of another history. Without it the member could unlink
 * nothing of what was deleted meanwhile.
 */
export const neededByNone = (
  members: ReadonlyArray<Member>,
  ofThisHistory: (member: Member) => boolean
): Revision =>
  members.map((member) =>
    Option.match(member.watermark, {
      onNone: () => Revision.make(0),
      onSome: ({ at }) => (ofThisHistory(member) ? at.revision : Revision.make(0))
    })
  ).map((taken) => Revision.make(Math.max(0, taken - 1)))
    .reduce((least, each) => (each < least ? each : least), Revision.make(Number.MAX_SAFE_INTEGER))

/** Does nothing for a manifest that ends its tombstones by itself. */
export const layer: Layer.Layer<never, never, Background | Manifest | Membership> = Layer.effectDiscard(
  Effect.gen(function*() {
    const collector = yield* Effect.serviceOption(ManifestCollector)
    if (Option.isNone(collector)) return
    const { collect } = collector.value
    const manifest = yield* Manifest
    const membership = yield* Membership
    const background = yield* Background

    const round = Effect.gen(function*() {
      const members = yield* membership.members
      const sameHistory = new Set<Member>()
      for (const member of members) {
        if (Option.isNone(member.watermark)) continue
        if (Option.isNone(yield* manifest.lost(member.watermark.value.at))) sameHistory.add(member)
      }
      const taken = yield* collect(neededByNone(members, (member) => sameHistory.has(member)), youngest)
      const { revision } = yield* manifest.head
      const old = yield* collect(revision, oldest)
      if (taken + old > 0) {
        yield* Effect.logInfo(
          `${taken + old} tombstones dropped: ${taken} that every member has left behind, ${old} of age`
        )
      }
    }).pipe(
      Effect.catchTag(
        ["MembershipError", "Unavailable"],
        (error) => Effect.logWarning(`no tombstones were dropped: ${error.message}`)
      )
    )

    const rest = Effect.flatMap(
      Random.nextBetween(0.9, 1.1),
      (factor) => Effect.sleep(Duration.times(interval, factor))
    )
    yield* background.run("the collection of tombstones", Effect.forever(Effect.andThen(rest, round)))
  })
)
