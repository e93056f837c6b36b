import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Option, Stream } from "effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { DatabaseSync } from "node:sqlite"
import { fileURLToPath } from "node:url"
import * as InventoryMemory from "../../src/inventory/InventoryMemory.ts"
import * as InventorySqlite from "../../src/inventory/InventorySqlite.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { suite } from "../../src/testing/inventory/suite.ts"
import { cursorAt, file, forget, heldOf, owe, pathOf } from "../../src/testing/inventory/support.ts"
import { temporaryFolder } from "../support/folder.ts"
import { randomStep, sequence } from "./random.ts"

suite(
  "InventorySqlite",
  Layer.unwrap(Effect.map(temporaryFolder, (folder) => InventorySqlite.layer({ path: join(folder, "inventory.db") })))
)

/** One life of a process with the inventory. */
const run = <A, E, R>(path: string, body: (inventory: Inventory["Service"]) => Effect.Effect<A, E, R>) =>
  Effect.provide(Effect.flatMap(Inventory, body), InventorySqlite.layer({ path }))

const withPath = <E>(sentence: string, body: (path: string) => Effect.Effect<void, E>) =>
  it.live(sentence, () => Effect.flatMap(temporaryFolder, (folder) => body(join(folder, "inventory.db"))))

describe("InventorySqlite", () => {
  withPath("knows everything again after it was closed", (path) =>
    Effect.gen(function*() {
      const everything = (inventory: Inventory["Service"]) =>
        Effect.all([inventory.page(Option.none(), 10), inventory.progress, inventory.pendings])
      const before = yield* run(path, (inventory) =>
        Effect.gen(function*() {
          yield* inventory.apply([owe(file("a", 1), 1), owe(file("b", 2), 2), owe(file("c", 3), 3)], cursorAt(3))
          yield* inventory.settle(file("b", 2), heldOf(file("b", 2)))
          yield* inventory.apply([forget("c", 4, 9)], cursorAt(4))
          yield* inventory.pend({ entry: file("d", 0).entry, token: "sealed.1" })
          return yield* everything(inventory)
        }))
      assert.deepStrictEqual(yield* run(path, everything), before)
    }))

  withPath(
    "tells everybody of its changes, whoever of them leaves meanwhile",
    (path) =>
      run(path, (inventory) =>
        Effect.gen(function*() {
          const first = Stream.runHead(inventory.changes)
          for (let turn = 0; turn < 20; turn++) {
            const leaves = yield* Effect.forkChild(first)
            const stays = yield* Effect.forkChild(first)
            yield* Effect.yieldNow
            yield* Effect.forkChild(Fiber.interrupt(leaves))
            assert.isTrue(Option.isSome(yield* Fiber.join(stays)))
            // What was read behind this write is read anew.
            yield* inventory.apply([owe(file(`a${turn}`, turn + 1), 1)])
          }
        }))
  )

  withPath("has every acknowledged write after its process was killed", (path) =>
    Effect.gen(function*() {
      const acknowledged = yield* Effect.promise(async () => {
        const script = fileURLToPath(new URL("./inventoryChild.ts", import.meta.url))
        const child = spawn(process.execPath, [script, path], { stdio: ["pipe", "pipe", "inherit"], env: {} })
        const ended = once(child, "exit")
        let last = 0
        for await (const line of createInterface({ input: child.stdout })) {
          last = Number(line)
          if (last === 100) child.kill("SIGKILL")
        }
        await ended
        return last
      })
      assert.isAtLeast(acknowledged, 100)
      yield* run(path, (inventory) =>
        Effect.gen(function*() {
          const progress = yield* inventory.progress
          const reached = Option.getOrThrow(progress.cursor).revision
          assert.isAtLeast(reached, acknowledged)
          assert.isAtLeast(progress.verified.files, acknowledged)
          assert.strictEqual(progress.verified.files + progress.owed.files, reached)
          assert.isTrue(Option.isSome(yield* inventory.verified(pathOf(`f/${acknowledged}`))))
        }))
    }))

  withPath("says what to do about a damaged file", (path) =>
    Effect.gen(function*() {
      yield* Effect.promise(() => writeFile(path, "this is no database at all, but long enough".repeat(50)))
      const error = yield* Effect.flip(run(path, () => Effect.void))
      assert.strictEqual(error._tag, "InventoryError")
      assert.include(error.message, "damaged")
      assert.include(error.message, "move it away")
    }))

  withPath("refuses a file from a newer version", (path) =>
    Effect.gen(function*() {
      yield* run(path, () => Effect.void)
      change(path, "UPDATE component SET version = 99")
      const error = yield* Effect.flip(run(path, () => Effect.void))
      assert.include(error.message, "newer version")
    }))

  withPath("fails on a damaged row with a sentence, and answers for the others", (path) =>
    Effect.gen(function*() {
      yield* run(path, (inventory) => inventory.apply([owe(file("a", 1), 0), owe(file("b", 2), 0)]))
      change(path, "UPDATE inventory_file SET entry = '{\"path\": 7}' WHERE path = 'a'")
      yield* run(path, (inventory) =>
        Effect.gen(function*() {
          const error = yield* Effect.flip(inventory.why(pathOf("a")))
          assert.include(error.message, "a damaged row")
          assert.isTrue(Option.isSome(yield* inventory.why(pathOf("b"))))
        }))
    }))

  withPath(
    "waits for another process that writes, instead of failing",
    (path) =>
      run(path, (inventory) =>
        Effect.gen(function*() {
          const other = new DatabaseSync(path)
          other.exec("BEGIN IMMEDIATE")
          const applying = yield* Effect.forkChild(inventory.apply([owe(file("a", 1), 0)]))
          // The thread answers these only behind the first attempt to write, which has then waited in vain.
          for (let n = 0; n < 3; n++) yield* inventory.progress
          assert.isUndefined(applying.pollUnsafe())
          other.exec("COMMIT")
          other.close()
          yield* Fiber.join(applying)
          assert.isTrue(Option.isSome(yield* inventory.why(pathOf("a"))))
        }))
  )

  withPath("fails what is asked after it was closed instead of waiting for ever", (path) =>
    Effect.gen(function*() {
      const inventory = yield* Effect.scoped(
        Effect.map(Layer.build(InventorySqlite.layer({ path })), (context) => Context.get(context, Inventory))
      )
      const errors = yield* Effect.all([
        Effect.flip(inventory.apply([])),
        Effect.flip(inventory.progress),
        Effect.flip(Stream.runDrain(inventory.changes))
      ])
      assert.deepStrictEqual(errors.map(({ _tag }) => _tag), ["InventoryError", "InventoryError", "InventoryError"])
    }))

  withPath(
    "answers each of many writes that share a transaction",
    (path) =>
      run(path, (inventory) =>
        Effect.gen(function*() {
          const files = Array.from({ length: 500 }, (_, n) => file(`f/${n}`, n + 1))
          yield* inventory.apply(files.filter((_, n) => n % 2 === 0).map((each) => owe(each, 0)))
          const settled = yield* Effect.forEach(files, (each) => inventory.settle(each, heldOf(each)), {
            concurrency: "unbounded"
          })
          assert.deepStrictEqual(settled, files.map((_, n) => n % 2 === 0))
        }))
  )

  const seeds = process.env["SEED"] === undefined ? [1, 2, 3, 4, 5, 6] : [Number(process.env["SEED"])]
  for (const seed of seeds) {
    withPath(
      `agrees with InventoryMemory on random steps (SEED=${seed})`,
      (path) =>
        run(path, (sqlite) =>
          Effect.gen(function*() {
            const memory = yield* Inventory
            const random = sequence(seed)
            for (let step = 0; step < 400; step++) {
              const { name, run: act } = randomStep(random)
              const [ours, theirs] = [yield* act(sqlite), yield* act(memory)]
              assert.deepStrictEqual(ours, theirs, `step ${step}: ${name}`)
              if (step % 10 !== 0) continue
              const state = (inventory: Inventory["Service"]) =>
                Effect.all([
                  inventory.page(Option.none(), 100),
                  inventory.pendings,
                  Effect.map(
                    inventory.progress,
                    ({ oldestOwed, ...rest }) => ({ ...rest, any: Option.isSome(oldestOwed) })
                  ),
                  Effect.map(inventory.due(50, 100), (rows) => rows.map(({ due }) => due)),
                  inventory.nextDue(50)
                ])
              assert.deepStrictEqual(
                timeless(yield* state(sqlite)),
                timeless(yield* state(memory)),
                `step ${step}: ${name}`
              )
            }
          })).pipe(Effect.provide(InventoryMemory.layer))
    )
  }
})

/** The two saw the same step at different milliseconds. */
const timeless = (value: unknown): unknown =>
  JSON.parse(
    JSON.stringify(value, (key, inner: unknown) => key === "since" ? 0 : typeof inner === "bigint" ? `${inner}` : inner)
  )

const change = (path: string, sql: string): void => {
  const database = new DatabaseSync(path)
  database.exec(sql)
  database.close()
}
