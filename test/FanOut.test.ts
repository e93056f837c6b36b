/** Many nodes that want the same large files at the same moment, with everything real. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Option, Stream } from "effect"
import { randomBytes } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { Puller, type Receipt } from "../src/replication/Puller.ts"
import { temporaryFolder } from "./support/folder.ts"
import { dataOf, publish, start } from "./support/realNode.ts"

const readers = ["reader-1", "reader-2", "reader-3", "reader-4"]
const paths = ["db/cpu/1", "db/cpu/2", "db/cpu/3"]
const MiB = 1 << 20

describe("readers that begin together", () => {
  it.live(
    "take less than three times the data from the origin, and the rest from each other",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const nodes = yield* Effect.forEach(
          readers,
          (name) => start(folder, name, { role: "reader" }),
          { concurrency: "unbounded" }
        )
        const pullers = nodes.map((node) => Context.get(node, Puller))
        const from = new Map<string, number>()
        const count = (receipt: Receipt) => {
          assert.strictEqual(receipt._tag, "Pulled")
          if (receipt._tag !== "Pulled") return
          const peer = Option.getOrElse(receipt.from, () => "nobody")
          from.set(peer, (from.get(peer) ?? 0) + receipt.bytes)
        }
        const counted = yield* Effect.forEach(pullers, ({ pause, receipts }) =>
          Effect.andThen(
            pause("operator"),
            Effect.flatMap(receipts, (all) =>
              Effect.forkScoped(
                Stream.runForEach(Stream.take(all, paths.length), (receipt) => Effect.sync(() => count(receipt)))
              ))
          ))
        const writer = yield* start(folder, "writer", { role: "writer" })
        const files = paths.map((path, n) => ({ path, bytes: randomBytes(2 * MiB + n) }))
        for (const { bytes, path } of files) yield* publish(writer, path, bytes)
        yield* Effect.forEach(pullers, ({ resume }) => resume("operator"))
        yield* Effect.forEach(counted, Fiber.join)

        const data = files.reduce((sum, { bytes }) => sum + bytes.length, 0)
        const sent = [...from.values()].reduce((sum, bytes) => sum + bytes, 0)
        assert.strictEqual(sent, readers.length * data)
        assert.isBelow(from.get("writer") ?? 0, 3 * data)
        for (const name of readers) {
          for (const { bytes, path } of files) {
            assert.isTrue(readFileSync(join(dataOf(folder, name), path)).equals(bytes), `${name} ${path}`)
          }
        }
        for (const { stats } of pullers) assert.deepInclude(yield* stats, { failed: 0, pulled: files.length })
      }),
    30_000
  )
})
