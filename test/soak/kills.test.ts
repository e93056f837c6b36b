import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { soak } from "./kills.ts"

const MiB = 1024 * 1024

it.live(
  "a reader that is killed with -9 in the middle of a catch-up ends with every file right, and sends little twice",
  () =>
    Effect.gen(function*() {
      const { figures, strangers } = yield* soak({ kills: 5, files: 30, largest: 4 * MiB, workers: 4, seed: 7 })
      // Each of 12 files may lose its first bytes, which stay in memory up to 256 KiB, or the rest of a step of 16 KiB; and
      // 64 KiB that were on their way. The mean of many kills is far below that; it is the soak's to hold.
      assert.isBelow(figures.sentTwicePerKill, 2 * MiB)
      assert.isAbove(figures.inBody, 0)
      assert.deepStrictEqual(strangers, [])
    }),
  120_000
)
