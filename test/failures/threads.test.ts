/** Threads that die under nodes that publish, pull and serve: nothing is lost, and no node needs a restart. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Stream } from "effect"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { Inventory } from "../../src/ports/Inventory.ts"
import { temporaryFolder } from "../support/folder.ts"
import { dataOf, type Node, publish, start, untilComplete } from "../support/realNode.ts"
import { workersOf } from "../support/workers.ts"
import { bytesOf } from "./behaviours.ts"

const pathOf = (n: number) => `db/m/${n % 8}/${n}`

/** Waits until a node has verified so many files. */
const untilVerified = (node: Node, files: number) =>
  Context.get(node, Inventory).changes.pipe(
    Stream.filter(({ verified }) => verified.files >= files),
    Stream.runHead
  )

describe("when the threads of two nodes are killed", () => {
  it.live("what is published is there in the end, whole, and both go on", () =>
    Effect.gen(function*() {
      const workers = yield* workersOf
      const kill = (from: number, to?: number) =>
        Effect.promise(() => Promise.all(workers.slice(from, to).map((worker) => worker.terminate())))
      const folder = yield* temporaryFolder
      const writer = yield* start(folder, "writer")
      const reader = yield* start(folder, "reader", { retryInitialBackoffMillis: 20 })
      // Those for files start when they are first needed.
      const databases = workers.length
      const publishAll = (from: number, to: number) =>
        Effect.forEach(
          Array.from({ length: to - from }, (_, n) => n + from),
          (n) => publish(writer, pathOf(n), bytesOf(n, 10_000 + n)),
          { concurrency: 16 }
        )
      const complete = Effect.fnUntraced(function*(count: number) {
        yield* untilComplete(reader)
        for (let n = 0; n < count; n++) {
          assert.isTrue(readFileSync(join(dataOf(folder, "reader"), pathOf(n))).equals(bytesOf(n, 10_000 + n)))
        }
      })

      const publishing = yield* Effect.forkChild(publishAll(0, 120))
      for (const some of [20, 60]) {
        yield* untilVerified(reader, some)
        yield* kill(databases)
      }
      yield* Fiber.join(publishing)
      yield* complete(120)
      const before = workers.length
      assert.isAbove(before, databases + 4)
      yield* kill(0, databases)
      yield* publishAll(120, 140)
      yield* complete(140)
      assert.isAtLeast(workers.length, before + databases)
    }))
})
