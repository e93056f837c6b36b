import { assert, describe, it } from "@effect/vitest"
import {
  type Bytes,
  noTotals,
  onForget,
  onOwe,
  onRelease,
  onSettle,
  recount,
  type Standing,
  verifiedThrough
} from "../../src/inventory/transition.ts"

const revisions = [1, 2, 3]
const contents: ReadonlyArray<Bytes> = [{ sha256: "a", size: 1 }, { sha256: "b", size: 1 }, { sha256: "a", size: 2 }]

const standings: ReadonlyArray<Standing> = [
  { _tag: "Absent" },
  ...revisions.flatMap((revision): Array<Standing> => [
    { _tag: "Unlinking", revision },
    ...contents.flatMap((bytes): Array<Standing> => [
      { _tag: "Owed", revision, bytes },
      { _tag: "Verified", revision, bytes }
    ])
  ])
]
const pendings = [undefined, ...contents]
const same = (a: Bytes | undefined, b: Bytes) => a !== undefined && a.sha256 === b.sha256 && a.size === b.size

const afterOwe = (standing: Standing, revision: number, bytes: Bytes): Standing => {
  const outcome = onOwe(standing, revision, bytes)._tag
  if (outcome === "Owe") return { _tag: "Owed", revision, bytes }
  return outcome === "Renew" && (standing._tag === "Owed" || standing._tag === "Verified")
    ? { ...standing, revision }
    : standing
}

// The whole space is small: every state, every change, every revision below, at and above.
describe("transition", () => {
  it("does nothing the second time that the same debt comes", () => {
    for (const standing of standings) {
      for (const revision of revisions) {
        for (const bytes of contents) {
          assert.strictEqual(onOwe(afterOwe(standing, revision, bytes), revision, bytes)._tag, "Keep")
        }
      }
    }
  })

  it("never leaves a file verified whose bytes are not those last asked for", () => {
    for (const standing of standings) {
      for (const revision of revisions) {
        for (const bytes of contents) {
          const after = afterOwe(standing, revision, bytes)
          if (after._tag === "Verified") assert.isTrue(same(after.bytes, bytes))
        }
      }
    }
  })

  it("never takes a verified file back into debt for the same bytes", () => {
    for (const revision of revisions) {
      for (const other of revisions) {
        for (const bytes of contents) {
          assert.strictEqual(afterOwe({ _tag: "Verified", revision, bytes }, other, bytes)._tag, "Verified")
        }
      }
    }
  })

  it("unlinks whatever is not newer than the deletion, once", () => {
    for (const standing of standings) {
      for (const revision of revisions) {
        for (const pending of [false, true]) {
          const { _tag } = onForget(standing, pending, revision)
          if (standing._tag === "Absent") assert.strictEqual(_tag, pending ? "Unlink" : "Keep")
          else if (standing.revision > revision) assert.strictEqual(_tag, "Keep")
          else if (standing._tag === "Unlinking") {
            assert.strictEqual(_tag, standing.revision < revision ? "Unlink" : "Keep")
          } else assert.strictEqual(_tag, "Unlink")
        }
        assert.strictEqual(onForget({ _tag: "Unlinking", revision }, true, revision)._tag, "Keep")
      }
    }
  })

  it("settles only bytes that were hashed, and that are owed, verified or pending", () => {
    for (const standing of standings) {
      for (const pending of pendings) {
        for (const revision of revisions) {
          for (const bytes of contents) {
            for (const held of contents) {
              const { _tag } = onSettle(standing, pending, { revision, bytes }, held)
              if (_tag === "Refuse") continue
              assert.isTrue(same(bytes, held))
              const known = standing._tag === "Owed" || standing._tag === "Verified" ? standing.bytes : undefined
              assert.isTrue(same(known, held) || same(pending, held))
              if (_tag === "Confirm") assert.isTrue(same(known, held))
            }
          }
        }
      }
    }
  })

  it("never settles after a deletion at or above the file's revision", () => {
    for (const deleted of revisions) {
      for (const revision of revisions.filter((each) => each <= deleted)) {
        for (const pending of pendings) {
          for (const bytes of contents) {
            const settled = onSettle({ _tag: "Unlinking", revision: deleted }, pending, { revision, bytes }, bytes)
            assert.strictEqual(settled._tag, "Refuse")
          }
        }
      }
    }
  })

  it("always settles what is owed at its very revision", () => {
    for (const revision of revisions) {
      for (const bytes of contents) {
        for (const pending of pendings) {
          const settled = onSettle({ _tag: "Owed", revision, bytes }, pending, { revision, bytes }, bytes)
          assert.strictEqual(settled._tag, "Confirm")
        }
      }
    }
  })

  it("releases only what an earlier history owed", () => {
    for (const standing of standings) {
      assert.isFalse(onRelease(standing))
      const earlier = standing._tag === "Absent" ? standing : { ...standing, revision: 0 }
      assert.strictEqual(onRelease(earlier), standing._tag === "Owed")
    }
  })

  it("lets every change of this history through to a row of an earlier one", () => {
    for (const standing of standings) {
      if (standing._tag === "Absent") continue
      const earlier = { ...standing, revision: 0 }
      for (const revision of revisions) {
        assert.strictEqual(onForget(earlier, false, revision)._tag, "Unlink")
        for (const bytes of contents) assert.notStrictEqual(onOwe(earlier, revision, bytes)._tag, "Keep")
      }
    }
  })

  it("comes back to nothing counted when every row that came goes", () => {
    let totals = noTotals
    let before: Standing = { _tag: "Absent" }
    for (const next of [...standings, ...standings.toReversed(), before]) {
      totals = recount(totals, before, next)
      const all = totals.owedFiles + totals.verifiedFiles + totals.unlinking
      assert.strictEqual(all, next._tag === "Absent" ? 0 : 1)
      before = next
    }
    assert.deepStrictEqual(totals, noTotals)
  })

  it("says how far everything is here", () => {
    assert.strictEqual(verifiedThrough(undefined, undefined), 0)
    assert.strictEqual(verifiedThrough(undefined, 5), 0)
    assert.strictEqual(verifiedThrough(9, undefined), 9)
    assert.strictEqual(verifiedThrough(9, 5), 4)
    assert.strictEqual(verifiedThrough(3, 5), 3)
    assert.strictEqual(verifiedThrough(3, 0), 0)
  })
})
