/** Inputs that are almost right: what is right, with a few faults. */
import type { Random } from "./random.ts"

const numbers = ["0", "-1", "1", "5.0", "5e0", "1e999", "-0", "9223372036854775807", "9223372036854775808", "00", "0x1"]
const tokens = [
  ...numbers,
  "null",
  "true",
  "\"\"",
  "{}",
  "[]",
  "\"ok\"",
  "\"\\u0000\"",
  "\"\\ud800\"",
  "\"../../etc/passwd\"",
  "\"__proto__\"",
  ",",
  ":",
  "{",
  "}",
  "\\",
  "\0",
  "\u017f",
  "\ufeff",
  "[[[[[[[[",
  "\"path\":\"a\",",
  "\"PATH\":\"b\","
].map((text) => Buffer.from(text))
const bytes = [0, 1, 0x1f, 0x20, 0x21, 0x22, 0x2c, 0x3a, 0x5c, 0x7b, 0x7d, 0x7f, 0x80, 0xc0, 0xed, 0xf8, 0xff]

const splice = (input: Buffer, at: number, removed: number, inserted: Uint8Array): Buffer =>
  Buffer.concat([input.subarray(0, at), inserted, input.subarray(at + removed)])

const once = (random: Random, input: Buffer, seeds: ReadonlyArray<Uint8Array>): Buffer => {
  const at = random.int(input.length + 1)
  const some = random.int(Math.min(64, input.length - at + 1))
  switch (random.int(8)) {
    case 0: {
      const flipped = Buffer.from(input)
      if (at < flipped.length) flipped.writeUInt8(flipped.readUInt8(at) ^ (1 << random.int(8)), at)
      return flipped
    }
    case 1: {
      const set = Buffer.from(input)
      if (at < set.length) set.writeUInt8(random.pick(bytes), at)
      return set
    }
    case 2:
      return splice(input, at, some, new Uint8Array(0))
    case 3:
      return splice(input, at, 0, random.pick(tokens))
    case 4:
      return splice(input, at, some, random.pick(tokens))
    case 5:
      return splice(input, at, 0, input.subarray(at, at + some))
    case 6:
      return input.subarray(0, at)
    default: {
      const other = Buffer.from(random.pick(seeds))
      return splice(input, at, some, other.subarray(random.int(other.length + 1)))
    }
  }
}

const longest = 4096

/** One of the seeds with one to six faults. */
export const mutated = (random: Random, seeds: ReadonlyArray<Uint8Array>): Buffer => {
  let input: Buffer = Buffer.from(random.pick(seeds))
  for (let times = 1 + random.int(6); times > 0; times--) input = once(random, input, seeds).subarray(0, longest)
  return input
}
