import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Option, Random, Result, Stream } from "effect"
import { join } from "node:path"
import * as ManifestMemory from "../../src/manifest/ManifestMemory.ts"
import * as ManifestSqlite from "../../src/manifest/ManifestSqlite.ts"
import type { Registered } from "../../src/ports/FileEntry.ts"
import { type Cursor, Manifest, type Refusal } from "../../src/ports/Manifest.ts"
import { eventsToHead, fold } from "../../src/testing/manifest/events.ts"
import { entryOf, pathOf } from "../support/entries.ts"
import { temporaryFolder } from "../support/folder.ts"

const seeds = [1, 2, 3, 4, 5, 6]
const steps = 150

const paths = ["a", "a/b", "a/b/c", "a/d", "a-b", "b", "b/c/d", "b/c", "\uFF5E", "\u{1F600}", "\u{1F600}/x", "c"]

const oneOf = <A>(values: ReadonlyArray<A>) =>
  Effect.flatMap(
    Random.nextIntBetween(0, values.length, { halfOpen: true }),
    (index) => Effect.fromOption(Option.fromUndefinedOr(values[index]))
  ).pipe(Effect.orDie)

const some = <A>(most: number, one: Effect.Effect<A>) =>
  Effect.flatMap(
    Random.nextIntBetween(0, most),
    (count) => Effect.forEach(Array.from({ length: count }), () => one)
  )

const randomEntry = Effect.map(
  Effect.all([oneOf(paths), oneOf(["one", "two"]), oneOf([0, 5n, 2n ** 60n])]),
  ([path, content, lsn]) => entryOf(path, content, { lsn })
)
const randomRemoval = Effect.map(
  Effect.all([oneOf(paths), oneOf(["old", "merged"])]),
  ([path, reason]) => ({ path: pathOf(path), reason })
)

const plain = (answer: Registered | Refusal): unknown => {
  if ("revision" in answer) return answer
  if (answer._tag === "EntryRefused") return [answer._tag, answer.path, answer.detail]
  return answer._tag === "Gone"
    ? ["Gone", answer.path, answer.reason]
    : ["Conflict", answer.kind, answer.path, answer.standing]
}

/** One random thing to ask, of any manifest; its answer as a plain value. */
const randomStep = Effect.flatMap(
  oneOf(["register", "register", "registerAll", "check", "remove", "replace"] as const),
  (kind): Effect.Effect<(manifest: Manifest["Service"]) => Effect.Effect<unknown, unknown>> => {
    switch (kind) {
      case "register":
        return Effect.map(
          randomEntry,
          (entry) => (manifest) =>
            Effect.map(Effect.result(manifest.register(entry)), (result) =>
              Result.isSuccess(result)
                ? result.success
                : result.failure._tag === "Unavailable"
                ? "Unavailable"
                : plain(result.failure))
        )
      case "registerAll":
        return Effect.map(
          some(4, randomEntry),
          (entries) => (manifest) => Effect.map(manifest.registerAll(entries), (answers) => answers.map(plain))
        )
      case "check":
        return Effect.map(
          some(4, randomEntry),
          (entries) => (manifest) =>
            Effect.map(manifest.check(entries), (answers) => answers.map((answer) => answer && plain(answer)))
        )
      case "remove":
        return Effect.map(randomRemoval, ({ path, reason }) => (manifest) => manifest.remove(path, reason))
      case "replace":
        return Effect.map(
          Effect.all({ add: some(3, randomEntry), remove: some(3, randomRemoval) }),
          (change) => (manifest) =>
            Effect.map(Effect.result(manifest.replace(change)), (result) => {
              if (Result.isSuccess(result)) return result.success
              const error = result.failure
              return error._tag === "Gone" || error._tag === "Conflict" ? plain(error) : error._tag
            })
        )
    }
  }
)

const followedFrom = (manifest: Manifest["Service"], cursor: Cursor) =>
  eventsToHead(cursor).pipe(Effect.provideService(Manifest, manifest), Effect.map(fold))

const files = (manifest: Manifest["Service"]) =>
  Effect.flatMap(manifest.snapshot(3), ({ pages }) => Stream.runCollect(pages)).pipe(
    Effect.map((pages) => pages.flat())
  )

describe("the manifests in memory and in SQLite", () => {
  for (const seed of seeds) {
    it.live(`answer random changes alike and tell of them alike (seed ${seed})`, () =>
      Effect.gen(function*() {
        const { manifest: memory } = yield* ManifestMemory.make
        const sqlite = Context.get(
          yield* Layer.build(ManifestSqlite.layer({ path: join(yield* temporaryFolder, "manifest.db") })),
          Manifest
        )
        const cursors: Array<readonly [Cursor, Cursor]> = []
        for (let i = 0; i < steps; i++) {
          cursors.push([yield* memory.head, yield* sqlite.head])
          const step = yield* randomStep
          assert.deepStrictEqual(yield* step(sqlite), yield* step(memory), `seed ${seed}, step ${i}`)
          assert.strictEqual((yield* sqlite.head).revision, (yield* memory.head).revision)
        }
        assert.deepStrictEqual(yield* files(sqlite), yield* files(memory))
        assert.isAbove((yield* memory.head).revision, paths.length - 1)
        for (const [inMemory, inSqlite] of cursors) {
          assert.deepStrictEqual(
            yield* followedFrom(sqlite, inSqlite),
            yield* followedFrom(memory, inMemory),
            `seed ${seed}, from revision ${inMemory.revision}`
          )
        }
      }).pipe(Random.withSeed(seed)))
  }
})
