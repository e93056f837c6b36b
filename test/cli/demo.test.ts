/** The demo's parts that processes can't show at will: what a difference looks like, and how figures are written. */
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import { Effect, SubscriptionRef } from "effect"
import { mkdir, writeFile } from "node:fs/promises"
import { dirname, join } from "node:path"
import { progressLine, size, table } from "../../src/cli/demo/display.ts"
import type { Node } from "../../src/cli/demo/nodes.ts"
import { prove } from "../../src/cli/demo/proof.ts"
import type { Progress } from "../../src/cli/Supervision.ts"
import { toJson } from "../../src/ports/FileEntry.ts"
import { entryOf } from "../support/entries.ts"
import { temporaryFolder } from "../support/folder.ts"

const progress: Progress = {
  _tag: "Progress",
  ready: true,
  reason: "",
  verified: { files: 2, bytes: 8 },
  owed: { files: 0, bytes: 0 },
  pulled: 0,
  bytes: 0,
  skippedSelf: 0,
  failed: 0,
  attempts: 0
}

/** A node that holds files, and sees a manifest of entries whose bytes are given. */
const nodeWith = Effect.fnUntraced(function*(options: {
  readonly folder: string
  readonly name: string
  readonly files: Readonly<Record<string, string>>
  readonly manifest?: Readonly<Record<string, string>>
  readonly pulled?: number
}) {
  const { files, folder, name } = options
  const data = join(folder, name)
  const lines = Object.entries(options.manifest ?? { "db/a": "a", "db/b": "b" }).map(([path, content]) =>
    `${toJson(entryOf(path, content))}\n`
  )
  yield* Effect.promise(async () => {
    for (const [path, content] of Object.entries(files)) {
      await mkdir(dirname(join(data, path)), { recursive: true })
      await writeFile(join(data, path), content)
    }
  })
  const node: Node = {
    name,
    role: name === "writer" ? "writer" : "reader",
    data,
    pid: 0,
    progress: yield* SubscriptionRef.make({ ...progress, pulled: options.pulled ?? 0 }),
    end: Effect.never,
    ask: (command) =>
      command._tag === "Export"
        ? Effect.as(Effect.promise(() => writeFile(command.to, lines.join(""))), { _tag: "Done", id: 0 })
        : Effect.die(command)
  }
  return node
})

const right = { "db/a": "a", "db/b": "b" }
const differences = (
  reader: Partial<Parameters<typeof nodeWith>[0]>,
  writer: Partial<Parameters<typeof nodeWith>[0]> = {}
) =>
  Effect.gen(function*() {
    const folder = yield* temporaryFolder
    const nodes = [
      yield* nodeWith({ folder, name: "writer", files: right, ...writer }),
      yield* nodeWith({ folder, name: "reader-1", files: right, ...reader })
    ]
    return (yield* prove(nodes, ["db/a", "db/b"], folder)).differences
  }).pipe(Effect.provide(NodeServices.layer))

describe("the proof of the demo", () => {
  it.live("finds nothing where nothing differs", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* differences({}), [])
    }))

  it.live("names the file and the node when bytes differ, are missing, or are too many", () =>
    Effect.gen(function*() {
      const changed = yield* differences({ files: { ...right, "db/b": "x" } })
      assert.strictEqual(changed.length, 1)
      assert.match(changed[0] ?? "", /^db\/b on reader-1 has sha256 [0-9a-f]{64}, not [0-9a-f]{64}$/)
      assert.deepStrictEqual(yield* differences({ files: { "db/a": "a" } }), ["db/b is missing on reader-1"])
      const more = yield* differences({ files: { ...right, "db/c": "c" } })
      assert.deepStrictEqual(more, ["db/c lies on reader-1 and is in no manifest"])
    }))

  it.live("names the entry and the node when manifests differ", () =>
    Effect.gen(function*() {
      const other = yield* differences({ manifest: { ...right, "db/b": "other" } })
      assert.include(other, "db/b is another entry in the manifest that reader-1 sees")
      const fewer = yield* differences({ manifest: { "db/a": "a" } })
      assert.include(fewer, "db/b is not in the manifest that reader-1 sees")
      assert.include(fewer, "reader-1 sees 1 entries, not 2")
    }))

  it.live("does not forgive a writer that pulled what it wrote", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* differences({}, { pulled: 1 }), ["writer wrote every file and yet pulled 1"])
    }))
})

describe("the display of the demo", () => {
  it("writes bytes as people read them", () => {
    assert.deepStrictEqual(
      [0, 1, 1023, 1024, 1536, 160 * 2 ** 20, 2 ** 50].map(size),
      ["0 B", "1 B", "1023 B", "1.0 KiB", "1.5 KiB", "160 MiB", "1024 TiB"]
    )
  })

  it("says of a node how far it is, how fast, and what is left", () => {
    const line = progressLine(
      { name: "reader-1", role: "reader" },
      { ...progress, ready: false, owed: { files: 3, bytes: 1536 } },
      2048,
      5
    )
    assert.match(line, /^reader-1 +reader +2\/5 files +8 B +2\.0 KiB\/s +3 left \(1\.5 KiB\)$/)
    assert.match(progressLine({ name: "w", role: "writer" }, progress, 0, 2), /complete$/)
  })

  it("lines the columns of a table up", () => {
    assert.strictEqual(table([["node", "files"], ["a", "100"]]), "node   files\n------------\na        100")
  })
})
