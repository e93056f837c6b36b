/** The name of a node that was given none: made once, kept with its data. */
import { Effect, Schema } from "effect"
import { randomBytes } from "node:crypto"
import { mkdir, open, readFile } from "node:fs/promises"
import { join } from "node:path"
import { BackendError } from "../ports/Backend.ts"
import { NodeId } from "../ports/FileEntry.ts"

/** Reads the id of the node whose state lies in a folder, or makes one. Creates the folder. */
export const nodeIdOf = Effect.fn("NodeIdFile.nodeIdOf")(function*(stateFolder: string) {
  const path = join(stateFolder, "node-id")
  const refuse = (detail: string) => new BackendError({ operation: "read the node id", path, reason: "Io", detail })
  const text = yield* Effect.tryPromise({
    try: () => readOrMake(stateFolder, path),
    catch: (cause) => refuse(cause instanceof Error ? cause.message : String(cause))
  })
  return yield* Schema.decodeEffect(NodeId)(text).pipe(
    Effect.mapError(() => refuse("it holds no node id; remove the file for a new one, or set cluster.node_id"))
  )
})

const readOrMake = async (folder: string, path: string): Promise<string> => {
  await mkdir(folder, { recursive: true })
  const id = `node-${randomBytes(6).toString("hex")}`
  try {
    const file = await open(path, "wx")
    try {
      await file.writeFile(`${id}\n`)
      await file.sync()
    } finally {
      await file.close()
    }
    return id
  } catch (cause) {
    if (!(cause instanceof Error && "code" in cause && cause.code === "EEXIST")) throw cause
    return (await readFile(path, "utf8")).trim()
  }
}
