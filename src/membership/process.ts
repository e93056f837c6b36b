/** Which process a node is, so that another one on its host can see whether it still runs. */
import { readFileSync, readlinkSync } from "node:fs"
import { hostname } from "node:os"

export interface ProcessId {
  /** Where process numbers mean the same. */
  readonly host: string
  readonly pid: number
  /** When it began, in the kernel's own units; `""` when that is not known. */
  readonly started: string
}

export const ownProcess = (): ProcessId => ({
  host: hostIdentity(),
  pid: process.pid,
  started: startOf(process.pid)
})

/** Whether a process runs; `undefined` when that can't be told from here. */
export const runs = ({ host, pid, started }: ProcessId): boolean | undefined => {
  if (host !== hostIdentity()) return undefined
  if (!processExists(pid)) return false
  // Another process may have been given its number meanwhile; it began at another time.
  const now = startOf(pid)
  return now === "" || started === "" ? undefined : started === now
}

const textOf = (read: () => string): string => {
  try {
    return read().trim()
  } catch {
    // Only Linux has these files; elsewhere the name alone must do.
    return ""
  }
}

/**
 * Where process numbers mean the same: one host since its start, one container. Two containers may share a name.
 */
const hostIdentity = (): string =>
  [
    hostname(),
    textOf(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8")),
    textOf(() => readlinkSync("/proc/self/ns/pid"))
  ].join(" ")

/** When a process began, in the kernel's own units; `""` when that is not known. */
const startOf = (pid: number): string =>
  textOf(() => {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8")
    // The second field is the program's name in parentheses, which may hold anything. The start is the 22nd.
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? ""
  })

const processExists = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (cause) {
    // EPERM: it exists, and is another user's.
    return !(cause instanceof Error && Reflect.get(cause, "code") === "ESRCH")
  }
}
