import { assert, it } from "@effect/vitest"
import { Context, Effect, Layer, Option } from "effect"
import * as HttpFace from "../../src/http/HttpFace.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { temporaryFolder } from "../support/folder.ts"
import { start } from "../support/realNode.ts"
import { ask, Node } from "./node.ts"

it.live("the status is told while the manifest does not answer at all", () =>
  Effect.gen(function*() {
    const node = yield* start(yield* temporaryFolder, "node")
    const silent = Context.add(node, Manifest, { ...Context.get(node, Manifest), head: Effect.never })
    const face = yield* Layer.build(
      HttpFace.layer({
        host: "127.0.0.1",
        port: 0,
        apiToken: Option.none(),
        stateFolder: yield* temporaryFolder,
        maxFileBytes: 0
      }).pipe(
        Layer.provide(Layer.succeedContext(silent))
      )
    )
    const answer = yield* ask("GET", "/api/v1/cluster/status").pipe(
      Effect.provideService(Node, { url: Context.get(face, HttpFace.HttpFace).url, data: "" })
    )
    assert.strictEqual(answer.status, 200, answer.text)
    assert.include(answer.text, "\"head\":null")
  }), 30_000)
