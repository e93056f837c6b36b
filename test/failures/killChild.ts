/**
 * A node in a process of its own: `node killChild.ts <folder> pull|publish <path> <size>`. It finishes what earlier ones
 * left, then pulls the file or publishes it, and says so.
 */
import { Context, Effect, Option, Stream } from "effect"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Inventory } from "../../src/ports/Inventory.ts"
import { publish, start, untilComplete } from "../support/realNode.ts"
import { bytesOf } from "./behaviours.ts"

const [folder = "", task = "", path = "", size = ""] = process.argv.slice(2)

const settled = Effect.fnUntraced(function*() {
  const node = yield* start(folder, "victim", { fsync: true })
  const inventory = Context.get(node, Inventory)
  if (task === "publish") yield* publish(node, path, bytesOf(Number(size), Number(size)))
  yield* inventory.changes.pipe(
    Stream.mapEffect(() => Effect.all([inventory.verified(FilePath.make(path)), inventory.pendings])),
    Stream.takeUntil(([verified, pendings]) => Option.isSome(verified) && pendings.length === 0),
    Stream.runDrain
  )
  yield* untilComplete(node)
})

await Effect.runPromise(Effect.scoped(settled()))
