/** What every backend must do with small files that are committed together. */
import { assert } from "@effect/vitest"
import { Effect, Option } from "effect"
import { Backend } from "../../ports/Backend.ts"
import { bytes, collector, type Live, pathOf, pull, sha256Of, write } from "./support.ts"

export const together = (live: Live): void => {
  const whole = (path: string, content: Uint8Array) => ({
    path: pathOf(path),
    bytes: content,
    sha256: sha256Of(content)
  })

  live("shows many small files at once, in folders that exist and that do not", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      yield* write(pathOf("there/first"), bytes(10))
      const files = Array.from({ length: 150 }, (_, n) =>
        whole(n % 3 === 0 ? `there/${n}` : `new/${n % 5}/deep/${n}`, bytes(100 * (n % 7) + n, n + 1)))
      const outcomes = yield* backend.commitTogether(files)
      assert.strictEqual(outcomes.length, files.length)
      for (const [n, { bytes, path, sha256 }] of files.entries()) {
        const outcome = outcomes[n]
        if (outcome?._tag !== "Success") {
          return assert.fail(`${path} was not shown`)
        }
        assert.deepInclude(outcome.success, { sha256, size: bytes.length })
        const { inode, mtime, size } = outcome.success
        assert.deepStrictEqual(yield* backend.stat(path), Option.some({ path, size, mtime, inode }))
        const read = collector()
        yield* backend.read(path, 0, size, read.sink)
        assert.isTrue(read.bytes().equals(bytes))
      }
    }))

  live("shows none of those that are wrong or taken, and all the others", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const held = yield* write(pathOf("db/taken"), bytes(10))
      const outcomes = yield* backend.commitTogether([
        whole("db/a", bytes(20)),
        { ...whole("db/wrong", bytes(20)), bytes: bytes(20, 7) },
        whole("db/taken", bytes(30)),
        whole("db", bytes(40)),
        whole("db/taken/below", bytes(50)),
        whole("db/b", bytes(60))
      ])
      const tags = outcomes.map((outcome) => outcome._tag === "Success" ? "Held" : outcome.failure._tag)
      assert.deepStrictEqual(tags, [
        "Held",
        "DigestMismatch",
        "AlreadyExists",
        "BackendError",
        "BackendError",
        "Held"
      ])
      assert.deepStrictEqual(yield* backend.adopt(pathOf("db/taken")), Option.some(held))
      assert.deepStrictEqual(yield* backend.stat(pathOf("db/wrong")), Option.none())
      const mismatch = outcomes[1]
      if (mismatch?._tag !== "Failure" || mismatch.failure._tag !== "DigestMismatch") return assert.fail("it was shown")
      assert.deepInclude(mismatch.failure, {
        path: pathOf("db/wrong"),
        expected: sha256Of(bytes(20)),
        actual: sha256Of(bytes(20, 7))
      })
      // What is refused may be tried again, whole.
      const again = yield* backend.commitTogether([whole("db/wrong", bytes(20))])
      assert.strictEqual(again[0]?._tag, "Success")
      assert.deepStrictEqual(yield* backend.commitTogether([]), [])
    }))

  live("leaves an earlier try to pull the same file alone", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const content = bytes(600 * 1024)
      yield* pull(pathOf("db/a"), sha256Of(content), content.subarray(0, 300 * 1024))
      const [outcome] = yield* backend.commitTogether([whole("db/a", content)])
      assert.strictEqual(outcome?._tag, "Success")
      const staged = yield* backend.stage(pathOf("db/a"), sha256Of(content))
      assert.strictEqual(yield* staged.length, 288 * 1024)
    }))
}
