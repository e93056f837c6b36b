import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Option } from "effect"
import { appendFile, link, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as BackendLocal from "../../src/backend/BackendLocal.ts"
import { Backend } from "../../src/ports/Backend.ts"
import { suite } from "../../src/testing/backend/suite.ts"
import { bytes, pathOf, pull, sha256Of, write } from "../../src/testing/backend/support.ts"
import { temporaryFolder } from "../support/folder.ts"
import { startChild } from "./children.ts"
import { type Folders, fresh, local, run } from "./local.ts"

const inside = (fsync: boolean) =>
  Layer.unwrap(
    Effect.map(temporaryFolder, (folder) =>
      BackendLocal.layer({
        dataFolder: join(folder, "data"),
        stateFolder: join(folder, "data", ".replication"),
        fsync
      }))
  )

suite("BackendLocal", inside(true))
suite("BackendLocal without fsync", inside(false))

const mib = 1024 * 1024

/** The names in every staging folder. */
const stagedNames = ({ state }: Folders) =>
  Effect.promise(async () =>
    (await readdir(join(state, "staging"), { recursive: true })).filter((name) => name.includes("."))
  )

describe("BackendLocal opens", () => {
  local("only folders", (folders) =>
    Effect.gen(function*() {
      yield* Effect.promise(() => writeFile(folders.data, "a file"))
      const error = yield* Effect.flip(run(folders, Effect.void))
      assert.include(error.message, "not a folder")
    }))

  local("only two different folders", (folders) =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(run({ ...folders, state: folders.data }, Effect.void))
      assert.strictEqual(error.reason, "Unsafe")
      const within = yield* Effect.flip(run({ ...folders, data: join(folders.state, "staging", "data") }, Effect.void))
      assert.strictEqual(within.reason, "Unsafe")
    }))

  local("only folders on the same filesystem", (folders) =>
    Effect.gen(function*() {
      yield* run(folders, Effect.void)
      const child = yield* startChild("fillDisk", { ...folders, mount: folders.state })
      const { message, refused } = yield* child.line
      assert.strictEqual(refused, "Io")
      assert.include(message, "another filesystem")
    }))
})

describe("BackendLocal after a crash", () => {
  local(
    "keeps pulls and sealed bytes, drops unfinished writes, and shows only what was committed",
    (folders) =>
      Effect.gen(function*() {
        const child = yield* startChild("write", folders)
        let said = yield* child.line
        while (Number(said["at"]) < 5 * mib) said = yield* child.line
        yield* child.kill
        assert.strictEqual((yield* stagedNames(folders)).length, 3)
        yield* run(
          folders,
          Effect.gen(function*() {
            assert.deepStrictEqual((yield* stagedNames(folders)).map((name) => name.split(".")[1]).sort(), [
              "pull",
              "sealed"
            ])
            assert.deepStrictEqual(yield* Effect.promise(() => readdir(join(folders.data, "a"))), ["committed"])
            const backend = yield* Backend
            const sealed = yield* Effect.fromOption(yield* backend.unseal(pathOf("a/sealed"), String(said["token"])))
            yield* sealed.commit(sha256Of(bytes(5000, 1)))
            const content = bytes(64 * mib, 3)
            const pulled = yield* backend.stage(pathOf("a/pulled"), sha256Of(content))
            const length = yield* pulled.length
            assert.isAtLeast(length, 4 * mib)
            assert.strictEqual(length % (mib / 64), 0)
            yield* pulled.write(content.subarray(length))
            yield* pulled.commit(sha256Of(content))
          })
        )
      })
  )

  local(
    "believes no byte of an earlier try: a damaged one fails its digest and is dropped",
    (folders) =>
      Effect.gen(function*() {
        const content = bytes(3 * mib, 4)
        const path = pathOf("damaged")
        yield* run(folders, pull(path, sha256Of(content), content.subarray(0, 2 * mib)))
        const [name = ""] = yield* stagedNames(folders)
        yield* Effect.promise(async () => {
          const file = join(folders.state, "staging", name)
          const damaged = await readFile(file)
          damaged.fill(0, 100, 110)
          await writeFile(file, damaged)
        })
        yield* run(
          folders,
          Effect.gen(function*() {
            const staged = yield* (yield* Backend).stage(path, sha256Of(content))
            assert.strictEqual(yield* staged.length, 2 * mib)
            yield* staged.write(content.subarray(2 * mib))
            const error = yield* Effect.flip(staged.commit(sha256Of(content)))
            assert.strictEqual(error._tag, "DigestMismatch")
            yield* staged.write(content)
            yield* staged.commit(sha256Of(content))
          })
        )
      })
  )

  local("cuts off what a crash left behind the last whole step", (folders) =>
    Effect.gen(function*() {
      const content = bytes(3 * mib, 5)
      const path = pathOf("torn")
      yield* run(folders, pull(path, sha256Of(content), content.subarray(0, mib + 10)))
      const [name = ""] = yield* stagedNames(folders)
      const file = join(folders.state, "staging", name)
      yield* Effect.promise(() => appendFile(file, new Uint8Array(5000)))
      yield* run(
        folders,
        Effect.gen(function*() {
          const staged = yield* (yield* Backend).stage(path, sha256Of(content))
          assert.strictEqual(yield* staged.length, mib)
          yield* staged.write(content.subarray(mib))
          yield* staged.commit(sha256Of(content))
        })
      )
    }))

  local("never writes into a committed file whose staging name was left behind", (folders) =>
    Effect.gen(function*() {
      const content = bytes(2 * mib, 6)
      const path = pathOf("linked")
      yield* run(folders, pull(path, sha256Of(content), content))
      const [name = ""] = yield* stagedNames(folders)
      const final = join(folders.data, path)
      yield* run(
        folders,
        Effect.gen(function*() {
          const backend = yield* Backend
          yield* Effect.scoped(
            Effect.flatMap(backend.stage(path, sha256Of(content)), (staged) => staged.commit(sha256Of(content)))
          )
          yield* Effect.promise(() => link(final, join(folders.state, "staging", name)))
          yield* Effect.scoped(Effect.gen(function*() {
            const staged = yield* backend.stage(path, sha256Of(content))
            assert.strictEqual(yield* staged.length, 0)
            yield* staged.restart
            yield* staged.write(bytes(100))
          }))
        })
      )
      assert.isTrue((yield* Effect.promise(() => readFile(final))).equals(content))
    }))

  local(
    "removes staging names of committed files and names that are none of its own kinds",
    (folders) =>
      Effect.gen(function*() {
        const path = pathOf("linked")
        yield* run(folders, write(path, bytes(100)))
        const staging = join(folders.state, "staging", "0")
        const key = "0".repeat(64)
        yield* Effect.promise(() => link(join(folders.data, path), join(staging, `${key}.pull.${key}`)))
        yield* Effect.promise(() => writeFile(join(staging, `${key}.write.${"0".repeat(32)}`), "unfinished"))
        yield* Effect.promise(() => writeFile(join(staging, `${key}.sealed.${"0".repeat(32)}`), "sealed"))
        yield* run(folders, Effect.void)
        assert.deepStrictEqual(yield* stagedNames(folders), [join("0", `${key}.sealed.${"0".repeat(32)}`)])
        assert.strictEqual((yield* Effect.promise(() => stat(join(folders.data, path)))).size, 100)
      })
  )
})

describe("BackendLocal on a full disk", () => {
  local(
    "says NoSpace, shows nothing, keeps what arrived, and goes on when there is space again",
    (folders) =>
      Effect.gen(function*() {
        yield* run(folders, Effect.void)
        const disk = join(folders.data, "..", "disk")
        yield* run({ data: disk, state: join(disk, "state") }, Effect.void)
        const child = yield* startChild("fillDisk", {
          data: join(disk, "data"),
          state: join(disk, "state"),
          mount: disk
        })
        const said = yield* child.line
        assert.isAtMost(Number(said["before"]), 4 * mib)
        assert.isAtMost(Number(said["kept"]), 4 * mib)
        assert.deepStrictEqual(
          { ...said, before: 0, kept: 0 },
          {
            before: 0,
            kept: 0,
            error: "NoSpace",
            message: "write a/second: the disk is full",
            broken: "NoSpace",
            again: "NoSpace",
            lengthAfter: 0,
            size: mib,
            second: false
          }
        )
      })
  )
})

describe("BackendLocal adopts", () => {
  fresh("what another program put there, by its own hash", (folders) =>
    Effect.gen(function*() {
      const backend = yield* Backend
      yield* Effect.promise(() => writeFile(join(folders.data, "theirs"), bytes(3 * mib + 1, 8)))
      const held = yield* Effect.fromOption(yield* backend.adopt(pathOf("theirs")))
      assert.strictEqual(held.sha256, sha256Of(bytes(3 * mib + 1, 8)))
      assert.deepStrictEqual(
        yield* backend.stat(pathOf("theirs")),
        Option.some({ path: pathOf("theirs"), size: held.size, mtime: held.mtime, inode: held.inode })
      )
    }))

  fresh("nothing that keeps changing while it is read", (folders) =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const file = join(folders.data, "growing")
      yield* Effect.promise(() => writeFile(file, bytes(32 * mib, 9)))
      yield* Effect.forkScoped(Effect.forever(Effect.promise(() => appendFile(file, "more"))))
      const error = yield* Effect.flip(backend.adopt(pathOf("growing")))
      assert.include(error.message, "keeps changing")
    }))
})

describe("BackendLocal compares", () => {
  fresh("without following a symbolic link, to a file or on the way to one", (folders) =>
    Effect.gen(function*() {
      const backend = yield* Backend
      yield* write(pathOf("a/file"), bytes(10))
      const stat = yield* Effect.flatMap(backend.stat(pathOf("a/file")), Effect.fromOption)
      yield* Effect.promise(() => symlink(join(folders.data, "a/file"), join(folders.data, "a/link")))
      yield* Effect.promise(() => symlink(join(folders.data, "a"), join(folders.data, "b")))
      yield* Effect.promise(() => symlink("loop", join(folders.data, "loop")))
      const paths = ["a/link", "b/file", "loop", "loop/file"].map(pathOf)
      const differing = yield* backend.differing([stat, ...paths.map((path) => ({ ...stat, path }))])
      assert.deepStrictEqual(differing, paths)
    }))

  local(
    "answers again after the folder has lost its id, and says that it has none",
    (folders) =>
      Effect.gen(function*() {
        yield* run(folders, Effect.flatMap(Backend, (backend) => backend.claim("one")))
        const id = run(folders, Effect.flatMap(Backend, (backend) => backend.id))
        assert.deepStrictEqual(yield* id, Option.some("one"))
        const file = join(folders.data, ".replication", "id")
        yield* Effect.promise(() => writeFile(file, "what is this?"))
        assert.include((yield* Effect.flip(id)).message, "it holds no id")
        yield* Effect.promise(() => rm(file))
        assert.deepStrictEqual(yield* id, Option.none())
      })
  )
})

it.live("BackendLocal gives a new layer of the same folders what an earlier one committed", () =>
  Effect.gen(function*() {
    const folder = yield* temporaryFolder
    const folders = { data: join(folder, "data"), state: join(folder, "state") }
    const held = yield* run(folders, write(pathOf("a/b"), bytes(100)))
    assert.deepStrictEqual(
      yield* run(folders, Effect.flatMap(Backend, (backend) => backend.adopt(pathOf("a/b")))),
      Option.some(held)
    )
  }))
