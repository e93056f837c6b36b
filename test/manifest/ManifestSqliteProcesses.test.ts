import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Option, Queue, Stream } from "effect"
import { join } from "node:path"
import * as ManifestSqlite from "../../src/manifest/ManifestSqlite.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { entryOf, pathOf } from "../support/entries.ts"
import { temporaryFolder } from "../support/folder.ts"
import { type Child, start } from "./process.ts"

const registrant = new URL("./registrant.ts", import.meta.url)

const database = Effect.map(temporaryFolder, (folder) => join(folder, "manifest.db"))

const open = (path: string) =>
  Effect.map(Layer.build(ManifestSqlite.layer({ path, poll: "1 hour" })), (context) => Context.get(context, Manifest))

/** Starts registrants, and lets them go only when all are ready. */
const race = Effect.fnUntraced(function*(path: string, each: ReadonlyArray<ReadonlyArray<string>>) {
  const children = yield* Effect.forEach(each, (args) => start(registrant, [path, ...args]), {
    concurrency: "unbounded"
  })
  for (const { lines } of children) assert.strictEqual(yield* Queue.take(lines), "ready")
  for (const child of children) yield* child.send("go")
  return children
})

const answers = ({ lines }: Child) =>
  Stream.fromEffectRepeat(Queue.take(lines)).pipe(
    Stream.takeWhile((line) => line !== undefined && line !== "done"),
    Stream.runCollect
  )

describe("ManifestSqlite, several processes on one file", () => {
  it.live("lets exactly one process win a path that all register with other bytes", () =>
    Effect.gen(function*() {
      const path = yield* database
      const rounds = 20
      const children = yield* race(path, ["one", "two", "three", "four"].map((bytes) => ["f", `${rounds}`, bytes]))
      const all = yield* Effect.forEach(children, answers, { concurrency: "unbounded" })
      for (let round = 0; round < rounds; round++) {
        const each = all.map((lines) => lines[round] ?? "")
        assert.strictEqual(each.filter((line) => line.startsWith(`f/${round} `)).length, 1)
        assert.strictEqual(each.filter((line) => line === "Conflict").length, 3)
      }
      const manifest = yield* open(path)
      assert.strictEqual((yield* manifest.head).revision, rounds)
    }))

  it.live("loses nothing of what four processes register at once, and tells of each once, in order", () =>
    Effect.gen(function*() {
      const path = yield* database
      const manifest = yield* open(path)
      const at = yield* manifest.head
      const reader = yield* manifest.events(at).pipe(
        Stream.takeUntil(({ cursor }) => cursor.revision === 1000),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )
      const children = yield* race(path, ["a", "b", "c", "d"].map((prefix) => [prefix, "250", "bytes"]))
      const acknowledged = (yield* Effect.forEach(children, answers, { concurrency: "unbounded" })).flat()
      const events = (yield* Fiber.join(reader)).flatMap((batch) =>
        batch.events.flatMap((event) =>
          event._tag === "Put" ? [{ path: event.file.entry.path, revision: event.file.revision }] : []
        )
      )
      assert.deepStrictEqual(events.map(({ revision }) => revision), Array.from({ length: 1000 }, (_, i) => i + 1))
      assert.deepStrictEqual(
        events.map(({ path, revision }) => `${path} ${revision}`).sort(),
        acknowledged.map(String).sort()
      )
    }))

  it.live("keeps what it acknowledged when its process is killed in the middle of a stream of registrations", () =>
    Effect.gen(function*() {
      const path = yield* database
      const [child] = yield* race(path, [["f", "1000000", "bytes"]])
      assert(child !== undefined)
      const before = yield* Effect.forEach(Array.from({ length: 100 }), () => Queue.take(child.lines))
      yield* child.kill
      const rest = yield* answers(child)
      const acknowledged = [...before, ...rest].map(String)
      const manifest = yield* open(path)
      const head = yield* manifest.head
      // The one that was under way may have come through without its answer.
      assert.include([acknowledged.length, acknowledged.length + 1], head.revision)
      for (const line of acknowledged) {
        const [name = "", revision] = line.split(" ")
        const file = yield* manifest.get(pathOf(name))
        assert.deepStrictEqual(Option.map(file, (found) => `${found.revision}`), Option.some(revision ?? ""))
      }
      yield* manifest.register(entryOf("after"))
    }))
})
