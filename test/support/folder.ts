/** A folder of the test's own, removed with its scope. */
import { Effect, type Scope } from "effect"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"

export const temporaryFolder: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.promise(() => mkdtemp(join(tmpdir(), "file-replication-"))),
  (folder) => Effect.promise(() => rm(folder, { recursive: true, force: true }))
)
