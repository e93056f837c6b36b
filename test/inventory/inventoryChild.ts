/** A process that writes to an inventory until it is killed: `node inventoryChild.ts <path>`. */
import { Effect } from "effect"
import * as InventorySqlite from "../../src/inventory/InventorySqlite.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { cursorAt, file, heldOf, owe } from "../../src/testing/inventory/support.ts"

const [path] = process.argv.slice(2)
if (path === undefined) throw new Error("one argument")
process.stdin.resume().on("close", () => process.exit())

const write = Effect.gen(function*() {
  const inventory = yield* Inventory
  for (let at = 1;; at++) {
    const each = file(`f/${at}`, at)
    yield* inventory.apply([owe(each, 0)], cursorAt(at))
    yield* inventory.settle(each, heldOf(each))
    yield* Effect.sync(() => void process.stdout.write(`${at}\n`))
  }
})
await Effect.runPromise(Effect.provide(write, InventorySqlite.layer({ path })))
