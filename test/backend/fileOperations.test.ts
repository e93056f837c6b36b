/** Small files of one commit, with something that happens between two calls of the system: only so is its moment known. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import { join } from "node:path"
import { type Commit, operations } from "../../src/backend/fileOperations.ts"
import { bytes, sha256Of } from "../../src/testing/backend/support.ts"
import { temporaryFolder } from "../support/folder.ts"

/** Puts something in the place of a call of the system until the scope closes. */
const instead = <Name extends "fsyncSync" | "linkSync">(
  name: Name,
  other: (real: (typeof fs)[Name]) => (typeof fs)[Name]
) => {
  const put = (call: (typeof fs)[Name]) =>
    Effect.sync(() => {
      fs[name] = call
      syncBuiltinESMExports()
    })
  const real = fs[name]
  return Effect.acquireRelease(put(other(real)), () => put(real))
}

/** Two files in one folder and one in another. */
const three = Effect.map(temporaryFolder, (folder) => {
  for (const name of ["data/a", "data/b", "staging", "outside"]) fs.mkdirSync(join(folder, name), { recursive: true })
  const commits = ["a/1", "a/2", "b/3"].map((path, n): Commit => ({
    bytes: bytes(100, n),
    sha256: sha256Of(bytes(100, n)),
    staged: join(folder, "staging", String(n)),
    file: join(folder, "data", path)
  }))
  return { commits, ofA: join(folder, "data/a"), ofB: join(folder, "data/b"), folder }
})

const isFolder = (fd: number) => fs.fstatSync(fd).isDirectory()

describe("small files that are committed together", () => {
  it.live("get no name in a folder that became a link while they were written", () =>
    Effect.gen(function*() {
      const { commits, folder, ofA, ofB } = yield* three
      yield* instead("fsyncSync", (real) => (fd) => {
        real(fd)
        if (fs.lstatSync(ofA).isSymbolicLink()) return
        fs.rmdirSync(ofA)
        fs.symlinkSync(join(folder, "outside"), ofA)
      })
      const answers = operations.commit(commits, true)
      assert.deepStrictEqual(answers.map((answer) => answer._tag === "Refused" ? answer.code : answer._tag), [
        "UNSAFE",
        "UNSAFE",
        "Placed"
      ])
      assert.deepStrictEqual(fs.readdirSync(join(folder, "outside")), [])
      assert.deepStrictEqual(fs.readdirSync(ofB), ["3"])
      assert.deepStrictEqual(fs.readdirSync(join(folder, "staging")), [])
    }))

  it.live("keep their names in staging until their folder is synced, and lose the others when it can't be", () =>
    Effect.gen(function*() {
      const { commits, folder, ofA, ofB } = yield* three
      const staged: Array<ReadonlyArray<string>> = []
      yield* instead("fsyncSync", (real) => (fd) => {
        if (isFolder(fd)) staged.push(fs.readdirSync(join(folder, "staging")))
        if (isFolder(fd) && fs.fstatSync(fd).ino === fs.statSync(ofA).ino) {
          throw Object.assign(new Error("the disk reported an error"), { code: "EIO" })
        }
        real(fd)
      })
      const answers = operations.commit(commits, true)
      assert.deepStrictEqual(answers.map((answer) => answer._tag === "Refused" ? answer.code : answer._tag), [
        "EIO",
        "EIO",
        "Placed"
      ])
      assert.deepStrictEqual(staged, [["0", "1", "2"], ["0", "1", "2"]])
      assert.deepStrictEqual([fs.readdirSync(ofA), fs.readdirSync(ofB)], [[], ["3"]])
      assert.deepStrictEqual(fs.readdirSync(join(folder, "staging")), [])
    }))

  it.live("are not said to be there when another file stands under a name that was just given", () =>
    Effect.gen(function*() {
      const { commits, folder } = yield* three
      yield* instead("linkSync", (real) => (from, to) => {
        real(from, to)
        if (to !== commits[1]?.file) return
        fs.writeFileSync(join(folder, "other"), "other")
        fs.renameSync(join(folder, "other"), to)
      })
      const answers = operations.commit(commits, true)
      assert.deepStrictEqual(answers.map(({ _tag }) => _tag), ["Placed", "Taken", "Placed"])
      assert.strictEqual(fs.readFileSync(commits[1]?.file ?? "", "utf8"), "other")
    }))
})
