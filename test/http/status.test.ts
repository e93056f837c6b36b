import { assert, it } from "@effect/vitest"
import { Context, Effect } from "effect"
import { Manifest } from "../../src/ports/Manifest.ts"
import { temporaryFolder } from "../support/folder.ts"
import { start } from "../support/realNode.ts"
import { face } from "./face.ts"
import { ask } from "./node.ts"

it.live("the status is told while the manifest does not answer at all", () =>
  Effect.gen(function*() {
    const node = yield* start(yield* temporaryFolder, "node")
    const silent = Context.add(node, Manifest, { ...Context.get(node, Manifest), head: Effect.never })
    const answer = yield* Effect.provide(ask("GET", "/api/v1/cluster/status"), yield* face(silent))
    assert.strictEqual(answer.status, 200, answer.text)
    assert.include(answer.text, "\"head\":null")
  }), 30_000)
