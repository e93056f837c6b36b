/** Certificates made by the command, and nodes that use them. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Option, Schedule } from "effect"
import { X509Certificate } from "node:crypto"
import { readFile, stat } from "node:fs/promises"
import { join } from "node:path"
import { Puller } from "../../src/replication/Puller.ts"
import { temporaryFolder } from "../support/folder.ts"
import { publish, start, untilComplete } from "../support/realNode.ts"
import { run } from "./command.ts"
import { configure } from "./configure.ts"

const text = (folder: string, name: string) => Effect.promise(() => readFile(join(folder, name), "utf8"))

describe("tls init", () => {
  it.live("makes what two nodes need to trust each other, and nobody else", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const certificates = join(folder, "tls")
      const nodes = ["--node", "writer=127.0.0.1,localhost", "--node", "reader=127.0.0.1"]
      const made = yield* run(["tls", "init", certificates, ...nodes])
      assert.strictEqual(made.code, 0, made.stderr)
      // What follows the last empty line is for a file that has its [cluster] already.
      const lines = made.stdout.slice(made.stdout.lastIndexOf("\n\n")).replaceAll("NODE_ID", "writer")
      const checked = yield* run(["config", "check", "--config", yield* configure(folder, "configured", lines)])
      assert.strictEqual(checked.code, 0, checked.stderr)
      assert.match(checked.stdout, /^cluster\.tls_enabled +true +file$/m)
      for (const name of ["ca.pem", "writer.pem", "writer.key"]) {
        assert.include(checked.stdout, JSON.stringify(join(certificates, name)))
      }
      for (const key of ["ca.key", "writer.key", "reader.key"]) {
        assert.strictEqual((yield* Effect.promise(() => stat(join(certificates, key)))).mode & 0o777, 0o600)
      }
      const certificate = new X509Certificate(yield* text(certificates, "writer.pem"))
      assert.isTrue(certificate.verify(new X509Certificate(yield* text(certificates, "ca.pem")).publicKey))
      assert.strictEqual(certificate.checkIP("127.0.0.1"), "127.0.0.1")
      assert.strictEqual(certificate.checkHost("localhost"), "localhost")
      assert.isFalse(certificate.ca)

      const tls = (name: string, files = name) => ({
        tlsEnabled: true,
        tlsCaFile: Option.some(join(certificates, "ca.pem")),
        tlsCertFile: Option.some(join(certificates, `${files}.pem`)),
        tlsKeyFile: Option.some(join(certificates, `${files}.key`))
      })
      const writer = yield* start(folder, "writer", tls("writer"))
      yield* publish(writer, "db/a", "bytes")
      const reader = yield* start(folder, "reader", tls("reader"))
      yield* untilComplete(reader)

      // Another node with a certificate that was made for the reader gets nothing.
      const thief = yield* start(folder, "thief", { ...tls("thief", "reader"), retryMaxAttempts: 1 })
      const receipts = yield* Context.get(thief, Puller).stats.pipe(
        Effect.repeat({ until: ({ failed, pulled }) => failed + pulled > 0, schedule: Schedule.spaced("20 millis") })
      )
      assert.strictEqual(receipts.pulled, 0)
    }))

  it.live("adds nodes to an authority that is there, and replaces a certificate only when it is told to", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const init = (...args: ReadonlyArray<string>) => run(["tls", "init", folder, ...args])
      assert.include((yield* init("--node", "a=10.0.0.1")).stdout, "a.pem")
      assert.include((yield* init("--node", "a=10.0.0.1")).stdout, "is there already")
      const [authority, first] = [yield* text(folder, "ca.pem"), yield* text(folder, "a.pem")]
      const again = yield* init("--node", "a=10.0.0.1", "--node", "b=db.example", "--json")
      assert.deepStrictEqual(JSON.parse(again.stdout), {
        authority: { made: false, certificate: join(folder, "ca.pem"), key: join(folder, "ca.key") },
        nodes: [
          {
            node: "a",
            hosts: ["10.0.0.1"],
            made: false,
            certificate: join(folder, "a.pem"),
            key: join(folder, "a.key")
          },
          {
            node: "b",
            hosts: ["db.example"],
            made: true,
            certificate: join(folder, "b.pem"),
            key: join(folder, "b.key")
          }
        ]
      })
      assert.deepStrictEqual([yield* text(folder, "ca.pem"), yield* text(folder, "a.pem")], [authority, first])
      assert.isTrue(
        new X509Certificate(yield* text(folder, "b.pem")).verify(new X509Certificate(authority).publicKey)
      )
      yield* init("--node", "a=10.0.0.1", "--renew")
      assert.notStrictEqual(yield* text(folder, "a.pem"), first)
      for (const wrong of ["a", "a=", "a b=10.0.0.1", "ca=10.0.0.1", "a=10.0.0.1,-\n", "a=..//"]) {
        const refused = yield* init("--node", wrong)
        assert.deepStrictEqual([refused.code, refused.stdout], [2, ""], wrong)
      }
    }))
})
