/** Who has a file open, as far as the system tells. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { execFile } from "node:child_process"
import { closeSync, openSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { promisify } from "node:util"
import { writing } from "../../src/backend/writers.ts"
import { temporaryFolder } from "../support/folder.ts"

const module = join(import.meta.dirname, "../../src/backend/writers.ts")

/** Asks from a process that sees none of those outside, as in a container. */
const askFromContainer = (file: string) =>
  Effect.promise(async () => {
    const script = `
      const { seesWriters, writing } = await import(${JSON.stringify(module)})
      const { Effect } = await import("effect")
      const found = await Effect.runPromise(writing(new Set([${JSON.stringify(file)}])))
      console.log(JSON.stringify({ found: [...found], sees: await Effect.runPromise(seesWriters) }))
    `
    const flags = process.getuid?.() === 0 ? "-pf" : "-rpf"
    const { stdout } = await promisify(execFile)(
      "unshare",
      [flags, "--mount-proc", process.execPath, "--input-type=module", "-e", script],
      { cwd: import.meta.dirname }
    )
    return JSON.parse(stdout)
  })

describe("who has a file open for writing", () => {
  it.live("is told of this user's programs, and said to be unknown where others can't be seen", () =>
    Effect.gen(function*() {
      const file = join(yield* temporaryFolder, "file")
      writeFileSync(file, "")
      const reading = openSync(file, "r")
      assert.notStrictEqual((yield* writing(new Set([file]))).get(file), "Open")
      closeSync(reading)
      const descriptor = openSync(file, "a")
      assert.strictEqual((yield* writing(new Set([file]))).get(file), "Open")
      assert.deepStrictEqual(yield* askFromContainer(file), { found: [[file, "Unknown"]], sees: false })
      closeSync(descriptor)
    }))
})
