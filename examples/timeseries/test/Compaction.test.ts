/** Merging, on a node in memory: its files lie a second time on a disk, where DuckDB reads them. */
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Option, Stream } from "effect"
import { Manifest, Registrar, View } from "effect-file-replication"
import { Cluster } from "effect-file-replication/testing"
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { compact } from "../src/Compaction.ts"
import { writeParquet } from "../src/Duck.ts"
import { parse } from "../src/lineProtocol.ts"

const temporary = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "compaction-"))),
  (folder) => Effect.promise(() => rm(folder, { recursive: true, force: true }))
)
/** The view comes to know of all that the manifest takes, a little later. */
const late = Layer.effect(
  Manifest.Manifest,
  Effect.map(Manifest.Manifest, (manifest) =>
    Manifest.Manifest.of({
      ...manifest,
      events: (after) => Stream.tap(manifest.events(after), () => Effect.sleep(50))
    }))
)
const node = View.layer.pipe(
  Layer.provide(late),
  Layer.provideMerge(Cluster.layerMemory),
  Layer.merge(NodeServices.layer)
)

const publish = Effect.fnUntraced(function*(data: string, path: string, bytes: Uint8Array) {
  const registrar = yield* Registrar.Registrar
  yield* Effect.promise(async () => {
    await mkdir(dirname(join(data, path)), { recursive: true })
    await writeFile(join(data, path), bytes)
  })
  yield* registrar.publish({ path, measurement: "m" }, bytes)
})

const paths = Effect.flatMap(
  Manifest.Manifest,
  (manifest) => Effect.map(manifest.page(Option.none(), 1000), ({ files }) => files.map(({ entry }) => entry.path))
)

describe("compact", () => {
  it.live(
    "merges the other hours when one can't be, sees what it merged just now, and is not alone",
    () =>
      Effect.gen(function*() {
        const [data, work] = [yield* temporary, yield* temporary]
        const made = join(yield* temporary, "made.parquet")
        yield* writeParquet(parse("m f=1 1", "ns", 0n).points, made)
        const good = yield* Effect.promise(() => readFile(made))
        for (const name of ["a", "b"]) {
          yield* publish(data, `db/m/1970/01/01/00/${name}.parquet`, Buffer.from(`no Parquet: ${name}`))
          yield* publish(data, `db/m/1970/01/01/01/${name}.parquet`, good)
        }
        for (let n = 0; n < 101; n++) yield* publish(data, `db/m/1970/01/01/02/${n}.parquet`, good)
        // What is merged would have to lie on the disk, too, to be merged again: 99 of 101, which leaves two and it.
        const [one, other] = yield* Effect.all([compact(data, work), compact(data, work)], { concurrency: 2 })
        assert.deepStrictEqual(
          [one.hours + other.hours, one.merged + other.merged, one.failed, other.failed],
          [2, 101, 1, 1]
        )
        const left = (yield* paths).map((path) => dirname(path).slice(-2))
        assert.deepStrictEqual([...Map.groupBy(left, (hour) => hour)].map(([hour, all]) => [hour, all.length]), [
          ["00", 2],
          ["01", 1],
          ["02", 3]
        ])
        const again = yield* compact(data, work)
        assert.deepStrictEqual(again, { hours: 0, merged: 0, failed: 2 })
        assert.deepStrictEqual(yield* Effect.promise(() => readdir(work)), [])
      }).pipe(Effect.provide(node)),
    60_000
  )
})
