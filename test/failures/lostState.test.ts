/** A node whose state is gone, damaged or not to be written when it starts: it says so, or finds its way back. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Option, Stream } from "effect"
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { Puller } from "../../src/replication/Puller.ts"
import { Readiness } from "../../src/replication/Readiness.ts"
import { run, whereReadOnly } from "../cluster/command.ts"
import { configure } from "../cluster/configure.ts"
import { entryOf } from "../support/entries.ts"
import { temporaryFolder } from "../support/folder.ts"
import { dataOf, living, publish, start, stateOf, untilComplete } from "../support/realNode.ts"

const content = (n: number) => `file ${n}`
const paths = Array.from({ length: 5 }, (_, n) => `db/${n}`)
const inventoryOf = (folder: string) => join(stateOf(folder, "reader"), "inventory.db")

/** A reader that held all files and has ended, and so has their writer. */
const readerThatHeld = Effect.gen(function*() {
  const folder = yield* temporaryFolder
  yield* living(folder, "writer", (writer) =>
    Effect.gen(function*() {
      for (const [n, path] of paths.entries()) yield* publish(writer, path, content(n))
      yield* living(folder, "reader", untilComplete)
    }))
  return folder
})

/** That a reader, alone, is ready with all that it held. */
const findsAll = (folder: string) =>
  living(folder, "reader", (reader) =>
    Effect.gen(function*() {
      yield* untilComplete(reader)
      assert.isTrue(yield* Context.get(reader, Readiness).ready)
      assert.strictEqual((yield* Context.get(reader, Puller).stats).bytes, 0)
      for (const [n, path] of paths.entries()) {
        assert.strictEqual(readFileSync(join(dataOf(folder, "reader"), path), "utf8"), content(n))
        assert.strictEqual((yield* Context.get(reader, Inventory).verified(FilePath.make(path)))._tag, "Some")
      }
    }))

describe("a start whose state folder", () => {
  it.live("is gone takes what lies in the data folder by its hash, and asks nobody", () =>
    Effect.gen(function*() {
      const folder = yield* readerThatHeld
      rmSync(stateOf(folder, "reader"), { recursive: true })
      yield* findsAll(folder)
    }))

  const damages: ReadonlyArray<readonly [string, (inventory: string) => void, RegExp]> = [
    ["no database", (file) => writeFileSync(file, "nonsense ".repeat(1000)), /damaged/],
    ["half of it", (file) => truncateSync(file, statSync(file).size / 2), /damaged/],
    ["a folder", (file) => (rmSync(file), mkdirSync(file)), /unable to open/]
  ]
  it.live("holds no sound inventory ends with the reason and the file's name, and is good again without it", () =>
    Effect.gen(function*() {
      const folder = yield* readerThatHeld
      const inventory = inventoryOf(folder)
      for (const [what, damage, why] of damages) {
        damage(inventory)
        const error = yield* Effect.flip(Effect.scoped(start(folder, "reader")))
        assert.strictEqual(error._tag, "InventoryError", what)
        assert.match(error.message, why, what)
        assert.include(error.message, inventory)
        assert.notInclude(error.message, "\n")
        renameSync(inventory, `${inventory}.${what}`)
        yield* findsAll(folder)
      }
    }))

  it.live("can't be written, or only its inventory, ends the process with one sentence", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const config = yield* configure(folder, "node")
      const state = join(folder, "node", "data", ".replication")
      assert.strictEqual((yield* run(["node", "--supervised", "--config", config])).code, 0)
      for (const name of ["", "inventory.db"]) {
        const path = join(state, name)
        const elsewhere = whereReadOnly(path)
        const { code, stderr, stdout } = yield* run(["node", "--supervised", "--config", config], {}, folder, elsewhere)
        assert.match(stderr, /^file-replication: [^\n]+\n$/)
        assert.include(stderr, path)
        assert.deepStrictEqual([code, stdout], [1, ""])
      }
    }))
})

describe("an inventory that is damaged in the middle", () => {
  it.live("pauses pulls, and never makes a node ready that owes something", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      yield* living(folder, "reader", (reader) =>
        Effect.gen(function*() {
          const entries = Array.from({ length: 40 }, (_, n) => entryOf(`db/${n}`, content(n)))
          yield* Context.get(reader, Manifest).registerAll(entries)
          yield* Context.get(reader, Inventory).changes.pipe(
            Stream.filter(({ owed }) => owed.files === entries.length),
            Stream.runHead
          )
        }))
      // Its rows; what is counted of them lies before.
      const inventory = readFileSync(inventoryOf(folder))
      writeFileSync(inventoryOf(folder), inventory.fill(0, inventory.length * 0.75))
      yield* living(folder, "reader", (reader) =>
        Effect.gen(function*() {
          const { reason } = Option.getOrThrow(
            yield* Context.get(reader, Readiness).changes.pipe(
              Stream.filter(({ paused, ready }) => ready || paused.includes("inventory")),
              Stream.runHead
            )
          )
          assert.include(reason, "the inventory can't be")
        }))
    }))
})
