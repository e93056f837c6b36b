/** What the documentation says, run. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { execFile } from "node:child_process"
import { readFileSync } from "node:fs"
import { symlink, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { commands } from "../../src/cli/main.ts"
import { secretKeys, settings } from "../../src/config/settings.ts"
import { Api } from "../../src/http/Api.ts"
import { statuses } from "../../src/http/refusals.ts"
import { temporaryFolder } from "../support/folder.ts"

const root = join(import.meta.dirname, "../..")
const read = (file: string) => readFileSync(join(root, file), "utf8")

const blocks = (markdown: string, language: string): ReadonlyArray<string> =>
  [...markdown.matchAll(new RegExp("```" + language + "\\n([\\s\\S]*?)```", "g"))].map(([, code = ""]) => code)

/** Runs a program; gives its exit code and everything it printed. */
const execute = (command: string, args: ReadonlyArray<string>, cwd: string) =>
  Effect.callback<{ readonly code: number; readonly output: string }>((resume) => {
    const child = execFile(
      command,
      args,
      { cwd, env: { PATH: process.env["PATH"] ?? "" } },
      (error, stdout, stderr) => {
        resume(Effect.succeed({ code: error === null ? 0 : Number(error.code ?? 1), output: stdout + stderr }))
      }
    )
    return Effect.sync(() => child.kill("SIGKILL"))
  })

describe("the README", () => {
  const examples = blocks(read("README.md"), "ts").map((code) =>
    code.replaceAll("\"effect-file-replication\"", JSON.stringify(join(root, "src/index.ts")))
      .replaceAll(/"effect-file-replication\/(.+)"/g, (_, name) => JSON.stringify(join(root, `src/${name}.ts`)))
  )

  it.live("has examples that compile, and the first one publishes a file", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      yield* Effect.promise(async () => {
        await symlink(join(root, "node_modules"), join(folder, "node_modules"))
        await writeFile(join(folder, "package.json"), "{\"type\":\"module\"}")
        for (const [n, code] of examples.entries()) await writeFile(join(folder, `example${n}.ts`), code)
        const { compilerOptions } = JSON.parse(read("tsconfig.json"))
        const options = { ...compilerOptions, allowImportingTsExtensions: true, rewriteRelativeImportExtensions: false }
        await writeFile(
          join(folder, "tsconfig.json"),
          JSON.stringify({ compilerOptions: { ...options, typeRoots: [join(root, "node_modules/@types")] } })
        )
      })
      assert.isAtLeast(examples.length, 2)
      const compiled = yield* execute(join(root, "node_modules/.bin/tsc"), ["--project", folder], folder)
      assert.strictEqual(compiled.code, 0, compiled.output)
      const ran = yield* execute(process.execPath, ["--disable-warning=ExperimentalWarning", "example0.ts"], folder)
      assert.strictEqual(ran.code, 0, ran.output)
      assert.match(ran.output, /db\/cpu\/a\.parquet is at revision 1; ready: (true|false)/)
      assert.strictEqual(readFileSync(join(folder, "data/replicated/db/cpu/a.parquet"), "utf8"), "bytes")
    }), 120_000)

  it("shows the two lines that do everything", () => {
    const lines = read("README.md").split("\n")
    assert.include(lines, "npm ci && npm start")
    assert.include(lines, "npm ci && npm test")
  })

  it("links only to files that are there", () => {
    for (const [, target = ""] of read("README.md").matchAll(/\]\((?!https?:)([^)#]+)\)/g)) read(target)
  })
})

describe("the README of the example", () => {
  it("shows the resolver as it is", () => {
    const [shown] = blocks(read("examples/timeseries/README.md"), "ts")
    const source = read("examples/timeseries/src/sameRack.ts")
    assert.strictEqual(shown, source.slice(source.indexOf("import")))
  })
})

describe("docs/cli.md", () => {
  const text = read("docs/cli.md")

  it("has a row for every command and its subcommands, and none for what is no command", async () => {
    const names: Array<string> = []
    for (const load of Object.values(commands)) {
      const command = await load()
      const below = command.subcommands.flatMap((group) => group.commands.map(({ name }) => `${command.name} ${name}`))
      names.push(...(below.length > 0 ? below : [command.name]))
    }
    const cells = [...text.matchAll(/^\| ((?:`[^`]+`,? *)+)\|/gm)].flatMap(([, cell = ""]) =>
      [...cell.matchAll(/`([a-z-]+(?: (?:check|export|import|init))?)/g)].map(([, name = ""]) => name)
    )
    assert.deepStrictEqual([...cells].sort(), names.sort())
  })
})

describe("docs/http-api.md", () => {
  const text = read("docs/http-api.md")

  it("has a row for every endpoint", () => {
    const endpoints = Object.values(Api.groups).flatMap((group) =>
      Object.values(group.endpoints).map(({ method, path }) =>
        `${method} ${path.replace("/:path/*", "/{path}").replace("/:id", "/{id}")}`
      )
    )
    const rows = [...text.matchAll(/^\| `([A-Z]+ \/[^`?]*)/gm)].map(([, row = ""]) => row)
    assert.deepStrictEqual([...rows].sort(), [...endpoints, "GET /metrics"].sort())
  })

  it("has a row for every code of a refusal, with its status", () => {
    const rows = [...text.matchAll(/^\| `([A-Za-z]+)` +\| (\d+) /gm)].map((
      [, code = "", status]
    ) => [code, Number(status)])
    assert.deepStrictEqual(Object.fromEntries(rows), { ...statuses })
  })
})

describe("docs/configuration.md", () => {
  const documented = [...read("docs/configuration.md").matchAll(/^\| `([a-z]+\.[a-z_]+)`/gm)].map(([, key = ""]) => key)

  it("lists every setting once, and none that is not there", () => {
    const keys = [...Object.values(settings).map(({ key }) => key), ...secretKeys.map((key) => `${key}_file`)]
    assert.deepStrictEqual([...documented].sort(), keys.sort())
  })
})
