/** Who is sent to others for a file, to whom, and when it may come again. */
import { assert, describe, it } from "@effect/vitest"
import * as Takers from "../../src/peer/Takers.ts"
import { type FileEntry } from "../../src/ports/FileEntry.ts"
import { entryOf, sha256Of } from "./support/doubles.ts"

const MiB = 1 << 20
const file = entryOf("db/large", MiB)

/** A memory, and whoever takes a file from it; `undefined` where it is served. */
const makeNode = () => {
  const takers = Takers.make()
  const take = (node: string, options: {
    readonly now?: number
    readonly canWait?: boolean
    readonly notAt?: ReadonlyArray<string>
    readonly entry?: FileEntry
    readonly offset?: number
    readonly length?: number
  } = {}) => {
    const { canWait = true, entry = file, notAt = [], now = 0, offset = 0, length = entry.size_bytes - offset } =
      options
    return takers.take({ node_id: node, can_wait: canWait, not_at: notAt }, { entry, offset, length }, now)
  }
  const serve = (...given: Parameters<typeof take>) => {
    const answer = take(...given)
    if ("holders" in answer) throw new Error(`${given[0]} is not served`)
    return answer
  }
  const crowd = (...given: Parameters<typeof take>) => {
    const answer = take(...given)
    return "holders" in answer ? answer : undefined
  }
  return { serve, crowd }
}

describe("Takers", () => {
  it("sends a file to two, and others elsewhere while it goes to them, but for whoever can't wait", () => {
    const { crowd, serve } = makeNode()
    serve("a")
    serve("b")
    assert.deepStrictEqual(crowd("c")?.holders, [])
    // Neither is it in the way of itself.
    serve("a")
    serve("d", { canWait: false })
    assert.isDefined(crowd("c"))
  })

  it("says when the first of them should have it, by what it took so far", () => {
    const { crowd, serve } = makeNode()
    const a = serve("a")
    serve("b")
    assert.strictEqual(crowd("c", { now: 50 })?.retryAfterMillis, 100)
    a.sent(MiB / 4)
    assert.strictEqual(crowd("c", { now: 100 })?.retryAfterMillis, 50 + 300)
    assert.strictEqual(crowd("c", { now: 4000 })?.retryAfterMillis, 2000)
  })

  it("waits for no takers that are far too slow, once that is known of all of them", () => {
    const { crowd, serve } = makeNode()
    const a = serve("a")
    serve("b")
    a.sent(5000 * 64 - 1)
    assert.isDefined(crowd("c", { now: 4999 }))
    serve("c", { now: 5000 })
    // That one may be quicker.
    assert.isDefined(crowd("d", { now: 5000 }))
    serve("d", { now: 10_000 }).ended(true, 10_001)
    assert.deepStrictEqual(crowd("e", { now: 60_000 })?.holders, ["d"])
    const other = makeNode()
    for (const node of ["a", "b"]) other.serve(node).sent(5000 * 64)
    assert.isDefined(other.crowd("c", { now: 5000 }))
  })

  it("names those that have taken all of it, for ten minutes, and then sends it again", () => {
    const { crowd, serve } = makeNode()
    const a = serve("a")
    const b = serve("b")
    a.ended(true, 10)
    assert.deepStrictEqual(crowd("c", { now: 10 }), { holders: ["a"], retryAfterMillis: 100 })
    b.ended(true, 20)
    assert.deepStrictEqual(crowd("c", { now: 600_009 })?.holders, ["a", "b"])
    serve("c", { now: 600_010 })
  })

  it("forgets them when the clock was set back", () => {
    const { crowd, serve } = makeNode()
    for (const node of ["a", "b"]) serve(node, { now: 1000 }).ended(true, 1000)
    assert.isDefined(crowd("c", { now: 1000 }))
    serve("c", { now: 999 })
  })

  it("forgets those that were cut short, and names nobody that took a part only", () => {
    const { crowd, serve } = makeNode()
    const longer = entryOf("db/longer", 2 * MiB)
    const [a, b] = [serve("a", { entry: longer }), serve("b", { entry: longer })]
    a.ended(false, 0)
    serve("c", { entry: longer, length: MiB }).ended(true, 0)
    const d = serve("d", { entry: longer, offset: MiB })
    d.ended(true, 0)
    assert.deepStrictEqual(crowd("e", { entry: longer })?.holders, ["d"])
    b.ended(false, 0)
    serve("e", { entry: longer })
  })

  it("counts nobody that asks for little, and refuses it to nobody", () => {
    const { crowd, serve } = makeNode()
    for (const node of ["a", "b", "c"]) serve(node, { canWait: false, offset: MiB - 1 }).ended(true, 0)
    for (const node of ["d", "e"]) serve(node)
    assert.deepStrictEqual(crowd("f")?.holders, [])
    serve("f", { offset: 1 })
  })

  it("keeps the latest of two bodies for one node", () => {
    const { crowd, serve } = makeNode()
    const first = serve("a")
    const second = serve("a")
    serve("b")
    first.ended(false, 0)
    assert.deepStrictEqual(crowd("c")?.holders, [])
    second.ended(true, 0)
    assert.deepStrictEqual(crowd("c")?.holders, ["a"])
  })

  it("forgets of those that have it whoever is said not to be reached, and nobody who gets it now", () => {
    const { crowd, serve } = makeNode()
    for (const node of ["a", "b"]) serve(node).ended(true, 0)
    assert.isDefined(crowd("c", { notAt: ["nobody"] }))
    serve("c", { notAt: ["a", "b"] })
    serve("d", { notAt: ["a", "b", "c"] })
    assert.isDefined(crowd("e", { notAt: ["a", "b", "c", "d"] }))
  })

  it("has nothing to say of small files, of other files, and of what was under the name before", () => {
    const { crowd, serve } = makeNode()
    const small = entryOf("db/small", MiB - 1)
    for (const node of ["a", "b", "c"]) serve(node, { entry: small })
    for (const node of ["a", "b"]) serve(node)
    serve("c", { entry: { ...file, path: entryOf("db/other", 1).path } })
    serve("c", { entry: { ...file, sha256: sha256Of(2) } })
    assert.isUndefined(crowd("d", { entry: { ...file, sha256: sha256Of(2) } }))
  })

  it("knows no more than so many files, and names no more than so many nodes", () => {
    const { crowd, serve } = makeNode()
    const nth = (n: number): FileEntry => ({ ...file, path: entryOf(`db/${n}`, 1).path })
    for (const node of ["a", "b"]) serve(node, { entry: nth(0) })
    for (let n = 1; n < 4096; n++) serve("a", { entry: nth(n) })
    assert.isDefined(crowd("c", { entry: nth(0) }))
    // Asking for it made it the latest.
    for (let n = 4096; n < 8192; n++) serve("a", { entry: nth(n) })
    serve("c", { entry: nth(0) })

    for (let n = 0; n < 100; n++) serve(`node-${n}`, { canWait: false }).ended(true, 0)
    assert.deepStrictEqual(crowd("c")?.holders, [92, 93, 94, 95, 96, 97, 98, 99].map((n) => `node-${n}`))
  })
})
