/** What every backend must do, whatever it keeps the bytes in. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, type Layer, Option, Stream } from "effect"
import { createHash } from "node:crypto"
import { Backend, type BackendError } from "../../ports/Backend.ts"
import { Sha256 } from "../../ports/FileEntry.ts"
import { FilePath } from "../../ports/FilePath.ts"
import { compare } from "./suiteCompare.ts"
import { staging } from "./suiteStaging.ts"
import { together } from "./suiteTogether.ts"
import { bytes, collector, type Live, pathOf, pull, sha256Of, write } from "./support.ts"

const mib = 1024 * 1024

/** `fresh` gives a backend of its own each time it is built. */
export const suite = (name: string, fresh: Layer.Layer<Backend, BackendError>): void => {
  describe(name, () => {
    const live: Live = (sentence, body) => it.live(sentence, () => body().pipe(Effect.provide(fresh)))

    live("shows a committed file under its name, with its digest, size and stat", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const path = pathOf("db/cpu/a.parquet")
        const content = bytes(300_000)
        const held = yield* write(path, content)
        assert.strictEqual(held.sha256, sha256Of(content))
        assert.strictEqual(held.size, content.length)
        assert.deepStrictEqual(
          yield* backend.stat(path),
          Option.some({
            path,
            size: held.size,
            mtime: held.mtime,
            inode: held.inode
          })
        )
        assert.deepStrictEqual(yield* backend.adopt(path), Option.some(held))
      }))

    live("commits an empty file", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const path = pathOf("empty")
        yield* write(path, new Uint8Array())
        assert.deepStrictEqual(Option.map(yield* backend.stat(path), ({ size }) => size), Option.some(0))
        yield* backend.read(path, 0, 0, collector().sink)
      }))

    live("does not keep a chunk after its write has ended", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const path = pathOf("reused")
        const content = bytes(3 * 65_536, 5)
        const buffer = new Uint8Array(65_536)
        const staged = yield* backend.stage(path)
        for (let at = 0; at < content.length; at += buffer.length) {
          buffer.set(content.subarray(at, at + buffer.length))
          yield* staged.write(buffer)
        }
        buffer.fill(0)
        yield* staged.commit(sha256Of(content))
        const read = collector()
        yield* backend.read(path, 0, content.length, read.sink)
        assert.isTrue(read.bytes().equals(content))
      }))

    live("reads exactly the bytes that were asked for", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const path = pathOf("db/range")
        const content = bytes(5 * mib + 321, 2)
        yield* write(path, content)
        for (
          const [offset, length] of [
            [0, content.length],
            [1, 10],
            [mib - 1, 2 * mib + 2],
            [content.length - 1, 1],
            [
              content.length,
              0
            ],
            [64_000, 65_536],
            [3, 65_537]
          ] as const
        ) {
          const read = collector()
          yield* backend.read(path, offset, length, read.sink)
          assert.isTrue(read.bytes().equals(content.subarray(offset, offset + length)), `${length} from ${offset}`)
        }
      }))

    live("fails to read behind the end of a file, and a file that is not there", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const path = pathOf("short")
        yield* write(path, bytes(100))
        const read = collector()
        const beyond = yield* Effect.flip(backend.read(path, 50, 51, read.sink))
        assert.strictEqual(beyond.reason, "Io")
        assert.strictEqual(read.bytes().length, 0)
        const absent = yield* Effect.flip(backend.read(pathOf("nowhere/at/all"), 0, 1, read.sink))
        assert.strictEqual(absent.reason, "NotFound")
      }))

    live(
      "reads many files at once, one behind another, and says which could not be read and why",
      () =>
        Effect.gen(function*() {
          const backend = yield* Backend
          const held = [["db/a", 1000], ["empty", 0], ["db/b", 5000], ["top", 300_000], ["db/c", 7]] as const
          const contents = held.map(([path, length], n) => ({ path: pathOf(path), content: bytes(length, n + 1) }))
          yield* Effect.forEach(contents, ({ content, path }) => write(path, content))
          const all = contents.map(({ content, path }) => ({ path, length: content.length }))
          const whole = yield* backend.readTogether(all)
          assert.isTrue(Buffer.concat(contents.map(({ content }) => content)).equals(whole.bytes))
          assert.strictEqual(whole.unread.size, 0)
          const asked = [
            { path: pathOf("nowhere/at/all"), length: 10 },
            { path: pathOf("db/b"), length: 10 },
            { path: pathOf("db/a"), length: 1001 },
            { path: pathOf("db"), length: 0 },
            { path: pathOf("db/c"), length: 7 },
            { path: pathOf("db/gone"), length: 1 }
          ]
          const some = yield* backend.readTogether(asked)
          const given = contents.flatMap(({ content, path }) =>
            path === "db/b" ? [content.subarray(0, 10)] : path === "db/c" ? [content] : []
          )
          assert.isTrue(Buffer.concat(given).equals(some.bytes))
          assert.deepStrictEqual(Array.from(some.unread.keys()).sort(), [0, 2, 3, 5])
          assert.deepInclude(some.unread.get(0), { operation: "read", path: "nowhere/at/all", reason: "NotFound" })
          assert.deepInclude(some.unread.get(2), { operation: "read", path: "db/a", reason: "Io" })
          assert.strictEqual(some.unread.get(5)?.reason, "NotFound")
          const nothing = yield* backend.readTogether([])
          assert.deepStrictEqual([nothing.bytes.length, nothing.unread.size], [0, 0])
        })
    )

    live("gives the sink's failure to whoever reads, unchanged", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const path = pathOf("sunk")
        yield* write(path, bytes(4 * mib))
        const error = yield* Effect.flip(
          backend.read(path, 0, 4 * mib, { write: () => Effect.fail("enough" as const) })
        )
        assert.strictEqual(error, "enough")
      }))

    live("never shows bytes that are not those expected, and begins again at 0", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const path = pathOf("db/wrong")
        const content = bytes(2000, 3)
        const staged = yield* backend.stage(path, sha256Of(content))
        yield* staged.write(bytes(2000, 4))
        const error = yield* Effect.flip(staged.commit(sha256Of(content)))
        assert.strictEqual(error._tag, "DigestMismatch")
        assert.deepStrictEqual(yield* backend.stat(path), Option.none())
        assert.strictEqual(yield* staged.length, 0)
        yield* staged.write(content)
        yield* staged.commit(sha256Of(content))
        assert.isTrue(Option.isSome(yield* backend.stat(path)))
      }))

    live("never commits over another file, and keeps the staged bytes", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const path = pathOf("db/taken")
        const first = bytes(1000, 1)
        const second = bytes(1000, 2)
        const held = yield* write(path, first)
        const staged = yield* backend.stage(path, sha256Of(second))
        yield* staged.write(second)
        const error = yield* Effect.flip(staged.commit(sha256Of(second)))
        assert.strictEqual(error._tag, "AlreadyExists")
        assert.deepStrictEqual(yield* backend.adopt(path), Option.some(held))
        yield* backend.quarantine(path)
        const now = yield* staged.commit(sha256Of(second))
        assert.strictEqual(now.sha256, sha256Of(second))
      }))

    together(live)
    staging(live)

    live("removes a file and whatever is staged for it, and nothing else", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const path = pathOf("a/b/gone")
        const neighbour = pathOf("a/b/stays")
        yield* write(path, bytes(10))
        yield* write(neighbour, bytes(10))
        yield* pull(path, sha256Of(bytes(mib, 2)), bytes(mib))
        yield* pull(neighbour, sha256Of(bytes(mib, 2)), bytes(mib))
        yield* backend.remove(path)
        yield* backend.remove(path)
        assert.deepStrictEqual(yield* backend.stat(path), Option.none())
        assert.isTrue(Option.isSome(yield* backend.stat(neighbour)))
        const lengths = yield* Effect.forEach(
          [path, neighbour],
          (each) => Effect.flatMap(backend.stage(each, sha256Of(bytes(mib, 2))), (staged) => staged.length)
        )
        assert.deepStrictEqual(lengths, [0, mib])
      }))

    live("quarantines a file out of sight; nothing to quarantine is fine", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const path = pathOf("a/b/odd")
        yield* write(path, bytes(10))
        yield* backend.quarantine(path)
        yield* backend.quarantine(path)
        assert.deepStrictEqual(yield* backend.stat(path), Option.none())
        assert.deepStrictEqual(yield* Stream.runCollect(backend.list("")), [])
      }))

    compare(live)

    live("lists every file once, and those below one folder", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const paths = Array.from({ length: 600 }, (_, n) => pathOf(`${n % 3 === 0 ? "x" : "y/z"}/${n}`))
        yield* Effect.forEach(paths, (path, n) => write(path, bytes(n % 7)), { concurrency: 8 })
        const listing = (files: ReturnType<typeof backend.list>) =>
          Effect.map(Stream.runCollect(files), (files) => files.map(({ path, size }) => `${path} ${size}`).sort())
        const listed = (folder: string) => listing(backend.list(folder))
        const all = paths.map((path, n) => `${path} ${n % 7}`).sort()
        assert.deepStrictEqual(yield* listed(""), all)
        assert.deepStrictEqual(yield* listed("x"), all.filter((line) => line.startsWith("x/")))
        assert.deepStrictEqual(yield* listed("y"), all.filter((line) => line.startsWith("y/")))
        assert.deepStrictEqual(yield* listed("nowhere"), [])
        assert.strictEqual((yield* Effect.flip(listed("../up"))).reason, "Unsafe")
        // What was listed once is listed anew.
        const again = backend.list("y")
        yield* listing(again)
        yield* write(pathOf("y/new"), bytes(3))
        assert.deepStrictEqual(yield* listing(again), ["y/new 3", ...all.filter((line) => line.startsWith("y/"))])
      }))

    live("says which file stands where a folder is needed", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        yield* write(pathOf("a/file"), bytes(10))
        const path = pathOf("a/file/below/it")
        const error = yield* Effect.flip(write(path, bytes(10)))
        assert.strictEqual(error._tag === "BackendError" ? error.reason : error._tag, "Unsafe")
        assert.include(error.message, "is a file, and the path needs a folder there")
        assert.strictEqual((yield* Effect.flip(backend.checkName(path))).reason, "Unsafe")
        assert.deepStrictEqual(yield* backend.stat(path), Option.none())
        assert.deepStrictEqual(yield* backend.adopt(path), Option.none())
        yield* backend.remove(path)
        assert.isTrue(Option.isSome(yield* backend.stat(pathOf("a/file"))))
      }))

    live("refuses to commit where a folder stands, which it does not remove", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        yield* write(pathOf("a/folder/file"), bytes(10))
        const error = yield* Effect.flip(write(pathOf("a/folder"), bytes(10)))
        assert.strictEqual(error._tag === "BackendError" ? error.reason : error._tag, "Unsafe")
        assert.strictEqual((yield* Effect.flip(backend.checkName(pathOf("a/folder")))).reason, "Unsafe")
        yield* backend.remove(pathOf("a/folder"))
        assert.isTrue(Option.isSome(yield* backend.stat(pathOf("a/folder/file"))))
      }))

    live("takes any name that is a valid path", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const paths = [
          "ä/日本/🙂.parquet",
          " leading space",
          "a\nb",
          `${"x".repeat(255)}`,
          "$(rm -rf ~)",
          "-rf",
          "%2e%2e"
        ]
        for (const path of [...paths, ...paths.map((path) => `no/folder/yet/${path}`)]) {
          yield* backend.checkName(FilePath.make(path))
        }
        yield* Effect.forEach(paths, (path) => write(FilePath.make(path), bytes(3)))
        for (const path of paths) yield* backend.checkName(FilePath.make(path))
        const listed = yield* Stream.runCollect(backend.list(""))
        assert.deepStrictEqual(listed.map(({ path }) => String(path)).sort(), paths.sort())
      }))

    live("hashes the same as a plain SHA-256 whatever the sizes of the chunks", () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const content = bytes(700_001, 13)
        for (const size of [1, 4096, 262_144, 1_000_000]) {
          const path = pathOf(`chunks/${size}`)
          const part = size === 1 ? content.subarray(0, 500) : content
          const held = yield* Effect.scoped(Effect.gen(function*() {
            const staged = yield* backend.stage(path)
            for (let at = 0; at < part.length; at += size) yield* staged.write(part.subarray(at, at + size))
            return yield* staged.commit(Sha256.make(createHash("sha256").update(part).digest("hex")))
          }))
          assert.strictEqual(held.size, part.length)
        }
      }))
  })
}
