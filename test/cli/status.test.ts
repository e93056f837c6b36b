import { assert, describe, it } from "@effect/vitest"
import { Option } from "effect"
import { pulls } from "../../src/cli/status.ts"

describe("how pulling goes, in a line", () => {
  const going = { inFlight: 2, bytesPerSecond: 2048, eta: Option.some(8000), paused: [] }

  it("says how fast, and how long the rest takes", () => {
    assert.strictEqual(pulls(going), "2 in flight, 2.0 KiB/s, done in about 8s")
    assert.strictEqual(pulls({ ...going, eta: Option.none() }), "2 in flight, 2.0 KiB/s")
  })

  it("says neither while it pauses: what was fast a moment ago does not go on", () => {
    assert.strictEqual(pulls({ ...going, inFlight: 0, paused: ["disk"] }), "paused (disk), 0 in flight")
  })
})
