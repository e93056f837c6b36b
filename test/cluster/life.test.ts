/** The life of a node, with processes as an operator runs them. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schedule, Schema } from "effect"
import { copyFile, readFile, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { version } from "../../src/version.ts"
import { temporaryFolder } from "../support/folder.ts"
import { lineOf, run, start } from "./command.ts"
import { configure } from "./configure.ts"

const running = Effect.fnUntraced(function*(folder: string, name: string) {
  const config = yield* configure(folder, name)
  const node = yield* start(["node", "--config", config])
  yield* lineOf(node, /listens on/)
  return { config, node }
})

/** A node that serves HTTP where its commands find it. */
const served = Effect.fnUntraced(function*(folder: string, name: string) {
  const config = yield* configure(folder, name)
  const node = yield* start(["node", "--config", config])
  const url = /(http:\S+?)\/?(?:health|\s|$)/.exec(yield* lineOf(node, /http:/))?.[1] ?? ""
  return { config, node, url }
})

const source = Effect.fnUntraced(function*(folder: string, content: string) {
  const file = join(folder, "source")
  yield* Effect.promise(() => writeFile(file, content))
  return file
})

let files = 0
/** Each pulls from the other what the other has published. */
const understand = Effect.fnUntraced(function*(one: { readonly url: string }, two: { readonly url: string }) {
  for (const [from, to] of [[one, two], [two, one]] as const) {
    const path = `/api/v1/files/db/${files++}`
    const put = yield* Effect.promise(() => fetch(from.url + path, { method: "PUT", body: path }))
    assert.strictEqual(put.status, 201)
    yield* Effect.repeat(Effect.promise(() => fetch(to.url + path).then((answer) => answer.text())), {
      until: (text) => text === path,
      schedule: Schedule.spaced("50 millis")
    })
  }
})

describe("publish --wait", () => {
  it.live(
    "returns when that many nodes hold the file, and else fails and names those that do not",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const one = yield* served(folder, "one")
        const two = yield* running(folder, "two")
        const file = yield* source(folder, "bytes")
        const beside = ["--config", one.config]
        const there = ["--url", one.url]
        const publish = (where: ReadonlyArray<string>, as: string, ...more: ReadonlyArray<string>) =>
          run(["publish", file, "--as", as, ...where, ...more])

        for (const [where, as] of [[beside, "db/a"], [there, "db/c"]] as const) {
          const both = yield* publish(where, as, "--wait", "2")
          assert.strictEqual(both.code, 0, both.stderr)
          assert.match(both.stdout, new RegExp(`^${as} .*\non 2 nodes, verified\n$`))
        }

        two.node.child.kill("SIGTERM")
        assert.strictEqual(yield* two.node.exit, 0)
        const few = "    there are only 2 nodes\n"
        for (const [where, as, wait, more] of [[beside, "db/b", 2, ""], [there, "db/d", 3, few]] as const) {
          const gone = yield* publish(where, as, "--wait", String(wait), "--timeout", "1")
          assert.strictEqual(gone.code, 1)
          assert.strictEqual(
            gone.stderr,
            `file-replication: published, but a file is not on ${wait} nodes within 1s:\n`
              + `  ${as}: 1 of ${wait}\n    two: gives no sign of life and was not asked\n${more}`
          )
          assert.match(gone.stdout, new RegExp(`^${as} `))
        }
      }),
    60_000
  )
})

describe("drain and remove-node", () => {
  it.live(
    "keep a node whose files nobody else has, name them, let it go once they are copied, and then forget it",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const one = yield* served(folder, "one")
        const file = yield* source(folder, "bytes")
        assert.strictEqual((yield* run(["publish", file, "--as", "db/a", "--config", one.config])).code, 0)
        const alone = yield* run(["drain", "--url", one.url, "--timeout", "0"])
        assert.strictEqual(alone.code, 1)
        assert.strictEqual(
          alone.stderr,
          "file-replication: this node must stay: no other node holds 1 of its 1 files\n"
            + "  db/a: there is no other member\n"
        )
        // Who gave up waiting is told that it still drains.
        assert.match((yield* run(["status", "--url", one.url])).stdout, /\n {2}draining +since .*drain --cancel/)
        const two = yield* served(folder, "two")
        const drained = yield* run(["drain", "--url", one.url, "--timeout", "120"])
        assert.strictEqual(drained.code, 0, drained.stderr)
        assert.include(drained.stdout, "each of its 1 files is on another node too: this node can be stopped\n")

        for (const where of [["--config", two.config], ["--url", two.url]]) {
          const alive = yield* run(["remove-node", "one", ...where])
          assert.strictEqual(alive.code, 1)
          assert.match(alive.stderr, /^file-replication: one was not removed: it is alive; stop it first/)
        }
        one.node.child.kill("SIGTERM")
        assert.strictEqual(yield* one.node.exit, 0)
        const removed = yield* run(["remove-node", "one", "--url", two.url])
        assert.deepStrictEqual([removed.code, removed.stdout], [
          0,
          "one is no member any more; nobody's files were touched\n"
        ])
      }),
    180_000
  )
})

describe("publish without a node", () => {
  it.live(
    "keeps what it published when a backup of the manifest is put back before a node has followed it",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const file = yield* source(folder, "bytes")
        const config = yield* configure(folder, "one")
        const publish = (as: string, by = config) =>
          Effect.map(run(["publish", file, "--as", as, "--config", by]), ({ code }) => assert.strictEqual(code, 0))
        const manifest = join(folder, "manifest.db")
        yield* publish("db/a")
        yield* publish("db/other", yield* configure(folder, "two"))
        // As when tombstones were collected: what is kept of the position is older than they were.
        yield* Effect.sync(() => {
          const database = new DatabaseSync(manifest)
          database.exec("UPDATE meta SET gc_seq = 2")
          database.close()
        })
        yield* Effect.promise(() => copyFile(manifest, join(folder, "backup")))
        const putBack = Effect.promise(async () => {
          for (const end of ["", "-wal", "-shm"]) await rm(`${manifest}${end}`, { force: true })
          await copyFile(join(folder, "backup"), manifest)
        })
        const untilCompared = (url: string) =>
          Effect.repeat(Effect.promise(() => fetch(`${url}/api/v1/cluster/status`).then((answer) => answer.text())), {
            until: (text) => text.includes("\"confirmed\":true"),
            schedule: Schedule.spaced("50 millis")
          })
        yield* publish("db/b")
        yield* putBack
        const one = yield* served(folder, "one")
        assert.include(yield* untilCompared(one.url), "\"orphans\":1,")
        one.node.child.kill("SIGTERM")
        assert.strictEqual(yield* one.node.exit, 0)
        // And behind what a node has followed.
        yield* publish("db/c")
        yield* putBack
        assert.include(yield* untilCompared((yield* served(folder, "one")).url), "\"orphans\":2,")
        for (const name of ["b", "c"]) {
          const text = yield* Effect.promise(() => readFile(join(folder, "one/data/db", name), "utf8"))
          assert.strictEqual(text, "bytes")
        }
      }),
    30_000
  )
})

describe("drain", () => {
  it.live(
    "ends at once when only files are left that the manifest does not know, and says what to do",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const file = yield* source(folder, "bytes")
        const config = yield* configure(folder, "one")
        assert.strictEqual((yield* run(["publish", file, "--as", "db/a", "--config", config])).code, 0)
        for (const end of ["", "-wal", "-shm"]) {
          yield* Effect.promise(() => rm(join(folder, `manifest.db${end}`), { force: true }))
        }
        const one = yield* served(folder, "one")
        const { code, stderr } = yield* run(["drain", "--url", one.url, "--timeout", "50"])
        assert.strictEqual(code, 1)
        assert.strictEqual(
          stderr,
          "file-replication: this node must stay: the manifest does not know 1 of its 1 files\n"
            + "  db/a: it is not in the manifest\n"
            + "No node asks for what the manifest does not know: publish it again, register it where it lies "
            + "(POST /api/v1/cluster/files) or move it away, and then drain again.\n"
        )
      }),
    40_000
  )
})

describe("changing the secret", () => {
  it.live(
    "takes three rounds of restarts, in which the nodes understand each other all the time",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const secrets = (secret: string, previous: string) => ({
          ARC_CLUSTER_SHARED_SECRET: secret,
          ...(previous === "" ? {} : { ARC_CLUSTER_SHARED_SECRET_PREVIOUS: previous })
        })
        const begin = Effect.fnUntraced(function*(name: string, environment: Readonly<Record<string, string>>) {
          const config = yield* configure(folder, name)
          const node = yield* start(["node", "--config", config], environment)
          return { node, url: /(http:\S+)\/health/.exec(yield* lineOf(node, /it serves http/))?.[1] ?? "" }
        })
        const stop = Effect.fnUntraced(function*({ node }: Effect.Success<ReturnType<typeof begin>>) {
          node.child.kill("SIGTERM")
          assert.strictEqual(yield* node.exit, 0)
        })
        const [old, next] = ["an old secret of the tests", "a new secret of the tests"]

        let one = yield* begin("one", secrets(old, ""))
        let two = yield* begin("two", secrets(old, ""))
        yield* understand(one, two)
        for (const [secret, previous] of [[old, next], [next, old], [next, ""]] as const) {
          yield* stop(one)
          one = yield* begin("one", secrets(secret, previous))
          yield* understand(one, two)
          yield* stop(two)
          two = yield* begin("two", secrets(secret, previous))
          yield* understand(one, two)
        }
      }),
    120_000
  )
})

const Members = Schema.Struct({
  members: Schema.Array(
    Schema.Struct({ id: Schema.String, version: Schema.String, watermark: Schema.NullOr(Schema.Unknown) })
  )
})

describe("upgrading", () => {
  it.live(
    "goes node by node: one that lacks what came later and one that says something newer understand each other",
    () =>
      Effect.gen(function*() {
        const folder = yield* temporaryFolder
        const change = (sql: string) =>
          Effect.sync(() => {
            const manifest = new DatabaseSync(join(folder, "manifest.db"), { timeout: 5000 })
            manifest.exec(sql)
            manifest.close()
          })
        const member = (asked: { readonly url: string }, id: string) =>
          Effect.promise(() => fetch(`${asked.url}/api/v1/cluster`).then((answer) => answer.json())).pipe(
            Effect.flatMap(Schema.decodeUnknownEffect(Members)),
            Effect.map(({ members }) => members.find((one) => one.id === id))
          )
        let one = yield* served(folder, "one")
        // From now on its row is as the first version wrote it, which said nothing besides.
        const older = "DELETE FROM node_said WHERE id = 'one'; UPDATE node SET version = '0.0.1' WHERE id = 'one';"
        yield* change(`${older}
          CREATE TRIGGER older AFTER INSERT ON node_said WHEN NEW.id = 'one' BEGIN ${older} END;`)
        const newer = "UPDATE node_said SET said = json_set(said, '$.colour', 'blue') WHERE id = 'two';"
        yield* change(`
          CREATE TRIGGER newer AFTER INSERT ON node_said WHEN NEW.id = 'two' BEGIN ${newer} END;
          CREATE TRIGGER newer_again AFTER UPDATE ON node_said WHEN NEW.id = 'two' BEGIN ${newer} END;`)
        const two = yield* served(folder, "two")
        yield* understand(one, two)
        assert.strictEqual((yield* member(two, "one"))?.version, "0.0.1")
        yield* Effect.repeat(member(one, "two"), {
          until: (found) => found !== undefined && found.watermark !== null,
          schedule: Schedule.spaced("50 millis")
        })
        const file = yield* source(folder, "bytes")
        const both = yield* run(["publish", file, "--as", "db/both", "--wait", "2", "--config", two.config])
        assert.strictEqual(both.code, 0, both.stderr)

        one.node.child.kill("SIGTERM")
        assert.strictEqual(yield* one.node.exit, 0)
        yield* change("DROP TRIGGER older")
        one = yield* served(folder, "one")
        yield* understand(one, two)
        assert.strictEqual((yield* member(two, "one"))?.version, version)
      }),
    60_000
  )
})
