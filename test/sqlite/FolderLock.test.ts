import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Scope } from "effect"
import { spawn } from "node:child_process"
import { join } from "node:path"
import { acquire, isTaken } from "../../src/sqlite/FolderLock.ts"
import { temporaryFolder } from "../support/folder.ts"

describe("FolderLock", () => {
  it.live("is held by one at a time, and free again when its scope has closed", () =>
    Effect.gen(function*() {
      const folder = join(yield* temporaryFolder, "state")
      const scope = yield* Scope.make()
      assert.isFalse(yield* isTaken(folder))
      yield* Scope.provide(acquire(folder), scope)
      const error = yield* Effect.flip(Effect.scoped(acquire(folder)))
      assert.include(error.message, "another node runs on it")
      assert.isTrue(yield* isTaken(folder))
      yield* Scope.close(scope, Exit.void)
      assert.isFalse(yield* isTaken(folder))
      yield* acquire(folder)
    }))

  it.live("is free again when the process that held it was killed", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const script = `import { DatabaseSync } from "node:sqlite"
        const d = new DatabaseSync(${JSON.stringify(join(folder, "lock"))})
        d.exec("BEGIN EXCLUSIVE"); console.log("held"); process.stdin.on("end", () => process.exit()).resume()`
      const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
        env: { PATH: process.env["PATH"] ?? "" },
        stdio: ["pipe", "pipe", "ignore"]
      })
      yield* Effect.addFinalizer(() => Effect.sync(() => child.kill("SIGKILL")))
      yield* Effect.callback<void>((resume) => void child.stdout.once("data", () => resume(Effect.void)))
      assert.strictEqual((yield* Effect.flip(Effect.scoped(acquire(folder))))._tag, "FolderTaken")
      yield* Effect.callback<void>((resume) => {
        child.once("exit", () => resume(Effect.void))
        child.kill("SIGKILL")
      })
      yield* acquire(folder)
    }))
})
