import { assert, describe, it } from "@effect/vitest"
import { beyond } from "../../src/backend/leftovers.ts"

const leftovers = [
  { name: "newest", size: 30, at: 3000 },
  { name: "oldest", size: 50, at: 1000 },
  { name: "older", size: 10, at: 2000 }
]
const gone = (maxBytes: number, maxAgeMillis: number) =>
  beyond(leftovers, { maxBytes, maxAgeMillis }, 3500).map(({ name }) => name)

describe("what is left over", () => {
  it("stays while it is young and fits", () => assert.deepStrictEqual(gone(90, 2500), []))
  it("goes when it is too old, whatever room there is", () => assert.deepStrictEqual(gone(1000, 1500), ["oldest"]))
  it("goes oldest first until the rest fits", () => {
    assert.deepStrictEqual(gone(89, 9999), ["oldest"])
    assert.deepStrictEqual(gone(39, 9999), ["oldest", "older"])
    assert.deepStrictEqual(gone(0, 9999), ["oldest", "older", "newest"])
  })
  it("counts what is too old as gone before it looks for room", () =>
    assert.deepStrictEqual(gone(40, 1500), ["oldest"]))
})
