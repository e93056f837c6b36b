/**
 * A process that registers: `registrant.ts DATABASE PREFIX COUNT CONTENT`. Prints `ready`, waits for a line, registers
 * `PREFIX/0` and so on, one after another, each with the bytes `CONTENT`, prints each answer; then waits until its
 * standard input closes.
 */
import { Effect } from "effect"
import { createInterface } from "node:readline"
import * as ManifestSqlite from "../../src/manifest/ManifestSqlite.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { entryOf } from "../support/entries.ts"

const [path = "", prefix = "", count = "", content = ""] = process.argv.slice(2)

const input = createInterface({ input: process.stdin })
const started = new Promise<void>((resolve) => input.once("line", () => resolve()))
const ended = new Promise<void>((resolve) => input.once("close", () => resolve()))

const print = (line: string) => Effect.sync(() => process.stdout.write(`${line}\n`))

const program = Effect.gen(function*() {
  const manifest = yield* Manifest
  yield* print("ready")
  yield* Effect.promise(() => started)
  for (let i = 0; i < Number(count); i++) {
    yield* manifest.register(entryOf(`${prefix}/${i}`, content)).pipe(
      Effect.matchEffect({
        onFailure: (error) => print(error._tag),
        onSuccess: ({ entry, revision }) => print(`${entry.path} ${revision}`)
      })
    )
  }
  yield* print("done")
  return yield* Effect.never
})

await Effect.runPromise(
  program.pipe(
    Effect.provide(ManifestSqlite.layer({ path })),
    Effect.raceFirst(Effect.promise(() => ended))
  )
)
