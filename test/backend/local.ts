/** Tests over real folders. */
import { it } from "@effect/vitest"
import { Effect, type Scope } from "effect"
import { join } from "node:path"
import * as BackendLocal from "../../src/backend/BackendLocal.ts"
import type { Backend } from "../../src/ports/Backend.ts"
import { temporaryFolder } from "../support/folder.ts"

export interface Folders {
  readonly data: string
  readonly state: string
}

const temporaryFolders = Effect.map(
  temporaryFolder,
  (folder): Folders => ({ data: join(folder, "data"), state: join(folder, "state") })
)

/** Runs something in a backend that is opened for it and closed behind it, as one life of a process. */
export const run = <A, E>(folders: Folders, body: Effect.Effect<A, E, Backend | Scope.Scope>) =>
  body.pipe(
    Effect.scoped,
    Effect.provide(BackendLocal.layer({ dataFolder: folders.data, stateFolder: folders.state, fsync: true }))
  )

/** A test with folders that do not exist yet. */
export const local = (sentence: string, body: (folders: Folders) => Effect.Effect<void, unknown, Scope.Scope>) =>
  it.live(sentence, () => Effect.flatMap(temporaryFolders, body))

/** A test with an open backend. */
export const fresh = (
  sentence: string,
  body: (folders: Folders) => Effect.Effect<void, unknown, Backend | Scope.Scope>
) => it.live(sentence, () => Effect.flatMap(temporaryFolders, (folders) => run(folders, body(folders))))
