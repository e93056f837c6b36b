/** A node of this process, served with limits of the tests. */
import { Context, Effect, Layer, Option } from "effect"
import * as HttpFace from "../../src/http/HttpFace.ts"
import * as Server from "../../src/http/server.ts"
import { temporaryFolder } from "../support/folder.ts"
import type { Node as RealNode } from "../support/realNode.ts"
import { Node } from "./node.ts"

/** Gives what `ask` asks. */
export const face = Effect.fnUntraced(function*(node: RealNode, options: Partial<HttpFace.FaceOptions> = {}) {
  const stateFolder = yield* temporaryFolder
  const served = yield* Layer.build(
    HttpFace.layer({ host: "127.0.0.1", apiToken: Option.none(), stateFolder, maxFileBytes: 0, ...options })
      .pipe(
        Layer.provide(Layer.succeedContext(node)),
        Layer.provide(Server.layer({ host: "127.0.0.1", port: 0 }))
      )
  )
  return Layer.succeed(Node, { url: Context.get(served, HttpFace.HttpFace).url, data: "" })
})
