/** A process of its own over a data folder: `node localChild.ts <scenario> <data> <state>`. Speaks JSON lines. */
import { Effect, Option } from "effect"
import * as BackendLocal from "../../src/backend/BackendLocal.ts"
import { Backend } from "../../src/ports/Backend.ts"
import { bytes, pathOf, pull, sha256Of, write } from "../../src/testing/backend/support.ts"

const [scenario, dataFolder, stateFolder] = process.argv.slice(2)
if (scenario === undefined || dataFolder === undefined || stateFolder === undefined) throw new Error("three arguments")

process.stdin.resume().on("close", () => process.exit())
const say = (value: unknown) => Effect.sync(() => void process.stdout.write(`${JSON.stringify(value)}\n`))

const mib = 1024 * 1024

/** Writes three kinds of bytes, then goes on writing until it is killed. */
const writeForEver = Effect.gen(function*() {
  const backend = yield* Backend
  const sealed = yield* backend.stage(pathOf("a/sealed"))
  yield* sealed.write(bytes(5000, 1))
  const { token } = yield* sealed.seal
  yield* write(pathOf("a/committed"), bytes(5000, 2))
  const pulled = yield* backend.stage(pathOf("a/pulled"), sha256Of(bytes(64 * mib, 3)))
  const written = yield* backend.stage(pathOf("a/written"))
  const content = bytes(64 * mib, 3)
  for (let at = 0; at < content.length; at += 100_000) {
    const chunk = content.subarray(at, at + 100_000)
    yield* pulled.write(chunk)
    yield* written.write(chunk)
    yield* say({ token, at: at + chunk.length })
  }
  return yield* Effect.never
})

/** Fills a disk of 4 MiB, sees the errors, frees some and goes on. */
const fillDisk = Effect.gen(function*() {
  const backend = yield* Backend
  const before = yield* backend.freeSpace
  yield* write(pathOf("a/first"), bytes(mib, 1))
  const digest = sha256Of(bytes(8 * mib, 2))
  const error = yield* Effect.flip(pull(pathOf("a/second"), digest, bytes(8 * mib, 2)))
  const staged = yield* backend.stage(pathOf("a/third"))
  const broken = yield* Effect.flip(staged.write(bytes(8 * mib, 3)))
  const again = yield* Effect.flip(staged.write(bytes(10, 3)))
  const lengthAfter = yield* staged.length
  yield* backend.remove(pathOf("a/first"))
  yield* staged.restart
  yield* staged.write(bytes(mib, 4))
  const held = yield* staged.commit(sha256Of(bytes(mib, 4)))
  const kept = yield* Effect.scoped(
    Effect.flatMap(backend.stage(pathOf("a/second"), digest), (staged) => staged.length)
  )
  const second = yield* backend.stat(pathOf("a/second"))
  yield* say({
    before,
    error: error._tag === "BackendError" ? error.reason : error._tag,
    message: error.message,
    broken: broken.reason,
    again: again.reason,
    lengthAfter,
    size: held.size,
    kept,
    second: Option.isSome(second)
  })
})

const run = scenario === "fillDisk" ? fillDisk : writeForEver
await Effect.runPromise(
  run.pipe(
    Effect.scoped,
    Effect.provide(BackendLocal.layer({ dataFolder, stateFolder, fsync: true })),
    Effect.catchTag("BackendError", (error) => say({ refused: error.reason, message: error.message }))
  )
)
process.exit()
