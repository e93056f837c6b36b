/** What every backend must do with bytes that are staged: earlier tries, sealed bytes, and what is left over. */
import { assert } from "@effect/vitest"
import { Effect, Option } from "effect"
import { Backend } from "../../ports/Backend.ts"
import { bytes, type Live, pathOf, pull, sha256Of, write } from "./support.ts"

const mib = 1024 * 1024

export const staging = (live: Live): void => {
  live(
    "goes on with an earlier try for the same path and digest, rounded down to 16 KiB",
    () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const path = pathOf("db/resumed")
        const content = bytes(3 * mib + 700, 6)
        yield* pull(path, sha256Of(content), content.subarray(0, 2 * mib + 350_000))
        yield* Effect.scoped(Effect.gen(function*() {
          const staged = yield* backend.stage(path, sha256Of(content))
          const kept = 2 * mib + 336 * 1024
          assert.strictEqual(yield* staged.length, kept)
          yield* staged.write(content.subarray(kept))
          const held = yield* staged.commit(sha256Of(content))
          assert.strictEqual(held.size, content.length)
        }))
      })
  )

  live("asks for nothing again when an earlier try had every byte", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const path = pathOf("db/whole")
      const content = bytes(mib + 700, 7)
      yield* pull(path, sha256Of(content), content)
      const staged = yield* backend.stage(path, sha256Of(content))
      assert.strictEqual(yield* staged.length, content.length)
      yield* staged.commit(sha256Of(content))
    }))

  live("does not mix tries for other digests, other paths, and writes", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const path = pathOf("db/apart")
      const content = bytes(mib, 8)
      yield* pull(path, sha256Of(content), content)
      const lengths = yield* Effect.forEach([
        backend.stage(path, sha256Of(bytes(10, 9))),
        backend.stage(pathOf("db/apart2"), sha256Of(content)),
        backend.stage(path),
        backend.stage(path)
      ], (stage) => Effect.flatMap(stage, (staged) => staged.length))
      assert.deepStrictEqual(lengths, [0, 0, 0, 0])
    }))

  live("refuses to stage the same bytes twice at once", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const path = pathOf("db/twice")
      const digest = sha256Of(bytes(10))
      yield* Effect.scoped(Effect.gen(function*() {
        yield* backend.stage(path, digest)
        const error = yield* Effect.flip(backend.stage(path, digest))
        assert.strictEqual(error.reason, "Io")
      }))
      yield* backend.stage(path, digest)
    }))

  live("restarts at 0 and forgets what was written before", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const path = pathOf("db/restarted")
      const content = bytes(500, 10)
      const staged = yield* backend.stage(path)
      yield* staged.write(bytes(9000, 11))
      yield* staged.restart
      yield* staged.write(content)
      const held = yield* staged.commit(sha256Of(content))
      assert.strictEqual(held.size, 500)
    }))

  live("drops what was written and not sealed when its scope closes", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const freed = Effect.gen(function*() {
        const before = yield* backend.freeSpace
        yield* Effect.scoped(Effect.flatMap(backend.stage(pathOf("db/dropped")), (staged) => staged.write(bytes(mib))))
        return (yield* backend.freeSpace) - before
      })
      // Others write to the same disk meanwhile: not each time, but what is never dropped is missing each time.
      const change = yield* Effect.repeat(freed, { until: (change) => change > -mib / 2, times: 50 })
      assert.isAbove(change, -mib / 2)
      assert.deepStrictEqual(yield* backend.stat(pathOf("db/dropped")), Option.none())
    }))

  live("drops sealed bytes that nobody knows any more, and no others", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const seal = (path: string) =>
        Effect.scoped(Effect.gen(function*() {
          const staged = yield* backend.stage(pathOf(path))
          yield* staged.write(bytes(10))
          return (yield* staged.seal).token
        }))
      const known = yield* seal("db/known")
      const unknown = yield* seal("db/unknown")
      yield* pull(pathOf("db/partial"), sha256Of(bytes(300_000)), bytes(300_000).subarray(0, 270_000))
      assert.strictEqual(yield* backend.dropSealed(new Set([known])), 1)
      assert.strictEqual(yield* backend.dropSealed(new Set([known])), 0)
      assert.isTrue(Option.isNone(yield* Effect.scoped(backend.unseal(pathOf("db/unknown"), unknown))))
      assert.isTrue(Option.isSome(yield* Effect.scoped(backend.unseal(pathOf("db/known"), known))))
      const staged = yield* backend.stage(pathOf("db/partial"), sha256Of(bytes(300_000)))
      assert.strictEqual(yield* staged.length, 262_144)
    }))

  live("finds sealed bytes again by their token, and only under their path", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const path = pathOf("db/sealed")
      const content = bytes(mib + 5, 12)
      const sealed = yield* Effect.scoped(Effect.gen(function*() {
        const staged = yield* backend.stage(path)
        yield* staged.write(content)
        const sealed = yield* staged.seal
        assert.deepStrictEqual(yield* staged.seal, sealed)
        assert.strictEqual((yield* Effect.flip(staged.write(content))).reason, "Io")
        return sealed
      }))
      assert.deepStrictEqual({ sha256: sealed.sha256, size: sealed.size }, {
        sha256: sha256Of(content),
        size: content.length
      })
      assert.isTrue(Option.isNone(yield* backend.unseal(pathOf("db/other"), sealed.token)))
      assert.isTrue(Option.isNone(yield* backend.unseal(path, "../../etc/passwd")))
      yield* Effect.scoped(Effect.gen(function*() {
        const staged = yield* Effect.fromOption(yield* backend.unseal(path, sealed.token))
        assert.strictEqual(yield* staged.length, content.length)
      }))
      const staged = yield* Effect.fromOption(yield* backend.unseal(path, sealed.token))
      const held = yield* staged.commit(sealed.sha256)
      assert.strictEqual(held.size, content.length)
      assert.deepStrictEqual(yield* backend.adopt(path), Option.some(held))
    }))

  live("finds no sealed bytes that were committed or discarded", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      for (const end of ["commit", "discard"] as const) {
        const path = pathOf(`db/${end}`)
        const { token } = yield* Effect.scoped(Effect.gen(function*() {
          const staged = yield* backend.stage(path)
          yield* staged.write(bytes(10))
          const sealed = yield* staged.seal
          yield* end === "commit" ? staged.commit(sealed.sha256) : staged.discard
          return sealed
        }))
        assert.isTrue(Option.isNone(yield* backend.unseal(path, token)))
      }
    }))

  live("does not commit bytes whose path was removed while they were staged", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const path = pathOf("a/late")
      const staged = yield* backend.stage(path, sha256Of(bytes(10)))
      yield* staged.write(bytes(10))
      yield* backend.remove(path)
      const error = yield* Effect.flip(staged.commit(sha256Of(bytes(10))))
      assert.strictEqual(error._tag, "BackendError")
      assert.deepStrictEqual(yield* backend.stat(path), Option.none())
    }))

  live("drops what is left over beyond its cap, but nothing that is in hand or sealed", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const content = bytes(mib, 8)
      const size = 512 * 1024
      const half = content.subarray(0, size)
      for (const name of ["a", "b"]) yield* pull(pathOf(name), sha256Of(content), half)
      const { token } = yield* Effect.scoped(Effect.gen(function*() {
        const staged = yield* backend.stage(pathOf("sealed"))
        yield* staged.write(content)
        return yield* staged.seal
      }))
      for (const name of ["c", "d"]) {
        yield* write(pathOf(name), half)
        yield* backend.quarantine(pathOf(name))
      }
      const inHand = yield* backend.stage(pathOf("in-hand"), sha256Of(content))
      yield* inHand.write(half)
      const day = 86_400_000
      const trim = (maxBytes: number) => {
        const cap = { maxBytes, maxAgeMillis: day }
        return Effect.map(
          backend.trim({ partials: cap, quarantined: cap }),
          ({ partials, quarantined }) => [partials, quarantined]
        )
      }
      const nothing = { files: 0, bytes: 0 }
      assert.deepStrictEqual(yield* trim(2 * size), [nothing, nothing])
      const one = { files: 1, bytes: size }
      assert.deepStrictEqual(yield* trim(2 * size - 1), [one, one])
      assert.deepStrictEqual(yield* trim(0), [one, one])
      assert.deepStrictEqual(yield* trim(0), [nothing, nothing])
      for (const name of ["a", "b"]) {
        const again = yield* backend.stage(pathOf(name), sha256Of(content))
        assert.strictEqual(yield* again.length, 0)
      }
      assert.isTrue(Option.isSome(yield* Effect.scoped(backend.unseal(pathOf("sealed"), token))))
      yield* inHand.write(content.subarray(size))
      yield* inHand.commit(sha256Of(content))
    }))
}
