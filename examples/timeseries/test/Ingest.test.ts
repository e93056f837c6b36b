/** Taking points in, on a node in memory: what this application stands on is the library's own, without its disk. */
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Logger, Option, Scope, Stream } from "effect"
import { Backend, Manifest, Membership, PeerResolver, Registrar } from "effect-file-replication"
import { Cluster } from "effect-file-replication/testing"
import { cp, mkdtemp, readdir, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { defaultLimits, DuckFailed, query } from "../src/Duck.ts"
import * as Ingest from "../src/Ingest.ts"
import { folderOf } from "../src/partitions.ts"
import * as SameRack from "../src/sameRack.ts"
import * as Wal from "../src/Wal.ts"

const temporary = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "ingest-"))),
  (folder) => Effect.promise(() => rm(folder, { recursive: true, force: true }))
)

const ingestOn = (folder: string, options: Partial<Ingest.IngestOptions> = {}) =>
  Ingest.layer({
    folder,
    flushPoints: 1000,
    flushBytes: 100_000,
    flushMillis: 3_600_000,
    maxPoints: 2000,
    maxBytes: 100_000,
    ...options
  })

/** One life of the application on a node that stays; it ends without a flush, as a crash does. */
const living = <A, E, R>(
  folder: string,
  body: (ingest: Ingest.Ingest["Service"]) => Effect.Effect<A, E, R>,
  options?: Partial<Ingest.IngestOptions>
) =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    const registrar = yield* Registrar.Registrar
    const context = yield* Layer.buildWithScope(
      ingestOn(folder, options).pipe(
        Layer.provide(Layer.succeed(Registrar.Registrar, registrar)),
        Layer.provide(NodeServices.layer)
      ),
      scope
    )
    const outcome = yield* Effect.exit(Effect.flatMap(Ingest.Ingest, body).pipe(Effect.provide(context)))
    yield* Scope.close(scope, Exit.void)
    return yield* outcome
  })

const files = Effect.flatMap(
  Manifest.Manifest,
  (manifest) => Effect.map(manifest.page(Option.none(), 100), (page) => page.files.map(({ entry }) => entry))
)
const segments = (folder: string) =>
  Effect.map(Effect.promise(() => readdir(folder)), (names) => names.filter((name) => name.endsWith(".wal")).length)

/** What DuckDB reads from the files that were published of the measurement m. */
const asked = Effect.fnUntraced(function*(sql: string) {
  const backend = yield* Backend.Backend
  const folder = yield* temporary
  const own = (yield* files).filter(({ measurement }) => measurement === "m")
  const copies = yield* Effect.forEach(own, ({ path, size_bytes }, n) =>
    Effect.gen(function*() {
      const chunks: Array<Uint8Array> = []
      yield* backend.read(path, 0, size_bytes, { write: (chunk) => Effect.sync(() => chunks.push(chunk.slice())) })
      const copy = join(folder, `${n}.parquet`)
      yield* Effect.promise(() => writeFile(copy, Buffer.concat(chunks)))
      return copy
    }))
  return (yield* query(new Map([["m", copies]]), sql)).rows
})

const hour = 3_600_000_000_000n
const line = (measurement: string, time: bigint) => `${measurement},host=a f=1 ${time}`

describe("Ingest", () => {
  it.live("publishes a file for each measurement and hour, by its layout", () =>
    Effect.gen(function*() {
      const folder = yield* temporary
      yield* living(folder, (ingest) =>
        Effect.gen(function*() {
          const lines = [line("cpu", 0n), line("cpu", hour), line("my/mem", 5n), line("cpu", 1n)].join("\n")
          assert.strictEqual(yield* ingest.write("db", "ns", lines), 4)
          assert.strictEqual(yield* ingest.flush, 3)
          assert.strictEqual(yield* ingest.flush, 0)
        }))
      const all = yield* files
      assert.deepStrictEqual(
        all.map(({ measurement, partition_time, path }) => [
          path.slice(0, path.lastIndexOf("/")),
          measurement,
          partition_time
        ]),
        [
          ["db/cpu/1970/01/01/00", "cpu", "1970-01-01T00:00:00Z"],
          ["db/cpu/1970/01/01/01", "cpu", "1970-01-01T01:00:00Z"],
          ["db/my%2Fmem/1970/01/01/00", "my/mem", "1970-01-01T00:00:00Z"]
        ]
      )
      assert.strictEqual(folderOf("db", "..", 0n), "db/%2E./1970/01/01/00")
      assert.strictEqual(folderOf("db", "m", -1n), "db/m/1969/12/31/23")
      assert.strictEqual(folderOf("db", "m", -hour), "db/m/1969/12/31/23")
      assert.strictEqual(folderOf("db", "m", -hour - 1n), "db/m/1969/12/31/22")
    }).pipe(Effect.provide(Cluster.layerMemory)))

  it.live("has after a crash what it acknowledged before it, once", () =>
    Effect.gen(function*() {
      const folder = yield* temporary
      yield* living(folder, (ingest) => ingest.write("db", "ns", line("cpu", 0n)))
      assert.deepStrictEqual(yield* files, [])
      yield* living(folder, () => Effect.void)
      assert.strictEqual((yield* files).length, 1)
      // Its empty segments are all that is left.
      yield* living(folder, (ingest) => ingest.flush)
      assert.strictEqual((yield* files).length, 1)
    }).pipe(Effect.provide(Cluster.layerMemory)))

  it.live("publishes nothing twice when it crashed between publishing and forgetting, even if it was merged since", () =>
    Effect.gen(function*() {
      const folder = yield* temporary
      const aside = yield* temporary
      const registrar = yield* Registrar.Registrar
      yield* living(folder, (ingest) => ingest.write("db", "ns", line("cpu", 0n)))
      yield* Effect.promise(() => cp(folder, aside, { recursive: true }))
      // The log as it was before the segment was forgotten.
      const restore = Effect.promise(() => cp(aside, folder, { recursive: true }))
      yield* living(folder, () => Effect.void)
      const [entry] = yield* files
      assert(entry !== undefined)
      yield* restore
      yield* living(folder, () => Effect.void)
      assert.deepStrictEqual(yield* files, [entry])
      yield* registrar.replace(
        [{ path: "db/cpu/1970/01/01/00/merged.parquet", bytes: new Uint8Array([1]) }],
        [{ path: entry.path, reason: "merged" }]
      )
      yield* restore
      yield* living(folder, () => Effect.void)
      assert.deepStrictEqual((yield* files).map(({ path }) => path.endsWith("merged.parquet")), [true])
    }).pipe(Effect.provide(Cluster.layerMemory)))

  it.live("takes nothing of a request with a line that is wrong, or that does not fit what was written before", () =>
    Effect.gen(function*() {
      const folder = yield* temporary
      yield* living(folder, (ingest) =>
        Effect.gen(function*() {
          yield* ingest.write("db", "ns", "cpu,host=a f=1 1")
          for (
            const [lines, expected] of [
              ["cpu,host=a f=2 2\ncpu f= 3", "line 2"],
              ["mem x=1 1\ncpu,host=a f=1i 2", "line 2: \"f\" of cpu is BIGINT, and was DOUBLE before"],
              ["cpu host=1 1", "\"host\" of cpu is DOUBLE, and was tag before"],
              ["cpu F=1 1", "\"F\" is written \"f\""],
              ["CPU f=1 1", "the measurement \"CPU\" is written \"cpu\""]
            ] as const
          ) {
            const error = yield* Effect.flip(ingest.write("db", "ns", lines))
            assert.strictEqual(error._tag, "Rejected")
            assert.include(error.message, expected)
          }
        }))
      // What columns are is known after a restart, too.
      yield* living(folder, (ingest) =>
        Effect.gen(function*() {
          assert.strictEqual((yield* Effect.flip(ingest.write("db", "ns", "cpu f=true 1")))._tag, "Rejected")
          assert.strictEqual(yield* ingest.write("db", "ns", "mem x=true 1"), 1)
        }))
    }).pipe(Effect.provide(Cluster.layerMemory)))

  it.live("says that it is busy when more waits than may, in points or in bytes, and publishes all that it took, once", () =>
    Effect.gen(function*() {
      const folder = yield* temporary
      const lines = (from: number, count: number) =>
        Array.from({ length: count }, (_, n) => `m f=1 ${from + n}`).join("\n")
      const large = (time: number, bytes: number) => `m s="${"x".repeat(bytes)}" ${time}`
      yield* living(folder, (ingest) =>
        Effect.gen(function*() {
          assert.strictEqual(yield* ingest.write("db", "ns", lines(0, 900)), 900)
          const busy = yield* Effect.flip(ingest.write("db", "ns", lines(5000, 1101)))
          assert.deepStrictEqual([busy._tag, busy.message.includes("900 points")], ["Busy", true])
          // More than may ever wait is not worth trying again.
          assert.strictEqual((yield* Effect.flip(ingest.write("db", "ns", lines(0, 2001))))._tag, "TooLarge")
          // What is over the limit is not even read.
          const wrong = `${lines(0, 2001)}\nwrong`
          assert.strictEqual((yield* Effect.flip(ingest.write("db", "ns", wrong)))._tag, "TooLarge")
          yield* ingest.flush
          assert.strictEqual(yield* ingest.write("db", "ns", lines(5000, 1101)), 1101)
          yield* ingest.flush
        }))
      yield* living(folder, (ingest) =>
        Effect.gen(function*() {
          assert.strictEqual(yield* ingest.write("db", "ns", large(8000, 60_000)), 1)
          assert.strictEqual((yield* Effect.flip(ingest.write("db", "ns", large(9000, 60_000))))._tag, "Busy")
          const unread = `wrong ${"x".repeat(60_000)}`
          assert.strictEqual((yield* Effect.flip(ingest.write("db", "ns", unread)))._tag, "Busy")
          assert.strictEqual((yield* Effect.flip(ingest.write("db", "ns", large(9000, 100_000))))._tag, "TooLarge")
          yield* ingest.flush
          assert.strictEqual(yield* ingest.write("db", "ns", large(9000, 60_000)), 1)
          yield* ingest.flush
          assert.strictEqual(yield* segments(folder), 1)
        }))
      const sql = "SELECT count(*), count(DISTINCT time), count(s), epoch_ns(min(time)), epoch_ns(max(time)) FROM m"
      assert.deepStrictEqual(yield* asked(sql), [["2003", "2003", "2", "0", "9000"]])
    }).pipe(Effect.provide(Cluster.layerMemory)))

  it.live("starts and goes on when a segment can never be published, and keeps it aside", () =>
    Effect.gen(function*() {
      const folder = yield* temporary
      const registrar = yield* Registrar.Registrar
      // The first can't be a table, the second can't be read, the path of the third is taken by a file.
      const kept = (lines: string) => `${JSON.stringify({ database: "db", precision: "ns", now: "0", lines })}\n`
      yield* Effect.promise(async () => {
        await writeFile(join(folder, "00000001-a.wal"), kept("m f=1,F=2 1"))
        await writeFile(join(folder, "00000002-b.wal"), "{}\n")
        await writeFile(join(folder, "00000003-c.wal"), kept("taken f=1 1"))
        await writeFile(join(folder, "00000004-d.wal"), kept("m f=7 1") + "{\"torn")
      })
      yield* registrar.publish({ path: "db/taken" }, new Uint8Array([1]))
      yield* living(folder, (ingest) =>
        Effect.gen(function*() {
          assert.deepStrictEqual(yield* asked("SELECT f FROM m"), [[7]])
          yield* ingest.write("db", "ns", "taken f=1 1\nm f=8 2")
          const error = yield* Effect.flip(ingest.flush)
          assert.strictEqual(error._tag, "SetAside")
          yield* ingest.write("db", "ns", "m f=9 3")
          assert.strictEqual(yield* ingest.flush, 1)
        }))
      const names = yield* Effect.promise(() => readdir(folder))
      const aside = names.filter((name) => name.endsWith(".aside")).sort()
      assert.deepStrictEqual(aside.slice(0, 3), ["00000001-a.aside", "00000002-b.aside", "00000003-c.aside"])
      assert.strictEqual(aside.length, 4)
      assert.strictEqual(yield* segments(folder), 1)
    }).pipe(Effect.provide(Cluster.layerMemory)))

  it.live("publishes by itself when there are enough points, enough bytes, or when they have waited long enough", () =>
    Effect.gen(function*() {
      const manifest = yield* Manifest.Manifest
      const points = Array.from({ length: 3 }, (_, n) => line("m", BigInt(n))).join("\n")
      const never = { flushPoints: 4, flushBytes: 1000, flushMillis: 3_600_000 }
      for (
        const [options, lines] of [
          [{ ...never, flushPoints: 3 }, points],
          [{ ...never, flushBytes: points.length }, points],
          [{ ...never, flushMillis: 20 }, line("m", 9n)]
        ] as const
      ) {
        const folder = yield* temporary
        const before = yield* manifest.head
        const published = yield* living(folder, (ingest) =>
          Effect.andThen(
            ingest.write("db", "ns", lines),
            Stream.runHead(manifest.events(before))
          ), options)
        assert(Option.isSome(published))
      }
      assert.deepStrictEqual(yield* asked("SELECT count(*), max(epoch_ns(time)) FROM m"), [["7", "9"]])
    }).pipe(Effect.provide(Cluster.layerMemory)))

  it.live("goes on behind a segment that it has set aside, though the flush was given up just then", () =>
    Effect.gen(function*() {
      const folder = yield* temporary
      const registrar = yield* Registrar.Registrar
      yield* registrar.publish({ path: "db/taken" }, new Uint8Array([1]))
      yield* living(folder, (ingest) =>
        Effect.gen(function*() {
          yield* ingest.write("db", "ns", line("taken", 1n))
          const leaving = Logger.make(({ fiber }) => fiber.interruptUnsafe())
          const left = yield* Effect.forkChild(Effect.provide(ingest.flush, Logger.layer([leaving])))
          assert(Exit.hasInterrupts(yield* Fiber.await(left)))
          yield* ingest.write("db", "ns", line("m", 1n))
          assert.strictEqual(yield* ingest.flush, 1)
        }))
      const names = (yield* Effect.promise(() => readdir(folder))).map((name) => name.replace(/^.*\./, ""))
      assert.deepStrictEqual(names.sort(), ["aside", "json", "wal"])
    }).pipe(Effect.provide(Cluster.layerMemory)))

  it.live("sets aside again what is aside already, and nothing that is not there", () =>
    Effect.gen(function*() {
      const { wal } = yield* Wal.make(yield* temporary)
      const segment = yield* wal.rotate
      yield* wal.setAside(segment)
      yield* wal.setAside(segment)
      assert.include((yield* Effect.flip(wal.setAside("nothing"))).message, "ENOENT")
    }))

  it.live("tries again what DuckDB had no memory for", () =>
    Effect.gen(function*() {
      const limits = { ...defaultLimits, memory: "1MB" }
      const sql = "SELECT len(list(range)) FROM range(10000000)"
      const { message } = yield* Effect.flip(query(new Map(), sql, limits))
      assert.include(message, "Out of Memory")
      assert(Ingest.passes(new DuckFailed({ detail: message })))
      assert(!Ingest.passes(new DuckFailed({ detail: "Catalog Error: a column twice" })))
    }))

  it.live("publishes later what the manifest did not take at a start", () =>
    Effect.gen(function*() {
      const folder = yield* temporary
      const registrar = yield* Registrar.Registrar
      yield* living(folder, (ingest) => ingest.write("db", "ns", line("cpu", 0n)))
      let down = true
      const failing = Registrar.Registrar.of({
        ...registrar,
        publish: (file, bytes) =>
          down
            ? Effect.fail(new Manifest.Unavailable({ operation: "register", detail: "it is down" }))
            : registrar.publish(file, bytes)
      })
      yield* living(folder, (ingest) =>
        Effect.gen(function*() {
          assert.strictEqual((yield* Effect.flip(ingest.flush))._tag, "Unavailable")
          down = false
          assert.strictEqual(yield* ingest.flush, 1)
        })).pipe(Effect.provideService(Registrar.Registrar, failing))
      assert.strictEqual((yield* files).length, 1)
    }).pipe(Effect.provide(Cluster.layerMemory)))

  it.live("takes a measurement of 256 columns, and not one more", () =>
    Effect.gen(function*() {
      const folder = yield* temporary
      yield* living(folder, (ingest) =>
        Effect.gen(function*() {
          const fields = Array.from({ length: 255 }, (_, n) => `f${n}=1`).join(",")
          assert.strictEqual(yield* ingest.write("db", "ns", `m,host=a ${fields} 1`), 1)
          const error = yield* Effect.flip(ingest.write("db", "ns", "m f0=1,last=1 2"))
          assert.include(error.message, "line 1: \"last\" is too much: m has 256 columns already")
          assert.strictEqual(yield* ingest.flush, 1)
        }))
    }).pipe(Effect.provide(Cluster.layerMemory)))
})

describe("the resolver of this application", () => {
  it.live("asks the peers of its own rack first, and leaves nobody out", () =>
    Effect.gen(function*() {
      const cluster = yield* Cluster.make(["a.writer", "b.reader-1", "a.reader-2", "b.reader-3"])
      const node = yield* Layer.build(
        Layer.fresh(SameRack.layer).pipe(Layer.provideMerge(cluster.layerTest("b.reader-1")))
      )
      const { candidates } = yield* Effect.provide(Effect.service(PeerResolver.PeerResolver), node)
      const { members } = yield* Effect.provide(Effect.service(Membership.Membership), node)
      assert.strictEqual((yield* members).length, 4)
      const [entry] = yield* Effect.provide(
        Effect.andThen(
          Effect.flatMap(Registrar.Registrar, (registrar) => registrar.publish({ path: "x" }, new Uint8Array([1]))),
          files
        ),
        node
      )
      assert(entry !== undefined)
      const origin = (yield* members).find(({ id }) => id === "a.writer")
      assert(origin !== undefined)
      const order = (yield* candidates(origin.id, entry.path)).map(({ id }) => id)
      assert.deepStrictEqual(order.map((id) => id.split(".")[0]), ["b", "a", "a"])
      assert.deepStrictEqual(order.slice(1, 2), [origin.id])
    }))
})
