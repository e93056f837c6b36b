/**
 * One fault at every byte of a small transfer, in both directions. Each time the file is right or absent, never wrong;
 * and then it comes.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as BackendLocal from "../../src/backend/BackendLocal.ts"
import { Backend } from "../../src/ports/Backend.ts"
import { FetchClient } from "../../src/ports/FetchClient.ts"
import type { FileEntry } from "../../src/ports/FileEntry.ts"
import type { Peer } from "../../src/ports/PeerResolver.ts"
import { allBytes, entryOf } from "../peer/support/doubles.ts"
import { makeClient, nodeA, startServer } from "../peer/support/nodes.ts"
import { temporaryFolder } from "../support/folder.ts"
import { type Fault, faults, proxyTo } from "./proxy.ts"

const size = 48
const bytes = allBytes(size)
const { sha256 } = entryOf("any", size)

/** One try to get a file, as a pull makes it: the rest of it into staging, then its hash, then its name. */
const tryOnce = Effect.fnUntraced(function*(
  backend: Backend["Service"],
  client: FetchClient["Service"],
  peer: Peer,
  entry: FileEntry
) {
  const staged = yield* backend.stage(entry.path, entry.sha256)
  yield* client.fetch(peer, entry, yield* staged.length, staged)
  yield* staged.commit(entry.sha256)
}, Effect.scoped)

const setUp = Effect.gen(function*() {
  const folder = yield* temporaryFolder
  const data = join(folder, "data")
  const backend = Context.get(
    yield* Layer.build(
      BackendLocal.layer({ dataFolder: data, stateFolder: join(folder, "state"), fsync: false, guest: false })
    ),
    Backend
  )
  return { backend, data }
})

describe("a transfer of a small file", () => {
  for (const signed of [false, true]) {
    it.live(`survives every fault at every byte${signed ? ", answers signed" : ""}`, () =>
      Effect.gen(function*() {
        const { backend, data } = yield* setUp
        const right = entryOf("db/m/right", size, sha256)
        // How many bytes go each way.
        const measure = yield* startServer({ files: [{ entry: right }] })
        const proxy = yield* proxyTo(measure.address)
        const patient = yield* makeClient({ requireSignedAcks: signed })
        yield* patient.fetch({ id: nodeA, address: proxy.address }, right, 0, { write: () => Effect.void })
        const passed = proxy.passed()
        assert.isAbove(passed.request, 200)
        assert.isAbove(passed.answer, 200 + size)

        const cases = faults.flatMap((kind): Array<Fault> =>
          (["request", "answer"] as const).flatMap((way) =>
            Array.from({ length: passed[way] }, (_, at) => ({ kind, way, at }))
          )
        ).filter((_, index) => !signed || index % 7 === 0)
        const entries = cases.map((_, index) => entryOf(`db/m/${index}`, size, sha256))
        const peer = yield* startServer(
          { files: entries.map((entry) => ({ entry })) },
          { requestTimeoutMillis: 100, serveTimeoutMillis: 100 }
        )
        const sound = yield* startServer({ files: entries.map((entry) => ({ entry })) })
        let arrived = 0

        const one = Effect.fnUntraced(function*(fault: Fault, index: number) {
          const entry = entries[index] ?? right
          const where = `${fault.kind} at byte ${fault.at} of the ${fault.way}`
          const shown = () => existsSync(join(data, entry.path)) ? readFileSync(join(data, entry.path)) : undefined
          const client = yield* makeClient({
            requireSignedAcks: signed,
            ackTimeoutMillis: 100,
            fetchTimeoutMillis: 100
          })
          const faulty = yield* proxyTo(peer.address, fault)
          const first = yield* Effect.result(tryOnce(backend, client, { id: nodeA, address: faulty.address }, entry))
          const found = shown()
          if (first._tag === "Success") arrived++
          assert.strictEqual(found !== undefined, first._tag === "Success", where)
          // What is kept of a broken try may be wrong: it is hashed, dropped, and fetched from the beginning.
          for (let times = 0; times < 2 && shown() === undefined; times++) {
            yield* Effect.result(tryOnce(backend, patient, sound, entry))
          }
          assert.isTrue(shown()?.equals(bytes), where)
        }, Effect.scoped)
        yield* Effect.forEach(cases, one, { concurrency: 32, discard: true })
        // Most did harm; how many did none, such as most delays, depends on how busy the machine is.
        assert.isBelow(arrived, cases.length / 2)
      }), 120_000)
  }
})
