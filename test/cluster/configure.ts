/** What nodes and manifests of tests are made from. */
import { Effect } from "effect"
import { createHash } from "node:crypto"
import { mkdir, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { run } from "./command.ts"

/** A folder with a configuration for a node in it; gives the file's path. `more`: lines of its cluster. */
export const configure = (
  folder: string,
  name: string,
  more = "",
  { data = join(folder, name, "data"), minFreeBytes = 0 } = {}
) =>
  Effect.promise(async () => {
    await mkdir(join(folder, name), { recursive: true })
    const file = join(folder, `${name}.toml`)
    await writeFile(
      file,
      `[cluster]
enabled = true
replication_enabled = true
node_id = "${name}"
shared_secret = "a secret of the tests"
coordinator_addr = "127.0.0.1:0"
manifest_path = "${join(folder, "manifest.db")}"
${more}
[storage]
local_path = "${data}"
min_free_bytes = ${minFreeBytes}
`
    )
    return file
  })

/** An entry whose bytes are `content`, as a line of a manifest. */
export const entryLine = (path: string, content: string) =>
  JSON.stringify({
    path,
    sha256: createHash("sha256").update(content).digest("hex"),
    size_bytes: content.length,
    database: "db",
    measurement: "cpu",
    partition_time: "2026-04-11T14:00:00Z",
    origin_node_id: "elsewhere",
    tier: "hot",
    created_at: "2026-04-11T14:00:01.123456789Z",
    lsn: 7
  })

/** Puts a file of a node that nobody knows into the manifest. */
export const list = Effect.fnUntraced(function*(folder: string, config: string, path: string, content: string) {
  const file = join(folder, "manifest.jsonl")
  yield* Effect.promise(() => writeFile(file, `${entryLine(path, content)}\n`))
  const { code, stderr } = yield* run(["manifest", "import", file, "--config", config])
  if (code !== 0) return yield* Effect.die(new Error(stderr))
})
