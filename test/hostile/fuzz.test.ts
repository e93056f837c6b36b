/** Many inputs that are almost right. A failure prints its seed and its input; `npm run fuzz` makes far more. */
import { describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { makeRandom } from "./random.ts"
import { fuzzServer } from "./server.ts"
import { fuzz, targets } from "./targets.ts"

const seed = Number(process.env["FUZZ_SEED"] ?? 20_261_124)

const counts: Record<string, number> = { frame: 45_000, message: 12_000, path: 42_200 }

describe("any input", () => {
  for (const target of targets) {
    it(`is harmless to the ${target.name} rules (seed ${seed})`, () => {
      fuzz(target, makeRandom(seed), seed, counts[target.name] ?? 0)
    })
  }

  it.live(`is harmless to a server (seed ${seed})`, () => Effect.suspend(() => fuzzServer(makeRandom(seed), seed, 800)))
})
