/**
 * Tells the other members how far this node holds everything, verified. From it comes how many copies a file has, and
 * when a tombstone is needed by nobody any more.
 */
import { Duration, Effect, Layer, Option, Stream } from "effect"
import { Inventory } from "../ports/Inventory.ts"
import { Membership, Watermark } from "../ports/Membership.ts"
import { Background } from "./Background.ts"
import { CatchUp } from "./CatchUp.ts"
import { LocalCheck } from "./LocalCheck.ts"

/** Between two looks at what the inventory does not tell of, and between two publications. */
const interval = Duration.millis(500)

/** Before a membership or an inventory that failed is asked again. */
const pause = Duration.seconds(5)

export const layer: Layer.Layer<never, never, Background | CatchUp | Inventory | LocalCheck | Membership> = Layer
  .effectDiscard(Effect.gen(function*() {
    const inventory = yield* Inventory
    const membership = yield* Membership
    const background = yield* Background
    const localCheck = yield* LocalCheck
    const catchUp = yield* CatchUp

    // An inventory from before this start is only believed once it was compared with the disk and with the manifest.
    // The check is asked before the inventory: what it finds lost is owed before it says that it has ended.
    const current = Effect.gen(function*() {
      const checked = yield* localCheck.checked
      const confirmed = yield* catchUp.confirmed
      const { cursor, verifiedThrough } = yield* inventory.progress
      return checked && confirmed
        ? Option.map(cursor, (at) => Watermark.make({ through: verifiedThrough, at }))
        : Option.none()
    })

    let told: Option.Option<Watermark> | undefined
    const tell = Effect.gen(function*() {
      const watermark = yield* current
      if (told !== undefined && same(told, watermark)) return
      // Whether it arrives is not known when it fails: it is told again.
      told = undefined
      yield* membership.publish(watermark)
      told = watermark
    })

    yield* background.run(
      "the publication of what is held",
      Stream.merge(inventory.changes, Stream.tick(interval)).pipe(
        Stream.buffer({ capacity: 1, strategy: "sliding" }),
        // What changes while one is told is told together.
        Stream.runForEach(() => Effect.andThen(tell, Effect.sleep(interval))),
        Effect.catchTag(["InventoryError", "MembershipError"], (error) => Effect.logWarning(error.message)),
        Effect.andThen(Effect.sleep(pause)),
        Effect.forever
      )
    )
  }))

const same = Option.makeEquivalence<Watermark>((a, b) =>
  a.through === b.through && a.at.epoch === b.at.epoch && a.at.revision === b.at.revision && a.at.mark === b.at.mark
)
