import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { needed, offence } from "../../src/nodeVersion.ts"
import { run } from "./command.ts"

describe("the version of Node", () => {
  it("is the one that the package names, or a newer one", () => {
    const Package = Schema.fromJsonString(Schema.Struct({ engines: Schema.Struct({ node: Schema.String }) }))
    const text = readFileSync(join(import.meta.dirname, "../../package.json"), "utf8")
    assert.strictEqual(Schema.decodeUnknownSync(Package)(text).engines.node, `>=${needed}`)
    assert.isUndefined(offence("v22.19.0"))
    assert.isUndefined(offence("v24.0.1"))
    for (const version of ["v20.20.2", "v22.18.5"]) assert.include(offence(version), `this is ${version}`)
  })

  it.live("is told in a sentence when it is too old, and nothing else is loaded", () =>
    Effect.gen(function*() {
      const older = "data:text/javascript,Object.defineProperty(process,'version',{value:'v20.20.2'})"
      const { code, stderr, stdout } = yield* run(["--version"], { NODE_OPTIONS: `--import="${older}"` })
      assert.deepStrictEqual(
        [code, stdout, stderr],
        [1, "", "file-replication: it needs Node 22.19.0 or newer, and this is v20.20.2\n"]
      )
    }))
})
