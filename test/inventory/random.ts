/** Random steps on an inventory, the same for the same seed. */
import { Effect } from "effect"
import type { Inventory, InventoryError } from "../../src/ports/Inventory.ts"
import {
  cursorAt,
  file,
  forget,
  heldOf,
  lost,
  newHistory,
  owe,
  pathOf,
  release,
  revision
} from "../../src/testing/inventory/support.ts"

export type Random = (below: number) => number

export const sequence = (seed: number): Random => {
  let state = seed >>> 0
  return (below) => {
    state = state + 0x6d2b79f5 >>> 0
    let mixed = Math.imul(state ^ state >>> 15, state | 1)
    mixed ^= mixed + Math.imul(mixed ^ mixed >>> 7, mixed | 61)
    return ((mixed ^ mixed >>> 14) >>> 0) % below
  }
}

interface Step {
  readonly name: string
  readonly run: (inventory: Inventory["Service"]) => Effect.Effect<unknown, InventoryError>
}

/** Few paths, contents and revisions, so that steps meet. */
export const randomStep = (random: Random): Step => {
  const path = `p/${random(5)}`
  const each = file(path, 1 + random(8), String(random(2)), 10)
  const kind = random(12)
  const due = random(100)
  const held = { ...heldOf(each), inode: BigInt(random(2)) }
  switch (kind) {
    case 0:
    case 1:
    case 2: {
      const other = `p/${random(5)}`
      const changes = [owe(each, due), ...random(2) === 0 ? [forget(other, 1 + random(8), due)] : []]
      const cursor = random(2) === 0 ? cursorAt(random(10)) : undefined
      return { name: `apply ${path}`, run: (inventory) => inventory.apply(changes, cursor) }
    }
    case 3:
      return { name: `forget ${path}`, run: (inventory) => inventory.apply([forget(path, each.revision, due)]) }
    case 4:
      return {
        name: `pend ${path}`,
        run: (inventory) => inventory.pend({ entry: each.entry, token: `sealed.${due}` })
      }
    case 5:
      return { name: `unpend ${path}`, run: (inventory) => inventory.unpend(pathOf(path)) }
    case 6:
      return { name: `unlinked ${path}`, run: (inventory) => inventory.unlinked(pathOf(path), revision(each.revision)) }
    case 7:
      return { name: `lose ${path}`, run: (inventory) => inventory.apply([lost(path, held, due)]) }
    case 8:
      return { name: `release ${path}`, run: (inventory) => inventory.apply([release(path)]) }
    case 9: {
      const changes = random(4) === 0 ? [newHistory, owe(each, due)] : []
      return { name: `change history by ${changes.length}`, run: (inventory) => inventory.apply(changes) }
    }
    case 10:
      return { name: `postpone ${path}`, run: (inventory) => inventory.postpone(each, due, "later", []) }
    default:
      return { name: `settle ${path}`, run: (inventory) => inventory.settle(each, held) }
  }
}
