import { assert, describe, it } from "@effect/vitest"
import { Effect, Random } from "effect"
import { type Registered, Revision } from "../../src/ports/FileEntry.ts"
import type { FilePath } from "../../src/ports/FilePath.ts"
import type { ManifestEvent } from "../../src/ports/Manifest.ts"
import { changeOf, enqueue, show, shownThrough, type ViewChange, wholeOf } from "../../src/replication/viewChanges.ts"
import { fileOf } from "./node.ts"

const runs = 300

/** A manifest of files that hold numbered rows: some bring new rows, a merge brings those of the files it removes. */
const makeHistory = () => {
  const standing = new Map<FilePath, { readonly file: Registered; readonly rows: ReadonlyArray<number> }>()
  const rowsOf = new Map<FilePath, ReadonlyArray<number>>()
  let revision = 0
  let rows = 0

  const batch = (events: ReadonlyArray<ManifestEvent>) =>
    changeOf({ cursor: { epoch: "e", revision: Revision.make(revision), mark: "m" }, events })

  const put = (kept: ReadonlyArray<number>): ManifestEvent => {
    const file = fileOf(`f/${++revision}`, revision)
    standing.set(file.entry.path, { file, rows: kept })
    rowsOf.set(file.entry.path, kept)
    return { _tag: "Put", file }
  }

  return {
    standing,
    rowsOf,
    head: () => Revision.make(revision),
    write: () => batch([put([++rows])]),
    merge: (paths: ReadonlyArray<FilePath>) => {
      const kept = paths.flatMap((path) => standing.get(path)?.rows ?? [])
      const removed = paths.map((path): ManifestEvent => {
        standing.delete(path)
        return { _tag: "Removed", path, revision: Revision.make(++revision), reason: "merged" }
      })
      return batch([...removed, put(kept)])
    }
  }
}

describe("the changes of a view", () => {
  it.effect("leave no gap and count nothing twice, in whatever order files are written, merged and arrive", () =>
    Effect.forEach(Array.from({ length: runs }, (_, run) => run), (run) =>
      Effect.gen(function*() {
        const history = makeHistory()
        const shown = new Map<FilePath, Registered>()
        const here = new Set<FilePath>()
        let waiting: ReadonlyArray<ViewChange> = []
        let before = new Set<number>()

        const advance = () => {
          for (const change of waiting) {
            for (const path of change.missing) if (here.has(path)) change.missing.delete(path)
            if (change.missing.size === 0) {
              show(shown, change)
              waiting = waiting.filter((each) => each !== change)
            } else if (change.whole) break
            const rows = Array.from(shown.keys()).flatMap((path) => history.rowsOf.get(path) ?? [])
            const now = new Set(rows)
            assert.strictEqual(now.size, rows.length, `run ${run} counts a row twice`)
            assert.isTrue(before.isSubsetOf(now), `run ${run} has a gap`)
            before = now
          }
        }

        const step = Effect.gen(function*() {
          const dice = yield* Random.nextIntBetween(0, 10)
          const paths = Array.from(history.standing.keys())
          if (dice < 4) waiting = enqueue(waiting, history.write()).waiting
          else if (dice < 6 && paths.length > 1) {
            const chosen = (yield* Random.shuffle(paths)).slice(0, yield* Random.nextIntBetween(1, 5))
            waiting = enqueue(waiting, history.merge(chosen)).waiting
          } else if (paths.length > 0) here.add((yield* Random.shuffle(paths))[0] ?? assert.fail("there is one"))
          advance()
        })

        for (let n = 0; n < 5; n++) history.write()
        waiting = [wholeOf(new Map(Array.from(history.standing, ([path, { file }]) => [path, file])))]
        for (let n = 0; n < 40; n++) yield* step
        // What is removed never arrives any more; the rest does.
        for (const path of history.standing.keys()) here.add(path)
        advance()
        assert.deepStrictEqual(waiting, [])
        assert.deepStrictEqual(Array.from(shown.keys()).sort(), Array.from(history.standing.keys()).sort())
      }).pipe(Random.withSeed(`${run}`)), { discard: true }))

  it("are shown through the position before the first that waits", () => {
    const history = makeHistory()
    const first = history.write()
    assert.strictEqual(shownThrough(history.head(), []), 1)
    const [path] = history.standing.keys()
    assert(path !== undefined)
    const merge = history.merge([path])
    history.write()
    assert.strictEqual(shownThrough(history.head(), [merge]), 1)
    assert.strictEqual(shownThrough(history.head(), enqueue([first], merge).waiting), 0)
  })
})
