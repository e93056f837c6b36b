/** A disk that fails or takes its time, which `node:fs` is made to say. */
import { assert, describe } from "@effect/vitest"
import { Effect, Exit, Fiber, Option, Scope } from "effect"
import fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import { every } from "../../src/backend/writeBack.ts"
import { Backend } from "../../src/ports/Backend.ts"
import { bytes, pathOf, sha256Of } from "../../src/testing/backend/support.ts"
import { fresh } from "./local.ts"

type Done = (error: NodeJS.ErrnoException | null) => void
type Call = (fd: number, ...rest: ReadonlyArray<unknown>) => void

const doneOf = (rest: ReadonlyArray<unknown>): Done => {
  const done = rest.at(-1)
  return (error) => void (typeof done === "function" && Reflect.apply(done, undefined, [error]))
}

/** Puts another call in the place of one, until the scope closes. */
const replace = (name: "close" | "fdatasync" | "fsync" | "write", make: (original: Call) => Call) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const original = fs[name]
      Reflect.set(fs, name, make((...args) => Reflect.apply(original, fs, args)))
      syncBuiltinESMExports()
      return original
    }),
    (original) =>
      Effect.sync(() => {
        Reflect.set(fs, name, original)
        syncBuiltinESMExports()
      })
  )

/** Early syncs that are answered by hand. */
const heldBack = Effect.gen(function*() {
  const asked: Array<{ readonly fd: number; readonly done: Done }> = []
  yield* replace("fdatasync", () => (fd, ...rest) => void asked.push({ fd, done: doneOf(rest) }))
  return asked
})

const broken = Object.assign(new Error("i/o error"), { code: "EIO" })
const chunk = bytes(every / 8, 1)
const enough = Array.from({ length: 8 }, () => chunk)
const content = Buffer.concat(enough)
const digest = sha256Of(content)
const path = pathOf("a/file")

const begun = Effect.gen(function*() {
  const staged = yield* (yield* Backend).stage(path, digest)
  for (const chunk of enough) yield* staged.write(chunk)
  return staged
})

describe("BackendLocal, when the disk is slow or fails,", () => {
  fresh(
    "begins to sync while bytes still come, and a commit does not overlook that it failed",
    () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const asked = yield* heldBack
        yield* Effect.scoped(Effect.gen(function*() {
          const staged = yield* begun
          assert.strictEqual(asked.length, 1)
          const committing = yield* Effect.forkChild(Effect.flip(staged.commit(digest)), { startImmediately: true })
          asked[0]?.done(broken)
          const error = yield* Fiber.join(committing)
          assert(error._tag === "BackendError")
          assert.strictEqual(error.reason, "Unreadable")
          assert.include(error.message, "the disk reported an error")
          assert.deepStrictEqual(yield* backend.adopt(path), Option.none())
          assert.strictEqual((yield* Effect.flip(staged.write(chunk)))._tag, "BackendError")
          assert.strictEqual((yield* Effect.flip(staged.seal))._tag, "BackendError")
        }))
        // What may be lost is in memory still, and looks right.
        yield* Effect.scoped(Effect.gen(function*() {
          assert.strictEqual(yield* (yield* backend.stage(path, digest)).length, 0)
        }))
      }).pipe(Effect.scoped)
  )

  fresh("keeps nothing of what a failed sync was for, when a write failed meanwhile", () =>
    Effect.gen(function*() {
      const asked = yield* heldBack
      yield* Effect.scoped(Effect.gen(function*() {
        const staged = yield* begun
        yield* Effect.scoped(Effect.andThen(
          replace("write", () => (_fd, ...rest) => doneOf(rest)(broken)),
          Effect.flip(staged.write(chunk))
        ))
        assert.strictEqual(yield* staged.length, every)
        asked[0]?.done(broken)
      }))
      assert.strictEqual(yield* (yield* (yield* Backend).stage(path, digest)).length, 0)
    }).pipe(Effect.scoped))

  fresh("can begin anew with bytes of which a sync failed", () =>
    Effect.gen(function*() {
      const asked = yield* heldBack
      const staged = yield* begun
      const restarting = yield* Effect.forkChild(staged.restart, { startImmediately: true })
      // The disk answers others meanwhile.
      for (let n = 0; n < 20; n++) yield* (yield* Backend).stat(path)
      asked[0]?.done(broken)
      yield* Fiber.join(restarting)
      yield* staged.write(chunk)
      yield* staged.commit(sha256Of(chunk))
    }).pipe(Effect.scoped))

  fresh("commits nothing behind a sync that failed, for the next one would succeed", () =>
    Effect.gen(function*() {
      let syncs = 0
      yield* replace(
        "fsync",
        (original) => (fd, ...rest) => syncs++ === 0 ? doneOf(rest)(broken) : original(fd, ...rest)
      )
      const staged = yield* (yield* Backend).stage(path)
      yield* staged.write(chunk)
      for (let n = 0; n < 2; n++) {
        assert.include((yield* Effect.flip(staged.commit(sha256Of(chunk)))).message, "the disk reported an error")
      }
      assert.deepStrictEqual(yield* (yield* Backend).adopt(path), Option.none())
    }).pipe(Effect.scoped))

  fresh("keeps a file open until its sync has ended", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const asked = yield* heldBack
      const closed: Array<number> = []
      yield* replace("close", (original) => (fd, ...rest) => {
        closed.push(fd)
        original(fd, ...rest)
      })
      const scope = yield* Scope.make()
      yield* Scope.provide(begun, scope)
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      // The disk answers others meanwhile.
      for (let n = 0; n < 20; n++) yield* backend.stat(path)
      assert.deepStrictEqual(closed, [])
      asked[0]?.done(null)
      yield* Fiber.join(closing)
      assert.deepStrictEqual(closed, asked.map(({ fd }) => fd))
    }).pipe(Effect.scoped))

  fresh("syncs one file at a time early, and the next when that has ended", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const asked = yield* heldBack
      yield* begun
      const other = yield* backend.stage(pathOf("a/other"))
      for (const chunk of enough) yield* other.write(chunk)
      const before = asked.map(({ fd }) => fd)
      for (const { done } of asked) done(null)
      assert.strictEqual(before.length, 1)
      yield* other.write(chunk)
      const after = asked.map(({ fd }) => fd)
      for (const { done } of asked) done(null)
      assert.strictEqual(new Set(after).size, 2)
      yield* other.commit(sha256Of(Buffer.concat([content, chunk])))
    }).pipe(Effect.scoped))
})
