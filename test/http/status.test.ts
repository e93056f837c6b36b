import { assert, it } from "@effect/vitest"
import { Context, Effect } from "effect"
import { Manifest } from "../../src/ports/Manifest.ts"
import { temporaryFolder } from "../support/folder.ts"
import { start } from "../support/realNode.ts"
import { face } from "./face.ts"
import { ask } from "./node.ts"

it.live(
  "the status and all that is known of a file are told while the manifest does not answer at all",
  () =>
    Effect.gen(function*() {
      const node = yield* start(yield* temporaryFolder, "node")
      const silent = Context.add(node, Manifest, {
        ...Context.get(node, Manifest),
        head: Effect.never,
        get: () => Effect.never
      })
      const answer = yield* Effect.provide(ask("GET", "/api/v1/cluster/status"), yield* face(silent))
      assert.strictEqual(answer.status, 200, answer.text)
      assert.include(answer.text, "\"head\":null")
      const file = yield* Effect.provide(ask("GET", "/api/v1/cluster/files/db/a"), yield* face(silent))
      assert.strictEqual(file.status, 200, file.text)
      assert.include(file.text, "it does not answer")
    }),
  30_000
)
