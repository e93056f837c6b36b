import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as ExactJson from "../../src/ports/ExactJson.ts"
import { makeRandom } from "../hostile/random.ts"

const seed = Number(process.env["SEED"] ?? 20261127)

/** Every number literal is looked at, whatever the text looks like. */
const literally = (text: string): unknown =>
  JSON.parse(text, (_key, value: unknown, context?: { readonly source?: string }) => {
    if (typeof value !== "number" || context?.source === undefined) return value
    if (!/^-?(?:0|[1-9][0-9]*)$/.test(context.source)) return new ExactJson.NonInteger({ source: context.source })
    return Number.isSafeInteger(value) ? value : BigInt(context.source)
  })

describe("ExactJson", () => {
  it(`reads every number as it is written, wherever it stands (seed ${seed})`, () => {
    const random = makeRandom(seed)
    const numbers =
      "0 -0 5 5.0 5e0 5E+2 -1.5e-3 9007199254740991 9007199254740993 -9007199254740993 123456789012345 0.1"
        .concat(" 18446744073709551615 1234567890123456789012 0e0 0.0 1e400").split(" ")
    const texts = ["a", "1.5", "x:1.5,", ",5e0]", "\\", "\"", "2026-04-11T14:00:00.123Z"].map((text) =>
      JSON.stringify(text)
    )
    const space = () => random.pick(["", " ", "\n", "\t", "\r\n"])
    const value = (depth: number): string => {
      const list = (item: (n: number) => string) => Array.from({ length: random.int(4) }, (_, n) => item(n)).join(",")
      const kind = random.int(depth > 3 ? 3 : 5)
      const inner = kind < 2
        ? random.pick(numbers)
        : kind === 2
        ? random.pick(texts)
        : kind === 3
        ? `[${list(() => value(depth + 1))}]`
        : `{${list((n) => `"k${n}"${space()}:${value(depth + 1)}`)}}`
      return space() + inner + space()
    }
    for (let n = 0; n < 20_000; n++) {
      const text = value(0)
      assert.deepStrictEqual(Result.getOrThrow(ExactJson.parse(text)), literally(text), text)
    }
  })
})
