/** Small helpers for tests of backends. */
import { Effect, type Scope } from "effect"
import { createHash } from "node:crypto"
import { Backend } from "../../ports/Backend.ts"
import { Sha256 } from "../../ports/FileEntry.ts"
import { FilePath } from "../../ports/FilePath.ts"

/** Declares a test on a fresh backend. */
export type Live = (sentence: string, body: () => Effect.Effect<void, unknown, Backend | Scope.Scope>) => void

export const pathOf = (path: string): FilePath => FilePath.make(path)

/** Bytes that look random and are the same for the same seed. */
export const bytes = (length: number, seed = 1): Uint8Array => {
  const words = new Uint32Array(Math.ceil(length / 4))
  let state = seed * 2_654_435_761 >>> 0
  for (let index = 0; index < words.length; index++) {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9 >>> 0
    words[index] = state
  }
  return new Uint8Array(words.buffer, 0, length)
}

export const sha256Of = (content: Uint8Array): Sha256 => Sha256.make(createHash("sha256").update(content).digest("hex"))

/** Writes and commits a file of this node's own. */
export const write = (path: FilePath, content: Uint8Array) =>
  Effect.scoped(Effect.gen(function*() {
    const staged = yield* (yield* Backend).stage(path)
    yield* staged.write(content)
    return yield* staged.commit(sha256Of(content))
  }))

/** Stages some of a file's bytes and leaves it at that. */
export const pull = (path: FilePath, expected: Sha256, part: Uint8Array) =>
  Effect.scoped(Effect.gen(function*() {
    const staged = yield* (yield* Backend).stage(path, expected)
    yield* staged.write(part)
  }))

/** A sink that copies what it gets. */
export const collector = () => {
  const chunks: Array<Buffer> = []
  return {
    sink: { write: (chunk: Uint8Array) => Effect.sync(() => void chunks.push(Buffer.from(chunk))) },
    bytes: () => Buffer.concat(chunks)
  }
}
