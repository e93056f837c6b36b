/**
 * What must hold of any input at all. A target takes one and throws when something does not hold; `seeds` are inputs
 * that are right, or were found to be wrong once.
 */
import { assert } from "@effect/vitest"
import { Data, Option, Result } from "effect"
import { readdirSync, readFileSync } from "node:fs"
import { join, posix, win32 } from "node:path"
import * as Frame from "../../src/peer/protocol/Frame.ts"
import * as Messages from "../../src/peer/protocol/Messages.ts"
import { offence, wireOffence } from "../../src/ports/FilePath.ts"
import { vectors } from "../peer/support/vectors.ts"
import { mutated } from "./mutate.ts"
import type { Random } from "./random.ts"

export interface Target {
  readonly name: string
  readonly seeds: ReadonlyArray<Uint8Array>
  readonly check: (input: Uint8Array, random: Random) => void
}

const hex = (text: string) => Buffer.from(text, "hex")

/** Inputs that broke something once, or are worth trying each time: one a file, named after their target, its bytes in hex. */
const corpus = (target: string): ReadonlyArray<Uint8Array> => {
  const folder = join(import.meta.dirname, "corpus")
  return readdirSync(folder).filter((file) => file.startsWith(`${target}-`)).map((file) =>
    hex(readFileSync(join(folder, file), "utf8").trim())
  )
}

const frames = [
  ...vectors.ack_frames.map(({ frame_hex }) => hex(frame_hex)),
  ...vectors.fetch_request_frames.flatMap((vector) => "frame_hex" in vector ? [hex(vector.frame_hex)] : []),
  ...vectors.other_frames.map(({ frame_hex }) => hex(frame_hex)),
  ...vectors.decoder.map(({ frame_hex }) => hex(frame_hex)).filter(({ length }) => length < 4096),
  Result.getOrThrow(Messages.encodeFetchFile({
    path: "db/m/a.parquet",
    node_id: "node-b",
    nonce: "0".repeat(64),
    timestamp: 1_800_000_000n,
    hmac: "0".repeat(64),
    byte_offset: 7n,
    keep_alive: true,
    byte_length: 9n,
    range_hmac: "f".repeat(64),
    can_wait: true,
    not_at: ["node-c"]
  })),
  Result.getOrThrow(Messages.encodeFetchFileAck({
    ...Messages.emptyFetchFileAck,
    status: "error",
    code: "busy",
    error: "busy",
    keep_alive: true,
    ack_hmac: "0".repeat(64),
    server_node_id: "node-a",
    retry_after_ms: 1000n,
    holders: ["node-c", "node-d"]
  })),
  Result.getOrThrow(Messages.encodeFetchBundle({
    paths: ["db/m/a.parquet", "db/m/b.parquet"],
    sha256: ["0".repeat(64), "1".repeat(64)],
    node_id: "node-b",
    nonce: "0".repeat(64),
    timestamp: 1_800_000_000n,
    hmac: "0".repeat(64)
  })),
  Result.getOrThrow(Messages.encodeFetchBundleAck({
    sizes: [16384, -1],
    hmac: "0".repeat(64),
    server_node_id: "node-a"
  }))
]

// ---------------------------------------------------------------------------------------------------------------------
// Frames
// ---------------------------------------------------------------------------------------------------------------------

const limit = Frame.maxUntrustedLength

/** What a decoder makes of a stream that is cut at `cuts`: frames, then perhaps how it failed. */
const decoded = (input: Uint8Array, chunkOf: (left: number) => number): ReadonlyArray<string> => {
  const decoder = Frame.makeDecoder(limit)
  const found: Array<string> = []
  for (let at = 0; at < input.length;) {
    let chunk = input.subarray(at, at + chunkOf(input.length - at))
    at += chunk.length
    while (chunk.length > 0) {
      const result = decoder.push(chunk)
      if (Result.isFailure(result)) return [...found, result.failure.message]
      if (Option.isNone(result.success)) break
      const { frame, rest } = result.success.value
      assert.isBelow(frame.payload.length, limit)
      found.push(`${frame.type} ${Buffer.from(frame.payload).toString("hex")}`)
      chunk = rest
    }
  }
  return found
}

/** However a stream is cut, the same frames come out of it, and the same failure. */
const frameTarget: Target = {
  name: "frame",
  seeds: [...frames, ...corpus("frame")],
  check: (input, random) => {
    const whole = decoded(input, (left) => left)
    const cut = decoded(input, (left) => 1 + random.int(Math.min(left, 1 + random.int(64))))
    assert.strictEqual(cut.join("\n"), whole.join("\n"))
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Messages
// ---------------------------------------------------------------------------------------------------------------------

/** Whatever can be read can be written, and is then read as the same. What can't says nothing of itself. */
const messageTarget: Target = {
  name: "message",
  seeds: [...frames.map((frame) => frame.subarray(5)), ...corpus("message")],
  check: (input) => {
    const read = [
      again(input, Messages.decodeFetchFile, Messages.encodeFetchFile),
      again(input, Messages.decodeFetchFileAck, Messages.encodeFetchFileAck),
      again(input, Messages.decodeFetchBundle, Messages.encodeFetchBundle),
      again(input, Messages.decodeFetchBundleAck, Messages.encodeFetchBundleAck),
      Result.map(Messages.decodeHeartbeat(input), () => undefined),
      Result.map(Messages.decodeLeaveNotify(input), () => undefined)
    ]
    for (const result of read) if (Result.isFailure(result)) assert.isBelow(result.failure.message.length, 80)
  }
}

const again = <A>(
  input: Uint8Array,
  decode: (payload: Uint8Array) => Result.Result<A, Messages.NotAMessage>,
  encode: (message: A) => Result.Result<Uint8Array, Frame.FrameTooLong>
): Result.Result<void, Messages.NotAMessage> =>
  Result.map(decode(input), (message) => {
    const written = Result.getOrThrow(encode(message))
    const read = Result.getOrThrow(decode(written.subarray(5)))
    assert.isTrue(Buffer.from(written).equals(Result.getOrThrow(encode(read))))
  })

// ---------------------------------------------------------------------------------------------------------------------
// Paths
// ---------------------------------------------------------------------------------------------------------------------

const paths = [
  ...vectors.path_rules.map(({ path }) => path),
  "db/m/2026/04/11/14/a.parquet",
  "../../../etc/passwd",
  "a/./b",
  "a//b",
  "C:\\windows",
  "\\\\server\\share",
  ".replication/node-id",
  "s3://bucket/key",
  "a/..\u2024/b",
  "CON",
  "a ",
  "a\u0301"
].filter(({ length }) => length < 4096).map((path) => Buffer.from(path))

/** What is accepted lies below the root, on any system, and is the only way to write itself. */
const pathTarget: Target = {
  name: "path",
  seeds: [...paths, ...corpus("path")],
  check: (input) => {
    const path = Buffer.from(input).toString("utf8")
    if (wireOffence(path) !== undefined) {
      assert.isDefined(offence(path))
      return
    }
    assert.strictEqual(posix.normalize(path), path)
    assert.isTrue(posix.resolve("/data/node", path).startsWith("/data/node/"))
    assert.isTrue(win32.resolve("D:\\data\\node", path).startsWith("D:\\data\\node\\"))
    assert.isFalse(posix.isAbsolute(path) || win32.isAbsolute(path) || path.includes("\0"))
    if (offence(path) === undefined) {
      assert.isAtMost(Buffer.byteLength(path), 4096)
      assert.isFalse(path.toLowerCase().startsWith(".replication/"))
    }
  }
}

export const targets: ReadonlyArray<Target> = [frameTarget, messageTarget, pathTarget]

/** An input did what none may. */
export class Broken extends Data.TaggedError("Broken")<{
  readonly target: string
  readonly seed: number
  readonly nth: number
  readonly input: Uint8Array
  readonly cause: unknown
}> {
  override get message(): string {
    const { cause, input, nth, seed, target } = this
    return `${target} does not hold (seed ${seed}, input ${nth}); keep it as test/hostile/corpus/${target}-NAME.hex:\n`
      + `${Buffer.from(input).toString("hex")}\n${cause instanceof Error ? cause.message : String(cause)}`
  }
}

/** The seeds as they are, then so many inputs made of them. */
export const fuzz = (target: Target, random: Random, seed: number, count: number): void => {
  const run = (input: Uint8Array, nth: number) => {
    try {
      target.check(input, random)
    } catch (cause) {
      throw new Broken({ target: target.name, seed, nth, input, cause })
    }
  }
  target.seeds.forEach((input, index) => run(input, index - target.seeds.length))
  for (let nth = 0; nth < count; nth++) run(mutated(random, target.seeds), nth)
}
