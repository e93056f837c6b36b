/**
 * Tells the other members through which revision this node holds everything, verified. From it comes how many copies a
 * file has, and when a tombstone is needed by nobody any more.
 */
import { Effect, Layer, Stream } from "effect"
import { Inventory } from "../ports/Inventory.ts"
import { Membership } from "../ports/Membership.ts"
import { Background } from "./Background.ts"

export const layer: Layer.Layer<never, never, Background | Inventory | Membership> = Layer.effectDiscard(
  Effect.gen(function*() {
    const inventory = yield* Inventory
    const membership = yield* Membership
    const background = yield* Background
    yield* background.run(
      "the publication of what is held",
      inventory.changes.pipe(
        Stream.map(({ verifiedThrough }) => verifiedThrough),
        Stream.changes,
        // What changes while one is told is told together.
        Stream.runForEach((revision) => Effect.andThen(membership.publish(revision), Effect.sleep("500 millis"))),
        Effect.catchTag(["InventoryError", "MembershipError"], (error) => Effect.logWarning(error.message)),
        Effect.andThen(Effect.sleep("5 seconds")),
        Effect.forever
      )
    )
  })
)
