/** The limits of whole nodes, changed while they run. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect } from "effect"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { RateLimits } from "../../src/peer/RateLimits.ts"
import { temporaryFolder } from "../support/folder.ts"
import { dataOf, publish, start, untilComplete } from "../support/realNode.ts"
import { allBytes } from "./support/doubles.ts"

describe("a node's limits", () => {
  // At the limits that they start with this would take more than a minute.
  it.live("hold for its own client and server, and end as soon as they are lifted", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* start(folder, "writer", { maxServeBytesPerSecond: 65_536 })
      const reader = yield* start(folder, "reader", { maxPullBytesPerSecond: 65_536 })
      const bytes = allBytes(6 << 20)
      yield* publish(writer, "db/m/a.parquet", bytes)
      const waiting = yield* untilComplete(reader).pipe(Effect.timeoutOption(1500))
      assert.isTrue(waiting._tag === "None")
      yield* Context.get(reader, RateLimits).pull.set(0)
      const served = yield* untilComplete(reader).pipe(Effect.timeoutOption(1500))
      assert.isTrue(served._tag === "None")
      yield* Context.get(writer, RateLimits).serve.set(0)
      yield* untilComplete(reader)
      assert.isTrue(readFileSync(join(dataOf(folder, "reader"), "db/m/a.parquet")).equals(bytes))
    }), 30_000)
})
