import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import * as ManifestMemory from "../../src/manifest/ManifestMemory.ts"
import { importLines } from "../../src/replication/manifestLines.ts"
import { entryLine } from "../cluster/configure.ts"

/** Imports a text that comes in pieces of so many bytes. */
const inPieces = (text: Buffer, size: number, keepGoing: boolean) =>
  importLines(
    Stream.fromIterable(
      Array.from({ length: Math.ceil(text.length / size) }, (_, n) => text.subarray(n * size, (n + 1) * size))
    ),
    { keepGoing }
  ).pipe(Effect.provide(ManifestMemory.layer))

describe("lines of a manifest", () => {
  it.effect("are the same however they are cut on the way", () =>
    Effect.gen(function*() {
      const text = Buffer.from(
        `\uFEFF${entryLine("db/ä", "a")}\r\n\n${entryLine("db/b", "b")}\nnonsense\n${entryLine("db/c", "c")}`
      )
      for (const size of [1, 2, 3, 7, 64, text.length]) {
        const { imported, wrong } = yield* inPieces(text, size, true)
        assert.deepStrictEqual([imported, wrong.map(({ line }) => line)], [3, [4]], `pieces of ${size}`)
      }
    }))

  it.effect("that are endless, or no text, are refused by number, and the others taken", () =>
    Effect.gen(function*() {
      const text = Buffer.concat([
        Buffer.alloc(300_000, "x"),
        Buffer.from("\n"),
        Buffer.from(entryLine("db/a", "a").replace("elsewhere", "el\uFFFDwhere")),
        Buffer.from("\n"),
        Buffer.from(entryLine("db/b", "b")),
        Buffer.from([10, 0x22, 0xff, 0x22])
      ])
      const { imported, wrong } = yield* inPieces(text, 65_536, true)
      assert.strictEqual(imported, 1)
      assert.deepStrictEqual(wrong.map(({ line }) => line), [1, 2, 4])
      assert.strictEqual(wrong[0]?.why, "it is longer than 262144 bytes")
      assert.strictEqual(wrong[2]?.why, "it is not UTF-8")
    }))

  it.effect("that are wrong by the million are counted, and a thousand of them named", () =>
    Effect.gen(function*() {
      const { imported, more, wrong } = yield* inPieces(Buffer.from("x\n".repeat(20_000)), 65_536, false)
      assert.deepStrictEqual([imported, wrong.length, wrong[999]?.line, more], [0, 1000, 1000, 19_000])
    }))
})
