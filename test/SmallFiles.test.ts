/** Many small files between two nodes with everything real. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Tracer } from "effect"
import { randomBytes } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { Puller } from "../src/replication/Puller.ts"
import { temporaryFolder } from "./support/folder.ts"
import { dataOf, publish, start, untilComplete } from "./support/realNode.ts"

describe("many small files that are owed at once", () => {
  it.live("go together, and each is traced as if it had come alone", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const names: Array<string> = []
      const tracer = Tracer.make({
        span: (options) => {
          names.push(options.name)
          return new Tracer.NativeSpan(options)
        }
      })
      const reader = yield* start(folder, "reader", { role: "reader" }).pipe(Effect.withTracer(tracer))
      const puller = Context.get(reader, Puller)
      yield* puller.pause("operator")
      const writer = yield* start(folder, "writer", { role: "writer" })
      const files = Array.from({ length: 300 }, (_, n) => ({ path: `db/${n % 7}/${n}`, bytes: randomBytes(n * 50) }))
      yield* Effect.forEach(files, ({ bytes, path }) => publish(writer, path, bytes), { concurrency: 32 })
      yield* puller.resume("operator")
      yield* untilComplete(reader)
      for (const { bytes, path } of files) {
        assert.isTrue(readFileSync(join(dataOf(folder, "reader"), path)).equals(bytes), path)
      }
      assert.deepInclude(yield* puller.stats, { pulled: 300, failed: 0, inFlight: 0 })
      const times = (name: string) => names.filter((each) => each === name).length
      assert.strictEqual(times("replicate"), 300)
      // What goes alone has a span of its transfer: what workers took up before the first answer, and a few behind.
      assert.isBelow(times("transfer"), 100)
      assert.isAbove(times("transfer"), 0)
    }))
})
