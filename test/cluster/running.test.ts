/** The commands that ask a running node. One node serves them all. */
import { assert, layer } from "@effect/vitest"
import { Context, Effect, Layer, Schema } from "effect"
import { readFileSync } from "node:fs"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { StatusReport } from "../../src/cli/status.ts"
import { Registration } from "../../src/http/answers.ts"
import * as FileList from "../../src/replication/FileList.ts"
import { FileReport } from "../../src/replication/FileReport.ts"
import { temporaryFolder } from "../support/folder.ts"
import { lineOf, run, start } from "./command.ts"
import { configure, entryLine } from "./configure.ts"

class Node extends Context.Service<Node, {
  readonly folder: string
  readonly url: string
  /** The command, told to find the node by its configuration, as on the node's own machine. */
  readonly here: (...args: ReadonlyArray<string>) => ReturnType<typeof run>
  /** The same by its address, as from elsewhere. */
  readonly there: (...args: ReadonlyArray<string>) => ReturnType<typeof run>
}>()("test/Node") {}

/** Each test runs the command several times. */
const patience = 120_000

const token = "a token of the tests"

const node = Layer.effect(
  Node,
  Effect.gen(function*() {
    const folder = yield* temporaryFolder
    const config = yield* configure(folder, "node", `[server]\napi_token = "${token}"`)
    const manifest = join(folder, "manifest.jsonl")
    yield* Effect.promise(() => writeFile(manifest, `${entryLine("lost/file", "gone")}\n`))
    const imported = yield* run(["manifest", "import", manifest, "--config", config])
    assert.strictEqual(imported.code, 0, imported.stderr)
    const running = yield* start(["node", "--config", config])
    const url = /(http:\/\/[^/]+)\/health/.exec(yield* lineOf(running, /it serves http/))?.[1] ?? ""
    const { port } = new URL(url)
    return {
      folder,
      url,
      here: (...args) => run([...args, "--config", config], { ARC_SERVER_PORT: port }),
      there: (...args) => run([...args, "--url", url], { FILE_REPLICATION_TOKEN: token })
    }
  })
)

const decode = <S extends Schema.Codec<unknown, unknown>>(schema: S, text: string) =>
  Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.toCodecJson(schema)))(text)

/** That the command ended well; gives what it printed. */
const fine = ({ code, stderr, stdout }: Effect.Success<ReturnType<typeof run>>): string => {
  assert.strictEqual(code, 0, stderr)
  return stdout
}

layer(node, { timeout: 120_000, excludeTestServices: true })("commands that ask a running node", (it) => {
  it.effect(
    "publish sends files, whose bytes the node then has; other bytes are refused with a sentence",
    () =>
      Effect.gen(function*() {
        const { folder, here, there } = yield* Node
        const source = join(folder, "ä source")
        const bytes = Buffer.alloc(5_000_000, "x")
        yield* Effect.promise(() => writeFile(source, bytes))
        const { entry } = yield* decode(
          Registration,
          fine(yield* there("publish", source, "--as", "pub/a b#?%/ä", "--json"))
        )
        assert.deepStrictEqual([String(entry.path), entry.size_bytes], ["pub/a b#?%/ä", 5_000_000])
        assert.isTrue(readFileSync(join(folder, "node", "data", "pub/a b#?%/ä")).equals(bytes))
        assert.match(
          fine(yield* here("publish", source, "--as", "pub/b")),
          /^pub\/b {2}5000000 bytes {2}sha256 [0-9a-f]{64}/
        )
        yield* Effect.promise(() => writeFile(source, "other"))
        const exported = fine(yield* there("manifest", "export"))
        assert.strictEqual(exported, fine(yield* here("manifest", "export")))
        assert.include(exported, "pub/a b#?%/ä")
        const conflict = yield* here("publish", source, "--as", "pub/b")
        assert.strictEqual(conflict.code, 1)
        assert.match(conflict.stderr, /^file-replication: pub\/b is already registered with other bytes .*\n$/)
        // A path that can't be is known before the first of several files is published.
        const wrong = yield* there("publish", source, join(folder, "back\\slash"), "--as", "pub/several")
        assert.strictEqual(wrong.code, 2)
        assert.include(
          wrong.stderr,
          "pub/several/back\\slash is no path of a replicated file: it contains a back-slash"
        )
        assert.notInclude(fine(yield* there("files", "--prefix", "pub/several")), "source")
        const missing = yield* there("publish", join(folder, "nothing"))
        assert.strictEqual(missing.code, 1)
        assert.match(missing.stderr, /^file-replication: .*nothing: there is no such file\n$/)
      }),
    patience
  )

  it.effect("status says how the node stands, and watches it", () =>
    Effect.gen(function*() {
      const { folder, here, there, url } = yield* Node
      assert.match(fine(yield* there("status")), /^node\n {2}state +not ready: 1 file is owed/)
      const report = yield* decode(StatusReport, fine(yield* here("status", "--json")))
      assert.deepStrictEqual([String(report.node), report.owed.files, report.live._tag], ["node", 1, "Some"])
      const watching = yield* start(["status", "--watch", "--url", url], {}, folder)
      assert.match(yield* lineOf(watching, /^node: /), /1 file owed, 4 B; 0 in flight/)
      watching.child.kill("SIGINT")
      assert.strictEqual(yield* watching.exit, 130)
    }).pipe(Effect.scoped), patience)

  it.effect("files lists the manifest and what is owed", () =>
    Effect.gen(function*() {
      const { folder, here, there } = yield* Node
      const source = join(folder, "listed")
      yield* Effect.promise(() => writeFile(source, "listed"))
      fine(yield* there("publish", source, "--as", "list/a"))
      fine(yield* there("publish", source, "--as", "list/b"))
      const lines = fine(yield* here("files", "--prefix", "list/")).trimEnd().split("\n")
      assert.deepStrictEqual(lines.map((line) => line.split(/ +/).filter((_, n) => n === 0 || n === 5)), [
        ["verified", "list/a"],
        ["verified", "list/b"]
      ])
      // A name that steers a terminal, and looks like a second line.
      const odd = "odd/\u001b[2J\u202e\nverified"
      fine(yield* there("publish", source, "--as", odd))
      for (const shown of [yield* here("files", "--prefix", "odd/"), yield* here("why", odd)]) {
        assert.include(fine(shown), "odd/\\u001b[2J\\u202e\\u000averified\n")
      }
      assert.include((yield* here("why", `${odd}s`)).stderr, "odd/\\u001b[2J\\u202e\nverifieds\n")
      const json = fine(yield* there("files", "--prefix", "list/", "--limit", "1", "--json"))
      assert.strictEqual(String((yield* decode(FileList.ListedFile, json)).entry.path), "list/a")
      assert.match(fine(yield* there("files", "--owed")), /4 B {2}lost\/file: ./)
      const owed = yield* decode(FileList.OwedFile, fine(yield* here("files", "--owed", "--json")))
      assert.strictEqual(String(owed.path), "lost/file")
    }), patience)

  it.effect("why tells the same over HTTP as from the files", () =>
    Effect.gen(function*() {
      const { here, there } = yield* Node
      assert.match(fine(yield* there("why", "lost/file")), /here +owed since/)
      const known = yield* decode(FileReport, fine(yield* here("why", "lost/file", "--json")))
      assert.deepStrictEqual([known.manifest.state, known.local.state], ["listed", "owed"])
      const unknown = yield* there("why", "no/such")
      assert.deepStrictEqual([unknown.code, unknown.stderr], [
        1,
        "file-replication: nothing is known of no/such\n"
      ])
    }), patience)

  it.effect("verify lets the node hash its files, and fails when it found damage", () =>
    Effect.gen(function*() {
      const { folder, here, there } = yield* Node
      const source = join(folder, "damaged")
      yield* Effect.promise(() => writeFile(source, "some bytes"))
      fine(yield* there("publish", source, "--as", "verify/file"))
      const sound = fine(yield* there("verify", "--rate", "0", "--json"))
      assert.deepInclude<object>(JSON.parse(sound), { damaged: 0, missing: 0 })
      yield* Effect.promise(() => writeFile(join(folder, "node/data/verify/file"), "some BYTES"))
      const damaged = yield* here("verify", "--rate", "0")
      assert.strictEqual(damaged.code, 1)
      assert.match(damaged.stdout, /1 damaged, 0 missing/)
      assert.match(damaged.stderr, /\nfile-replication: 1 file was damaged|^file-replication: 1 file was damaged/)
    }), patience)

  it.effect("pause and resume hold and let go, and need the token", () =>
    Effect.gen(function*() {
      const { here, there, url } = yield* Node
      assert.match(fine(yield* there("pause")), /no new pull begins/)
      assert.match(fine(yield* here("status")), /paused/)
      assert.strictEqual(fine(yield* here("resume", "--json")), "{\"paused\":[]}\n")
      const refused = yield* run(["pause", "--url", url])
      assert.strictEqual(refused.code, 1)
      assert.match(refused.stderr, /^file-replication: .*bearer.*--token.*\n$/i)
      const wrong = yield* run(["pause", "--url", url, "--token", "another"])
      assert.strictEqual(wrong.code, 1)
    }), patience)

  it.effect("says in one sentence that no node answers, and where", () =>
    Effect.gen(function*() {
      const asked = [["pause"], ["status"], ["files"], ["why", "a"], ["verify"], ["forget", "a", "--lost"], ["drain"]]
      for (
        const args of [...asked, ["remove-node", "a"], ["manifest", "export"], ["manifest", "import", "/dev/null"]]
      ) {
        const { code, stderr } = yield* run([...args, "--url", "http://127.0.0.1:1"])
        assert.strictEqual(code, 1)
        assert.match(stderr, /^file-replication: no node answers at http:\/\/127\.0\.0\.1:1: .*\n$/)
      }
      const wrong = yield* run(["status", "--url", "nonsense:99999"])
      assert.deepStrictEqual([wrong.code, wrong.stderr], [
        2,
        "file-replication: http://nonsense:99999 is no address of a node; one looks like http://127.0.0.1:8000\n"
      ])
    }), patience)

  it.effect(
    "manifest import sends lines, all of them or none, or what is right of them",
    () =>
      Effect.gen(function*() {
        const { folder, there, url } = yield* Node
        const file = join(folder, "lines")
        const lay = (...lines: ReadonlyArray<string>) => Effect.promise(() => writeFile(file, lines.join("\n")))
        yield* lay(entryLine("in/a", "a"), "no json", entryLine("in/a", "other"))
        const refused = yield* there("manifest", "import", file)
        assert.strictEqual(refused.code, 1)
        assert.match(
          refused.stderr,
          /^file-replication: .*lines: 2 lines are wrong; nothing was imported\n {2}line 2: .*\n {2}line 3: in\/a has other bytes here than in line 1\n$/
        )
        assert.notInclude(fine(yield* there("manifest", "export")), "in/a")
        const partly = yield* there("manifest", "import", file, "--keep-going", "--json")
        assert.strictEqual(partly.code, 1)
        const told = JSON.parse(partly.stdout)
        assert.deepStrictEqual(
          [told.imported, told.wrong.map(({ line }: { line: number }) => line), told.more],
          [1, [2, 3], 0]
        )
        yield* lay(entryLine("in/a", "a"), entryLine("in/b", "b"))
        assert.strictEqual(fine(yield* there("manifest", "import", file)), `2 entries of ${file} are in the manifest\n`)
        assert.include(fine(yield* there("manifest", "export")), "in/b")
        const unread = yield* there("manifest", "import", join(folder, "nothing"))
        assert.match(unread.stderr, /^file-replication: .*nothing: there is no such file\n$/)
        assert.match((yield* run(["manifest", "import", file, "--url", url])).stderr, /--token/)
      }),
    patience
  )

  it.effect("forget ends the debt for a file that is lost, and leaves others alone", () =>
    Effect.gen(function*() {
      const { folder, there } = yield* Node
      const first = yield* there("forget", "lost/file", "--lost")
      assert.strictEqual(first.code, 1)
      assert.include(first.stdout, "  node: does not have it, this node\n")
      assert.match(first.stderr, /^file-replication: lost\/file was not forgotten: nothing was changed; .*--yes/)
      const second = fine(yield* there("forget", "lost/file", "--lost", "--yes"))
      assert.match(second, /lost\/file is forgotten: deleted at revision \d+, on record in .*forgotten\.jsonl\n$/)
      const record: unknown = JSON.parse(readFileSync(join(folder, "node/data/.replication/forgotten.jsonl"), "utf8"))
      assert.nestedPropertyVal(record, "entry.path", "lost/file")
      assert.match(fine(yield* there("forget", "lost/file", "--lost")), /^lost\/file is deleted already: lost: /)
      assert.match((yield* there("forget", "no/such", "--lost")).stderr, /no\/such was not forgotten: it is not in the/)

      const source = join(folder, "kept")
      yield* Effect.promise(() => writeFile(source, "kept"))
      fine(yield* there("publish", source, "--as", "kept"))
      const held = yield* there("forget", "kept", "--lost", "--yes")
      assert.strictEqual(held.code, 1)
      assert.match(held.stderr, /kept was not forgotten: it is not lost: node may still have it; --yes --force deletes/)
      const forced = fine(yield* there("forget", "kept", "--lost", "--yes", "--force", "--json"))
      assert.deepInclude<object>(JSON.parse(forced), { path: "kept", forgotten: true })
    }), patience)
})
