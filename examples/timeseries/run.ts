/**
 * Packs the library as it is published, installs it here from that file, and runs this application's checks, tests and
 * demo on it. `npm run example` at the top of the repository.
 */
import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

const here = import.meta.dirname
const library = join(here, "../..")
const run = (command: string, args: ReadonlyArray<string>, cwd: string) => {
  const { error, status, stdout } = spawnSync(command, args, {
    cwd,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"]
  })
  if (error !== undefined || status !== 0) {
    process.stderr.write(`${stdout ?? ""}\n${[command, ...args].join(" ")} ended with ${error?.message ?? status}\n`)
    process.exit(1)
  }
  return stdout
}

const elsewhere = mkdtempSync(join(tmpdir(), "packed-"))
process.on("exit", () => rmSync(elsewhere, { recursive: true, force: true }))
run("npm", ["run", "--silent", "build"], library)
const name = run("npm", ["pack", "--silent", "--ignore-scripts", "--pack-destination", elsewhere], library).trim()
// The other dependencies are those of the lock; the library is no part of it, because it is another with each change.
const quiet = ["--no-save", "--no-audit", "--no-fund", "--loglevel=error"]
run("npm", ["install", ...quiet, join(elsewhere, name)], here)
process.stdout.write(`${name} is installed\n`)
run(process.execPath, ["node_modules/typescript/bin/tsc", "--noEmit"], here)
process.stdout.write("its types fit\n")
run(process.execPath, ["node_modules/vitest/vitest.mjs", "run", "--silent"], here)
process.stdout.write("the tests of this application pass\n")
const demo = ["--disable-warning=ExperimentalWarning", "src/demo/main.ts"]
const { status } = spawnSync(process.execPath, demo, { cwd: here, stdio: "inherit" })
process.exit(status ?? 1)
