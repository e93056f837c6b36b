/** A real node on a disk of its own that fills up. */
import { assert, it } from "@effect/vitest"
import { Context, Effect, Option, Schedule } from "effect"
import { existsSync, mkdirSync } from "node:fs"
import { join } from "node:path"
import { FetchClient } from "../../src/ports/FetchClient.ts"
import { FilePath } from "../../src/ports/FilePath.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import { Membership } from "../../src/ports/Membership.ts"
import { lineOf, onDisk, run, start as startCommand } from "../cluster/command.ts"
import { configure } from "../cluster/configure.ts"
import { temporaryFolder } from "../support/folder.ts"
import { publish, start } from "../support/realNode.ts"
import { bytesOf } from "./behaviours.ts"

const MiB = 1024 * 1024

it.live(
  "a node whose disk fills up says so, goes on serving and with deletes, and pulls the rest once there is room",
  () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const writer = yield* start(folder, "writer")
      const disk = join(folder, "disk")
      mkdirSync(disk)
      const config = yield* configure(folder, "reader", "", { data: join(disk, "data"), minFreeBytes: 2 * MiB })
      const node = yield* startCommand(["node", "--supervised", "--config", config], {}, undefined, onDisk(disk))
      const ready = /http:\/\/[^\s"]+/.exec(yield* lineOf(node, /http:\/\//))?.[0] ?? ""
      const answer = Effect.promise(async () => {
        const response = await fetch(new URL("/ready", ready))
        return { status: response.status, text: await response.text() }
      })
      const until = (fits: (answer: { readonly status: number; readonly text: string }) => boolean) =>
        Effect.repeat(answer, { until: fits, schedule: Schedule.spaced("200 millis") })
      // Two of the three fit.
      for (const name of ["a", "b"]) yield* publish(writer, `db/${name}`, bytesOf(name.charCodeAt(0), 5 * MiB))
      yield* lineOf(node, /"verified":\{"files":2,/)
      yield* publish(writer, "db/c", bytesOf(3, 5 * MiB))
      yield* until(({ status, text }) => status === 503 && text.includes("storage.min_free_bytes"))
      const url = new URL(ready).origin
      const why = yield* run(["why", "db/c", "--url", url])
      assert.match(
        why.stdout,
        /reason +.*db\/c.*it needs 5242880 bytes, and the disk has \d+ .*storage\.min_free_bytes/
      )
      const told = yield* Effect.promise(async () =>
        Promise.all(
          ["cluster/owed", "files/db/c"].map(async (path) => (await fetch(`${url}/api/v1/${path}`)).text())
        )
      )
      for (const text of told) assert.include(text, "it needs 5242880 bytes")
      // Meanwhile it serves what it has.
      const reader = (yield* Context.get(writer, Membership).members).find(({ id }) => id === "reader")
      const held = yield* Context.get(writer, Manifest).get(FilePath.make("db/b"))
      assert(reader !== undefined && Option.isSome(reader.address) && Option.isSome(held))
      let served = 0
      yield* Context.get(writer, FetchClient).fetch(
        { id: reader.id, address: reader.address.value },
        held.value.entry,
        0,
        { write: (chunk) => Effect.sync(() => void (served += chunk.length)) }
      )
      assert.strictEqual(served, 5 * MiB)
      // A delete is what makes room.
      yield* Context.get(writer, Manifest).remove(FilePath.make("db/a"), "to make room")
      yield* until(({ status }) => status === 200)
      // The disk is the node's own: nothing of it shows here.
      assert.isFalse(existsSync(join(disk, "data")))
    }),
  120_000
)
