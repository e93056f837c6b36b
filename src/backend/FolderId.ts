/** The id that a data folder carries, in the reserved folder, wherever the rest of the node's state lies. */
import { Effect, Option } from "effect"
import { randomBytes } from "node:crypto"
import { link, mkdir, open, readFile, unlink } from "node:fs/promises"
import { join } from "node:path"
import { BackendError } from "../ports/Backend.ts"
import { reservedFolder } from "../ports/FilePath.ts"

const fileOf = (dataFolder: string) => join(dataFolder, reservedFolder, "id")
const shape = /^[A-Za-z0-9-]{1,64}$/

/** The id of a folder; `none` when it carries none. */
export const read = Effect.fnUntraced(function*(dataFolder: string) {
  const path = fileOf(dataFolder)
  const text = yield* attempt(path, () => readOrNone(path))
  if (text === undefined) return Option.none()
  if (shape.test(text)) return Option.some(text)
  return yield* refuse(path, "it holds no id; if the folder is this node's, remove the file and start again")
})

/** Makes `id` the folder's unless it carries one already, durably. */
export const claim = Effect.fnUntraced(function*(dataFolder: string, id: string) {
  const path = fileOf(dataFolder)
  yield* attempt(path, () => write(join(dataFolder, reservedFolder), path, id))
  return Option.getOrElse(yield* read(dataFolder), () => id)
})

const refuse = (path: string, detail: string) =>
  new BackendError({ operation: "read the folder's id", path, reason: "Io", detail })

const attempt = <A>(path: string, run: () => Promise<A>) =>
  Effect.tryPromise({
    try: run,
    catch: (cause) => refuse(path, cause instanceof Error ? cause.message : String(cause))
  })

const hasCode = (cause: unknown, code: string): boolean =>
  cause instanceof Error && "code" in cause && cause.code === code

const readOrNone = async (path: string): Promise<string | undefined> => {
  try {
    return (await readFile(path, "utf8")).trim()
  } catch (cause) {
    if (hasCode(cause, "ENOENT")) return undefined
    throw cause
  }
}

// Written beside and then linked: whoever sees the name sees the whole id, and of two who claim at once one wins.
const write = async (folder: string, path: string, id: string): Promise<void> => {
  await mkdir(folder, { recursive: true })
  const draft = `${path}.${randomBytes(6).toString("hex")}`
  const file = await open(draft, "wx")
  try {
    await file.writeFile(`${id}\n`)
    await file.sync()
  } finally {
    await file.close()
  }
  try {
    await link(draft, path)
  } catch (cause) {
    if (!hasCode(cause, "EEXIST")) throw cause
  } finally {
    await unlink(draft)
  }
}
