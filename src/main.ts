#!/usr/bin/env node
/** The command `file-replication`. Exit codes: 0 done, 1 failed, 2 wrong configuration or usage, 130 interrupted. */
import { join } from "node:path"
import { offence } from "./nodeVersion.ts"

const tooOld = offence(process.version)

// In a checkout every start would strip the types of every module anew. What comes of it is kept where only whoever
// owns the checkout writes. Built modules gain nothing by it, so an installed command keeps nothing.
if (import.meta.filename.endsWith(".ts")) {
  const { enableCompileCache } = await import("node:module")
  const folder = join(import.meta.dirname, "../node_modules/.cache/file-replication")
  enableCompileCache(folder)
  // That is for this thread only. Every other one would load what strips types for itself, some 10 MiB each.
  process.env["NODE_COMPILE_CACHE"] ??= folder
}

if (tooOld !== undefined) {
  process.stderr.write(`file-replication: ${tooOld}\n`)
  process.exitCode = 1
} else {
  // Not a static import, which would be loaded before the lines above.
  const { main } = await import("./cli/main.ts")
  await main(process.argv.slice(2))
}
