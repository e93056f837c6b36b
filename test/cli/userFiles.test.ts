/** Files that a user names, while somebody writes to them. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import { appendFileSync, truncateSync, utimesSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { openFile } from "../../src/cli/userFiles.ts"
import { temporaryFolder } from "../support/folder.ts"

const sizes = [0, 1, 5000, 1 << 20, 3_000_000]

/** How many bytes come of a file of some size, and the error behind them, when something is done to it at the first chance. */
const read = Effect.fnUntraced(function*(size: number, when: "opened" | "begun", change: (file: string) => void) {
  const file = join(yield* temporaryFolder, "file")
  writeFileSync(file, Buffer.alloc(size, "a"))
  // Two changes within one tick of the system's clock leave the same time.
  utimesSync(file, 1, 1)
  const { bytes, length } = yield* openFile(file)
  assert.strictEqual(length, size)
  let count = 0
  let changed = false
  const once = () => {
    if (!changed) change(file)
    changed = true
  }
  if (when === "opened") once()
  const error = yield* Stream.runForEach(bytes, (chunk) =>
    Effect.sync(() => {
      count += chunk.length
      once()
    })).pipe(Effect.as("none"), Effect.catch((error) => Effect.succeed(error.message)))
  return { count, error: error.replace(file, "file") }
})

describe("a file that a user names", () => {
  it.effect("is read to its end", () =>
    Effect.gen(function*() {
      for (const size of sizes) {
        assert.deepStrictEqual(yield* read(size, "opened", () => {}), { count: size, error: "none" })
      }
    }))

  it.effect("is never taken for whole when it changes while it is read", () =>
    Effect.gen(function*() {
      const grow = (file: string) => appendFileSync(file, "more")
      const shrink = (size: number) => (file: string) => truncateSync(file, size - 1)
      const write = (size: number) => (file: string) => writeFileSync(file, Buffer.alloc(size, "b"))
      for (const size of sizes) {
        for (const change of [grow, ...(size === 0 ? [] : [shrink(size), write(size)])]) {
          const { count, error } = yield* read(size, "opened", change)
          assert.deepStrictEqual([count, error], [0, "file: it changed while it was read"])
        }
      }
      for (const change of [grow, shrink(3_000_000), write(3_000_000)]) {
        const { count, error } = yield* read(3_000_000, "begun", change)
        assert.isAtLeast(count, 1)
        assert.isBelow(count, 3_000_000)
        assert.strictEqual(error, "file: it changed while it was read")
      }
    }))

  it.effect("is none when it is a folder, or nothing", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const error = yield* Effect.flip(openFile(folder))
      assert.strictEqual(error.message, `${folder}: a folder stands where a file is needed`)
      assert.match((yield* Effect.flip(openFile(join(folder, "none")))).message, /none: there is no such file$/)
    }))

  it.effect("may be a device that ends", () =>
    Effect.gen(function*() {
      const { bytes, length } = yield* openFile("/dev/null")
      assert.deepStrictEqual([length, yield* Stream.runCollect(bytes)], [undefined, []])
    }))
})
