/**
 * Before all tests: the programs that they start, in a few files instead of 500 modules, which a process loads in a third
 * of the time. The code is that of `src/` and of what it imports; threads, and the nodes of a demo, start from `src/`.
 */
import { mkdir, readFile, rename, writeFile } from "node:fs/promises"
import { dirname, join } from "node:path"
import { pathToFileURL } from "node:url"
import { type Plugin, rolldown } from "rolldown"
import { programs, root } from "./program.ts"

const folder = join(root, "node_modules/.cache/file-replication-tests")
const compiled = join(root, "node_modules/.cache/file-replication")

/** Modules look for files beside themselves where they were written. */
const sourcesStay: Plugin = {
  name: "sources stay",
  transform(code, file) {
    if (file.includes("node_modules") || !code.includes("import.meta")) return null
    const meta = { url: pathToFileURL(file).href, filename: file, dirname: dirname(file) }
    return code.replaceAll("import.meta", `(${JSON.stringify(meta)})`)
  }
}

/** Replaces a file whole, if at all: processes of another run may be starting from it. */
const keep = async (name: string, content: string): Promise<void> => {
  const file = join(folder, name)
  if (await readFile(file, "utf8").catch(() => undefined) === content) return
  await mkdir(dirname(file), { recursive: true })
  await writeFile(`${file}.${process.pid}`, content)
  await rename(`${file}.${process.pid}`, file)
}

export const setup = async (): Promise<void> => {
  const bundle = await rolldown({
    input: Object.fromEntries(programs.map((name) => [name.replace(/\.ts$/, ""), join(root, name)])),
    platform: "node",
    // Native.
    external: /^@duckdb\//,
    plugins: [sourcesStay]
  })
  const { output } = await bundle.generate({ format: "esm", chunkFileNames: "[name].js" })
  await bundle.close()
  await Promise.all(output.map((one) => keep(one.fileName, one.type === "chunk" ? one.code : String(one.source))))
  process.env["TEST_PROGRAMS"] = folder
  // Else every thread that a test starts would strip types anew, and load what does that.
  process.env["NODE_COMPILE_CACHE"] ??= compiled
}
