/**
 * Loaded before a node, and before each of its threads (`NODE_OPTIONS=--import`): ends the process as kill -9 does, just
 * before the step `KILL_AT` of what it changes on the disk for the file `KILL_PATH`. Steps are counted from 0 over all
 * threads by the lines of `KILL_LOG`, which says afterwards what they were. A sync is no step: whether a process dies
 * before it or behind it, the kernel has the same.
 */
import { createHash } from "node:crypto"
import fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import { dirname } from "node:path"
import { DatabaseSync, StatementSync } from "node:sqlite"

type Call = (...args: ReadonlyArray<unknown>) => unknown

const path = process.env["KILL_PATH"] ?? ""
const at = Number(process.env["KILL_AT"])
const log = process.env["KILL_LOG"] ?? ""
const key = createHash("sha256").update(path).digest("hex")

const { appendFileSync, readFileSync } = fs

const step = (what: string): void => {
  appendFileSync(log, "")
  const before = readFileSync(log, "utf8").trimEnd().split("\n").filter((line) => line !== "")
  // How many writes the bytes of a peer come in is the network's.
  if (what === "write" && before.at(-1) === what) return
  appendFileSync(log, `${what}\n`)
  if (before.length !== at) return
  process.kill(process.pid, "SIGKILL")
  // No call of this thread comes behind it.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
}

/** What is staged for the file, its folder and those above it, and the file. */
const isMeant = (name: unknown): boolean =>
  typeof name === "string" && (name.includes(key) || name.includes(`/${dirname(path)}`))

/** Descriptors of this thread that were opened for it. */
const meant = new Set<unknown>()

const patch = (target: object, name: string, wrap: (original: Call, self: object, args: Array<unknown>) => unknown) => {
  const original: unknown = Reflect.get(target, name)
  if (typeof original !== "function") throw new Error(`there is no ${name}`)
  const call = (self: object): Call => (...args) => Reflect.apply(original, self, args)
  Reflect.set(target, name, function(this: object, ...args: Array<unknown>) {
    return wrap(call(this), this, args)
  })
}

const opened = (fd: unknown, name: unknown): void => {
  if (isMeant(name)) meant.add(fd)
  else meant.delete(fd)
}

const creates = (flags: unknown): boolean => typeof flags === "number" && (flags & fs.constants.O_CREAT) !== 0

patch(fs, "open", (original, _self, args) => {
  if (isMeant(args[0]) && creates(args[1])) step("create")
  const done: unknown = args.pop()
  return original(...args, (error: unknown, fd: unknown) => {
    if (error === null) opened(fd, args[0])
    if (typeof done === "function") Reflect.apply(done, undefined, [error, fd])
  })
})
patch(fs, "openSync", (original, _self, args) => {
  if (isMeant(args[0]) && creates(args[1])) step("create")
  const fd = original(...args)
  opened(fd, args[0])
  return fd
})
for (const name of ["mkdir", "link", "rename", "unlink"]) {
  for (const each of [name, `${name}Sync`]) {
    patch(fs, each, (original, _self, args) => {
      if (isMeant(args[0]) || (name !== "mkdir" && isMeant(args[1]))) step(name)
      return original(...args)
    })
  }
}
for (const name of ["write", "ftruncate"]) {
  for (const each of [name, `${name}Sync`]) {
    patch(fs, each, (original, _self, args) => {
      if (meant.has(args[0])) step(name)
      return original(...args)
    })
  }
}
syncBuiltinESMExports()

let touched = false
patch(StatementSync.prototype, "run", (original, _self, args) => {
  touched ||= args.includes(path)
  return original(...args)
})
patch(DatabaseSync.prototype, "exec", (original, _self, args) => {
  if (args[0] === "COMMIT" && touched) step("COMMIT")
  touched = false
  return original(...args)
})
