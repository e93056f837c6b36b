/** The data folder while many are at work in it. */
import { assert, describe } from "@effect/vitest"
import { Effect, Fiber, Option, Stream } from "effect"
import { readFileSync } from "node:fs"
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { Worker } from "node:worker_threads"
import { place } from "../../src/backend/commit.ts"
import { lstat, Refused } from "../../src/backend/systemCalls.ts"
import { Backend } from "../../src/ports/Backend.ts"
import { bytes, pathOf, sha256Of, write } from "../../src/testing/backend/support.ts"
import { fresh } from "./local.ts"

const mib = 1024 * 1024

const pruner = `
  const { rmdirSync } = require("node:fs")
  for (const folder of require("node:worker_threads").workerData) {
    for (let left = 5; left > 0;) {
      try {
        rmdirSync(folder)
        left--
      } catch ({ code }) {
        if (code === "ENOTEMPTY") break
      }
    }
  }`

describe("BackendLocal", () => {
  fresh("commits into folders that others are pruning all the time", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const turn = (n: number) =>
        Effect.gen(function*() {
          const path = pathOf(`deep/er/and/deeper/${n}`)
          yield* write(path, bytes(10, n))
          yield* backend.remove(path)
        })
      yield* Effect.forEach(Array.from({ length: 200 }, (_, n) => n), turn, { concurrency: 16, discard: true })
      assert.deepStrictEqual(yield* Stream.runCollect(backend.list("")), [])
    }))

  fresh(
    "commits together, however often a folder is pruned as soon as it is made",
    ({ data }) =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const names = Array.from({ length: 4 }, (_, n) => String(n))
        // A thread of its own is faster than any commit. It prunes each folder a few times, one behind another.
        yield* Effect.acquireRelease(
          Effect.sync(() => new Worker(pruner, { eval: true, workerData: names.map((name) => join(data, name)) })),
          (worker) => Effect.promise(() => worker.terminate())
        )
        const sha256 = sha256Of(bytes(10))
        for (const name of names) {
          const outcomes = yield* backend.commitTogether([{ path: pathOf(`${name}/file`), bytes: bytes(10), sha256 }])
          for (const outcome of outcomes) {
            assert.strictEqual((yield* Effect.fromResult(outcome)).sha256, sha256)
          }
        }
      }).pipe(Effect.scoped)
  )

  fresh("lets exactly one of many commits of one path win", () =>
    Effect.gen(function*() {
      const path = pathOf("contested")
      const outcomes = yield* Effect.forEach(
        Array.from({ length: 16 }, (_, seed) => seed + 1),
        (seed) => Effect.result(write(path, bytes(1000, seed))),
        { concurrency: 16 }
      )
      assert.deepStrictEqual(
        outcomes.map((outcome) => outcome._tag === "Success" ? "committed" : outcome.failure._tag).sort(),
        [...Array.from({ length: 15 }, () => "AlreadyExists"), "committed"]
      )
      const winner = outcomes.findIndex((outcome) => outcome._tag === "Success")
      const held = yield* Effect.fromOption(yield* (yield* Backend).adopt(path))
      assert.strictEqual(held.sha256, sha256Of(bytes(1000, winner + 1)))
    }))

  fresh("shows every file only whole while many are committed", ({ data }) =>
    Effect.gen(function*() {
      const size = 3 * mib
      const committing = yield* Effect.forkChild(
        Effect.forEach(Array.from({ length: 24 }, (_, n) => n), (n) => write(pathOf(`w/${n}`), bytes(size, n + 1)), {
          concurrency: 3
        })
      )
      let seen = 0
      const look = Effect.gen(function*() {
        yield* Stream.runForEach((yield* Backend).list(""), (file) =>
          Effect.gen(function*() {
            seen++
            assert.strictEqual(file.size, size)
            const content = yield* Effect.promise(() => readFile(join(data, file.path)))
            assert.strictEqual(sha256Of(content), sha256Of(bytes(size, Number(file.path.slice(2)) + 1)))
          }))
      })
      while (committing.pollUnsafe() === undefined) yield* look
      yield* Fiber.join(committing)
      yield* look
      assert.isAbove(seen, 24)
    }))

  fresh("has a file whole or not at all when its commit is interrupted", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const found = yield* Effect.forEach(Array.from({ length: 60 }, (_, n) => n), (n) =>
        Effect.gen(function*() {
          const path = pathOf(`i/${n}`)
          const writing = yield* Effect.forkChild(write(path, bytes(200_000, n + 1)))
          // Another point in its way each time: so many small reads of the disk later.
          yield* Effect.forEach(Array.from({ length: n }), () => backend.stat(pathOf("i/absent")), { discard: true })
          yield* Fiber.interrupt(writing)
          const held = yield* backend.adopt(path)
          if (Option.isSome(held)) assert.strictEqual(held.value.sha256, sha256Of(bytes(200_000, n + 1)))
          return Option.isSome(held)
        }))
      assert.includeMembers(found, [true, false])
    }))

  fresh(
    "commits on a filesystem without hard links, never over another file",
    ({ data, state }) =>
      Effect.gen(function*() {
        const withoutLinks = () => Effect.fail(new Refused({ code: "EPERM", detail: "operation not permitted" }))
        const placeIt = (seed: number) =>
          Effect.gen(function*() {
            const name = join(state, `staged-${seed}`)
            yield* Effect.promise(() => writeFile(name, bytes(10, seed)))
            const { dev, ino } = yield* lstat(name)
            const source = { name, inode: ino, device: dev, sha256: sha256Of(bytes(10, seed)) }
            return yield* place({ data, state }, pathOf("a/file"), source, true, withoutLinks)
          })
        yield* placeIt(1)
        const error = yield* Effect.flip(placeIt(2))
        assert.strictEqual(error._tag, "AlreadyExists")
        assert.deepStrictEqual(new Uint8Array(readFileSync(join(data, "a/file"))), bytes(10, 1))
        assert.deepStrictEqual(new Uint8Array(readFileSync(join(state, "staged-2"))), bytes(10, 2))
      })
  )
})
