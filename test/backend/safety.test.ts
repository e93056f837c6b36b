/** The data folder under attack. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import { execFile, spawn } from "node:child_process"
import { existsSync, lstatSync, readFileSync } from "node:fs"
import { link, mkdir, readdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { promisify } from "node:util"
import { Backend } from "../../src/ports/Backend.ts"
import { bytes, collector, pathOf, pull, sha256Of, write } from "../../src/testing/backend/support.ts"
import { temporaryFolder } from "../support/folder.ts"
import { type Folders, fresh, local, run } from "./local.ts"

const mib = 1024 * 1024

/** Every operation on a path must be refused as unsafe; but what is no file under its very name has nothing to remove. */
const refusesAll = (path: string, underItsName = true) =>
  Effect.gen(function*() {
    const backend = yield* Backend
    const file = pathOf(path)
    const errors = yield* Effect.forEach([
      write(file, bytes(10)),
      Effect.flatMap(
        backend.commitTogether([{ path: file, bytes: bytes(10), sha256: sha256Of(bytes(10)) }]),
        ([outcome]) => outcome === undefined ? Effect.void : Effect.fromResult(outcome)
      ),
      backend.read(file, 0, 1, collector().sink),
      Effect.flatMap(
        // The second is in the folder of the first.
        backend.readTogether([{ path: file, length: 1 }, { path: file, length: 1 }]),
        ({ bytes, unread }) => Effect.fail(unread.get(0) === undefined ? bytes : unread.get(1))
      ),
      backend.adopt(file),
      backend.stat(file),
      backend.checkName(file),
      backend.quarantine(file)
    ], (operation: Effect.Effect<unknown, unknown, Backend>) => Effect.flip(operation))
    assert.deepStrictEqual(
      errors.map((error) => error instanceof Object && "reason" in error ? error.reason : error),
      Array.from({ length: 8 }, () => "Unsafe")
    )
    if (underItsName) yield* backend.remove(file)
    else assert.strictEqual((yield* Effect.flip(backend.remove(file))).reason, "Unsafe")
  })

describe("BackendLocal never follows a symbolic link", () => {
  fresh("in place of a folder", ({ data, state }) =>
    Effect.gen(function*() {
      const outside = join(state, "..", "outside")
      yield* Effect.promise(async () => {
        await mkdir(join(outside, "inner"), { recursive: true })
        await writeFile(join(outside, "secret"), "secret")
        await writeFile(join(outside, "inner", "secret"), "secret")
        await mkdir(join(data, "a"))
        await symlink(outside, join(data, "a", "link"))
      })
      yield* refusesAll("a/link/secret", false)
      yield* refusesAll("a/link/inner/secret", false)
      assert.deepStrictEqual(yield* Effect.promise(() => readdir(outside)), ["inner", "secret"])
      const backend = yield* Backend
      assert.strictEqual((yield* Effect.flip(Stream.runCollect(backend.list("a/link")))).reason, "Unsafe")
      const names = ["a/gone", "a/link/gone", "a/link/none/gone"].map(pathOf)
      assert.deepStrictEqual(yield* backend.absent(names), [pathOf("a/gone")])
    }))

  fresh("that leads nowhere, in place of a folder", ({ data, state }) =>
    Effect.gen(function*() {
      yield* Effect.promise(() => symlink(join(state, "..", "nowhere"), join(data, "link")))
      const error = yield* Effect.flip(write(pathOf("link/file"), bytes(10)))
      assert.include(error.message, "symbolic link")
      assert.isFalse(existsSync(join(state, "..", "nowhere")))
      const backend = yield* Backend
      for (const path of ["link", "link/file", "link/none/file"]) {
        assert.strictEqual((yield* Effect.flip(backend.checkName(pathOf(path)))).reason, "Unsafe")
        yield* backend.remove(pathOf(path))
      }
      assert.isTrue(lstatSync(join(data, "link")).isSymbolicLink())
    }))

  fresh("but takes none for one where a folder is made meanwhile", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      for (let n = 0; n < 1000; n++) {
        const names = Array.from({ length: 4 }, (_, each) => backend.checkName(pathOf(`made ${n}/below/${each}`)))
        yield* Effect.all([...names, write(pathOf(`made ${n}/below/file`), bytes(10))], { concurrency: "unbounded" })
      }
    }))

  fresh("in place of a file", ({ data, state }) =>
    Effect.gen(function*() {
      const outside = join(state, "..", "outside")
      yield* Effect.promise(async () => {
        await writeFile(outside, "secret")
        await symlink(outside, join(data, "file"))
      })
      yield* refusesAll("file")
      assert.strictEqual(readFileSync(outside, "utf8"), "secret")
      assert.isTrue(lstatSync(join(data, "file")).isSymbolicLink())
    }))

  fresh("in place of a staging file, which it drops", ({ data, state }) =>
    Effect.gen(function*() {
      const content = bytes(mib, 1)
      const path = pathOf("staged")
      yield* pull(path, sha256Of(content), content)
      const outside = join(state, "..", "outside")
      yield* Effect.promise(async () => {
        await writeFile(outside, "secret")
        const names = await readdir(join(state, "staging"), { recursive: true })
        const staged = join(state, "staging", names.find((name) => name.includes(".pull.")) ?? "")
        await rm(staged)
        await symlink(outside, staged)
      })
      yield* Effect.scoped(Effect.gen(function*() {
        const staged = yield* (yield* Backend).stage(path, sha256Of(content))
        assert.strictEqual(yield* staged.length, 0)
        yield* staged.write(content)
        yield* staged.commit(sha256Of(content))
      }))
      assert.strictEqual(readFileSync(outside, "utf8"), "secret")
      assert.isTrue(lstatSync(join(data, path)).isFile())
    }))

  local("in place of its own folders", (folders) =>
    Effect.gen(function*() {
      const outside = join(folders.state, "..", "outside")
      yield* run(folders, Effect.void)
      for (const own of ["staging", join("staging", "7"), "quarantine"]) {
        yield* Effect.promise(async () => {
          await mkdir(outside, { recursive: true })
          await rename(join(folders.state, own), join(folders.state, "aside"))
          await symlink(outside, join(folders.state, own))
        })
        const error = yield* Effect.flip(run(folders, Effect.void))
        assert.strictEqual(error.reason, "Unsafe", own)
        yield* Effect.promise(async () => {
          await rm(join(folders.state, own))
          await rename(join(folders.state, "aside"), join(folders.state, own))
        })
      }
    }))
})

describe("BackendLocal", () => {
  fresh(
    "says of a name that is too long in this folder that no file can have it, and that none has",
    () =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const long = pathOf(`${Array.from({ length: 20 }, () => "y".repeat(203)).join("/")}/z`)
        const error = yield* Effect.flip(backend.checkName(long))
        assert.deepInclude<object>(error, { reason: "Unsafe", detail: "the name is too long for this filesystem" })
        // It makes the folders that can be made.
        yield* Effect.flip(write(long, bytes(10)))
        yield* backend.remove(long)
        assert.deepStrictEqual(yield* backend.absent([long, pathOf("a/b")]), [pathOf("a/b")])
      })
  )

  fresh("refuses what is no file, without waiting for it", ({ data }) =>
    Effect.gen(function*() {
      yield* Effect.promise(async () => {
        await promisify(execFile)("mkfifo", [join(data, "pipe")])
        await promisify(execFile)("mknod", [join(data, "device"), "c", "1", "5"])
        await mkdir(join(data, "folder"))
      })
      yield* refusesAll("pipe")
      yield* refusesAll("device")
      yield* refusesAll("folder")
      assert.isTrue(lstatSync(join(data, "folder")).isDirectory())
    }))

  fresh(
    "changes no file outside that a hard link in the data folder is another name of",
    ({ data, state }) =>
      Effect.gen(function*() {
        const backend = yield* Backend
        const outside = join(state, "..", "outside")
        const [removed, replaced, aside] = [pathOf("removed"), pathOf("replaced"), pathOf("aside")]
        yield* Effect.promise(async () => {
          await writeFile(outside, "precious")
          for (const path of [removed, replaced, aside]) await link(outside, join(data, path))
        })
        yield* backend.remove(removed)
        yield* backend.quarantine(aside)
        yield* Effect.exit(write(replaced, bytes(100)))
        assert.strictEqual(readFileSync(outside, "utf8"), "precious")
      })
  )

  fresh(
    "reads and removes nothing outside while its folders turn into links and back",
    ({ data, state }) =>
      Effect.gen(function*() {
        const outside = join(state, "..", "outside")
        const inner = join(data, "a")
        yield* Effect.promise(async () => {
          await mkdir(outside)
          await mkdir(inner)
          for (const name of ["file", "victim"]) await writeFile(join(outside, name), "secret")
          await writeFile(join(inner, "file"), "public")
        })
        // A process of its own, so that it also strikes between two system calls of an operation.
        const swap = `while :; do mv "$1" "$1.real"; ln -s "$2" "$1"; rm "$1"; mv "$1.real" "$1"; done`
        yield* Effect.acquireRelease(
          Effect.sync(() => spawn("sh", ["-c", swap, "sh", inner, outside], { stdio: "ignore" })),
          (child) =>
            Effect.callback<void>((resume) => {
              child.once("exit", () => resume(Effect.void))
              child.kill("SIGKILL")
            })
        )
        const backend = yield* Backend
        let read = 0
        let refused = 0
        for (let turn = 0; turn < 20_000 && (read < 20 || refused < 20); turn++) {
          const { bytes: taken, sink } = collector()
          const outcome = yield* Effect.exit(backend.read(pathOf("a/file"), 0, 6, sink))
          if (outcome._tag === "Success") {
            read++
            assert.strictEqual(taken().toString(), "public")
          } else refused++
          // It is only there, so whatever removes it has followed the link.
          yield* Effect.exit(backend.remove(pathOf("a/victim")))
        }
        assert.isAtLeast(Math.min(read, refused), 20)
        assert.deepStrictEqual(yield* Effect.promise(async () => (await readdir(outside)).sort()), ["file", "victim"])
      }).pipe(Effect.scoped)
  )

  it.live("refuses paths that lead into its state folder, and leaves them out of its list", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const folders: Folders = { data: folder, state: join(folder, "own") }
      yield* run(
        folders,
        Effect.gen(function*() {
          const backend = yield* Backend
          yield* refusesAll("own/staging/file", false)
          yield* refusesAll("own", false)
          yield* write(pathOf("owner/file"), bytes(1))
          yield* Effect.scoped(Effect.flatMap(backend.stage(pathOf("b")), (staged) => staged.seal))
          const listed = yield* Stream.runCollect(backend.list(""))
          assert.deepStrictEqual(listed.map(({ path }) => String(path)), ["owner/file"])
          assert.strictEqual((yield* Effect.flip(Stream.runCollect(backend.list("own")))).reason, "Unsafe")
        })
      )
    }))

  fresh(
    "lists neither links, nor names that are no valid paths, nor empty folders",
    ({ data }) =>
      Effect.gen(function*() {
        yield* write(pathOf("a/file"), bytes(1))
        yield* Effect.promise(async () => {
          await symlink(join(data, "a"), join(data, "b"))
          await symlink(join(data, "a", "file"), join(data, "a", "link"))
          await mkdir(join(data, ".replication"))
          await writeFile(join(data, ".replication", "file"), "reserved")
          await writeFile(join(data, "back\\slash"), "invalid")
          await writeFile(Buffer.concat([Buffer.from(join(data, "latin")), Buffer.from([0xe9])]), "invalid")
          await mkdir(join(data, "empty"))
        })
        const listed = yield* Stream.runCollect((yield* Backend).list(""))
        assert.deepStrictEqual(listed.map(({ path }) => String(path)), ["a/file"])
      })
  )

  fresh("can stop listing in the middle, and lists as many files as there are", () =>
    Effect.gen(function*() {
      yield* Effect.forEach(Array.from({ length: 600 }), (_, n) => write(pathOf(`many/${n}`), bytes(1)), {
        concurrency: 16
      })
      const { list } = yield* Backend
      assert.strictEqual((yield* Stream.runCollect(Stream.take(list(""), 3))).length, 3)
      const all = yield* Stream.runCollect(list(""))
      assert.strictEqual(new Set(all.map(({ path }) => path)).size, 600)
    }))

  fresh("quarantines two files of one path without losing either", ({ state }) =>
    Effect.gen(function*() {
      const backend = yield* Backend
      for (const seed of [1, 2]) {
        yield* write(pathOf("a/odd"), bytes(10, seed))
        yield* backend.quarantine(pathOf("a/odd"))
      }
      const kept = yield* Effect.promise(async () => {
        const names = await readdir(join(state, "quarantine"))
        return Promise.all(names.sort().map((name) => readFile(join(state, "quarantine", name))))
      })
      assert.deepStrictEqual(kept.map((content) => new Uint8Array(content)), [bytes(10, 1), bytes(10, 2)])
    }))

  fresh(
    "removes the folders that a removed or quarantined file leaves empty, and no others",
    ({ data }) =>
      Effect.gen(function*() {
        const backend = yield* Backend
        yield* write(pathOf("a/b/c/d/one"), bytes(1))
        yield* write(pathOf("a/b/two"), bytes(1))
        yield* write(pathOf("x/y/three"), bytes(1))
        yield* backend.remove(pathOf("a/b/c/d/one"))
        assert.deepStrictEqual(yield* Effect.promise(() => readdir(join(data, "a/b"))), ["two"])
        yield* backend.remove(pathOf("a/b/two"))
        yield* backend.quarantine(pathOf("x/y/three"))
        assert.deepStrictEqual(yield* Effect.promise(() => readdir(data)), [])
      })
  )

  fresh("writes, commits, hashes and reads 256 MiB in flat memory", () =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const path = pathOf("large")
      const chunk = bytes(mib, 5)
      const memory = () => process.memoryUsage().arrayBuffers
      const before = memory()
      let most = 0
      const watch = Effect.sync(() => {
        most = Math.max(most, memory() - before)
      })
      const digest = yield* Effect.scoped(Effect.gen(function*() {
        const staged = yield* backend.stage(path)
        for (let n = 0; n < 256; n++) yield* Effect.andThen(staged.write(chunk), watch)
        const { sha256 } = yield* staged.seal
        yield* staged.commit(sha256)
        return sha256
      }))
      const held = yield* Effect.fromOption(yield* backend.adopt(path))
      assert.strictEqual(held.sha256, digest)
      let read = 0
      yield* backend.read(path, 0, held.size, {
        write: (part) =>
          Effect.andThen(
            Effect.sync(() => {
              read += part.length
            }),
            watch
          )
      })
      assert.strictEqual(read, 256 * mib)
      assert.isBelow(most, 16 * mib)
    }))
})
