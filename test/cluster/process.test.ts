/** `config check`, completions, and what a node says and does as a process: its logs, its signals. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { commands } from "../../src/cli/main.ts"
import { Cluster } from "../../src/http/answers.ts"
import { temporaryFolder } from "../support/folder.ts"
import { lineOf, run, start } from "./command.ts"
import { configure } from "./configure.ts"

describe("file-replication config check", () => {
  it.live("prints every setting, where it came from, and no secret", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const token = join(folder, "token")
      yield* Effect.promise(() => writeFile(token, "a hidden token\n"))
      const environment = { ARC_SERVER_PORT: "1234", ARC_SERVER_API_TOKEN_FILE: token, ARC_CLUSTER_NODE_IDD: "x" }
      const config = yield* configure(folder, "node")
      const shown = yield* run(["config", "check", "--config", config], environment)
      assert.strictEqual(shown.code, 0, shown.stderr)
      assert.match(shown.stdout, /^cluster\.node_id +"node" +file$/m)
      assert.match(shown.stdout, /^cluster\.shared_secret +"\(hidden\)" +file$/m)
      assert.match(shown.stdout, /^server\.api_token +"\(hidden\)" +server\.api_token_file$/m)
      assert.match(shown.stdout, /^server\.port +1234 +ARC_SERVER_PORT$/m)
      assert.match(shown.stdout, /^cluster\.role +"reader" +default$/m)
      assert.match(shown.stderr, /warning: ARC_CLUSTER_NODE_IDD is unknown/)
      assert.notMatch(shown.stdout + shown.stderr, /a hidden token|a secret of the tests/)

      const json = yield* run(["config", "check", "--json", "--config", config], environment)
      const printed = yield* Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.Struct({
        settings: Schema.Array(Schema.Struct({ key: Schema.String, value: Schema.Unknown, from: Schema.String })),
        warnings: Schema.Array(Schema.String)
      })))(json.stdout)
      assert.deepInclude(printed.settings, { key: "server.port", value: 1234, from: "ARC_SERVER_PORT" })
      assert.lengthOf(printed.warnings, 1)
    }), 120_000)

  it.live("ends with 2 and names all that is wrong", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const config = yield* configure(folder, "node", "role = \"king\"\nreplication_pull_workers = 0")
      const { code, stderr, stdout } = yield* run(["config", "check", "--config", config], {
        ARC_SERVER_HOST: "0.0.0.0"
      })
      assert.deepStrictEqual([code, stdout], [2, ""])
      for (const offence of ["cluster.role (file)", "cluster.replication_pull_workers (file)", "server.api_token"]) {
        assert.include(stderr, offence)
      }
    }), 120_000)
})

describe("file-replication", () => {
  it.live("completes commands in a shell", () =>
    Effect.gen(function*() {
      for (const shell of ["bash", "zsh", "fish"]) {
        const { code, stdout } = yield* run(["--completions", shell])
        assert.strictEqual(code, 0)
        for (const word of ["publish", "status", "files", "verify", "config"]) assert.include(stdout, word)
        if (shell !== "fish") continue
        const json = new Set(
          [...stdout.matchAll(/__fish_seen_subcommand_from ([a-z-]+); and not .* -l json /g)].map(([, name]) => name)
        )
        const groups: Readonly<Record<string, ReadonlyArray<string>>> = {
          manifest: ["export", "import"],
          tls: ["init"],
          config: ["check"]
        }
        const leaves = Object.keys(commands).flatMap((name) => groups[name] ?? [name])
        assert.deepStrictEqual(leaves.filter((name) => !json.has(name)), ["node"])
      }
    }), 120_000)
})

const LogLine = Schema.fromJsonString(
  Schema.Struct({ message: Schema.String, level: Schema.String, timestamp: Schema.String })
)

/** What it logged, which must be JSON and nothing else. */
const messagesIn = (stderr: string) =>
  Effect.forEach(
    stderr.trimEnd().split("\n"),
    (line) => Effect.map(Schema.decodeUnknownEffect(LogLine)(line), ({ message }) => message)
  )

describe("a node as a process", () => {
  it.live("logs one JSON object a line, or readable lines when told to", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const config = yield* configure(folder, "node")
      const node = yield* start(["node", "--config", config])
      yield* lineOf(node, /it serves/)
      node.child.kill("SIGINT")
      assert.strictEqual(yield* node.exit, 0)
      const messages = yield* messagesIn(node.output().stderr)
      assert.match(messages[0] ?? "", /^node node \(reader\) listens on /)
      assert.deepStrictEqual(messages.slice(-2), ["SIGINT: stopping, within 30s at most", "stopped"])

      const readable = yield* start(["node", "--config", config, "--log-format", "text"])
      assert.match(yield* lineOf(readable, /listens on/), /^\d\d:\d\d:\d\d INFO {2}node node \(reader\) listens on 127/)
      readable.child.kill("SIGTERM")
      assert.strictEqual(yield* readable.exit, 0)
      assert.match(
        readable.output().stderr,
        /INFO {2}SIGTERM: stopping, within 30s at most\n(.*\n)*\d\d:\d\d:\d\d INFO {2}stopped\n$/
      )
    }), 120_000)

  it.live("does not join the cluster when it can't have its HTTP port", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const node = yield* start(["node", "--config", yield* configure(folder, "node")])
      const url = new URL(/(http:\S+)\/health/.exec(yield* lineOf(node, /it serves/))?.[1] ?? "")
      const config = yield* configure(folder, "late")
      const { code, stderr } = yield* run(["node", "--config", config], { ARC_SERVER_PORT: url.port })
      assert.strictEqual(code, 1)
      assert.include(stderr, `can't serve HTTP on 127.0.0.1 port ${url.port}: another program already does`)
      const text = yield* Effect.promise(() => fetch(`${url.origin}/api/v1/cluster`).then((answer) => answer.text()))
      const { members } = yield* Schema.decodeEffect(Schema.fromJsonString(Schema.toCodecJson(Cluster)))(text)
      assert.deepStrictEqual(members.map(({ id }) => String(id)), ["node"])
    }), 120_000)

  it.live("ends at once on a second signal", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const node = yield* start(["node", "--config", yield* configure(folder, "node")])
      yield* lineOf(node, /it serves/)
      // Stopped, it takes both signals together when it goes on.
      node.child.kill("SIGSTOP")
      node.child.kill("SIGTERM")
      node.child.kill("SIGINT")
      node.child.kill("SIGCONT")
      assert.include([130, 143], yield* node.exit)
      assert.match(
        (yield* messagesIn(node.output().stderr)).at(-1) ?? "",
        /^a second signal, SIG(INT|TERM): leaving at once$/
      )
    }), 120_000)

  it.live("ends when its shutdown takes too long, and says so", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const config = yield* configure(folder, "node")
      const node = yield* start(["node", "--config", config], { ARC_SERVER_SHUTDOWN_TIMEOUT_MS: "1" })
      yield* lineOf(node, /it serves/)
      node.child.kill("SIGTERM")
      assert.strictEqual(yield* node.exit, 1)
      assert.strictEqual(
        (yield* messagesIn(node.output().stderr)).at(-1),
        "shutdown has not ended within 1ms; leaving"
      )
    }), 120_000)

  it.live("says in one sentence that another process has its folder", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const config = yield* configure(folder, "node")
      const first = yield* start(["node", "--config", config])
      yield* lineOf(first, /it serves/)
      const { code, stderr } = yield* run(["node", "--config", config])
      assert.strictEqual(code, 1)
      assert.match(stderr, /^file-replication: [^\n]+\n$/)
    }), 120_000)
})
