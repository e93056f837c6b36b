/** The thread behind `statThread.ts`: looks at one file after another, and opens none. */
import { lstatSync, realpathSync } from "node:fs"
import { dirname, join } from "node:path"
import { parentPort, workerData } from "node:worker_threads"

export interface Request {
  readonly id: number
  /** Four texts a file: path, size, time of the last change in nanoseconds, inode. */
  readonly files: string
}

export type Reply =
  | { readonly id: number; readonly ok: true; readonly different: ReadonlyArray<string> }
  | { readonly id: number; readonly ok: false; readonly code: string; readonly detail: string }

const port = parentPort
if (port === null) throw new Error("statWorker is a worker thread's module")
const data: string = workerData.data

const codeOf = (cause: unknown): string => {
  const code: unknown = cause instanceof Error ? Reflect.get(cause, "code") : undefined
  return typeof code === "string" ? code : "REFUSED"
}

/** Whether a folder is where its name says, without a symbolic link on the way. */
const isStraight = (folder: string): boolean => {
  try {
    return realpathSync.native(folder) === folder
  } catch (cause) {
    if (["ENOENT", "ENOTDIR", "ELOOP"].includes(codeOf(cause))) return false
    throw cause
  }
}

const statOf = (file: string) => {
  try {
    return lstatSync(file, { bigint: true, throwIfNoEntry: false })
  } catch (cause) {
    if (["ENOTDIR", "ELOOP"].includes(codeOf(cause))) return undefined
    throw cause
  }
}

const differing = (packed: string): ReadonlyArray<string> => {
  const fields = packed === "" ? [] : packed.split("\0")
  const different: Array<string> = []
  // Files of one folder come together, so one look at it serves them all.
  let folder = ""
  let straight = false
  for (let at = 0; at < fields.length; at += 4) {
    const path = fields[at] ?? ""
    const file = join(data, path)
    const above = dirname(file)
    if (above !== folder) {
      folder = above
      straight = isStraight(above)
    }
    const stat = straight ? statOf(file) : undefined
    const same = stat !== undefined && stat.isFile() && String(stat.size) === fields[at + 1]
      && String(stat.mtimeNs) === fields[at + 2] && String(stat.ino) === fields[at + 3]
    if (!same) different.push(path)
  }
  return different
}

const answer = ({ files, id }: Request): Reply => {
  try {
    return { id, ok: true, different: differing(files) }
  } catch (cause) {
    return { id, ok: false, code: codeOf(cause), detail: cause instanceof Error ? cause.message : String(cause) }
  }
}

port.on("message", (request: Request) => port.postMessage(answer(request)))
