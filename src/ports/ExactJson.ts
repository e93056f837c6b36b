/**
 * JSON with exact integers.
 *
 * `JSON.parse` reads every number as a double: 64-bit integers lose their last digits and `5.0` looks like `5`.
 * Both matter where bytes are signed or counted, so here an integer literal becomes a `number` when that is exact,
 * a `bigint` when it is not, and any other number literal a {@link NonInteger}, which no integer schema accepts.
 */
import { Data, Result } from "effect"

/** A number literal that is not written as an integer: `5.0`, `5e0`, `0.1`. */
export class NonInteger extends Data.Class<{ readonly source: string }> {}

const integer = /^-?(?:0|[1-9][0-9]*)$/

const revive = (_key: string, value: unknown, context?: { readonly source?: string }): unknown => {
  if (typeof value !== "number" || context?.source === undefined) return value
  if (!integer.test(context.source)) return new NonInteger({ source: context.source })
  return Number.isSafeInteger(value) ? value : BigInt(context.source)
}

// Looking at every value costs ten times the parsing. So it is done only where a number literal may stand that is long or
// no integer; within a text something may look like one, which does no harm.
const inexact = /(?:^|[:,[\s])-?(?:\d{16,}|\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)(?=[,\]}\s]|$)/

/** Parses one JSON text. Fails with the parser's own sentence. */
export const parse = (text: string): Result.Result<unknown, string> =>
  Result.try({
    try: () => inexact.test(text) ? JSON.parse(text, revive) : JSON.parse(text),
    catch: (cause) => (cause instanceof Error ? cause.message : String(cause))
  })

/** Writes a value as JSON; a `bigint` becomes an integer literal. */
export const stringify = (value: unknown): string =>
  JSON.stringify(value, (_key, inner: unknown) => typeof inner === "bigint" ? rawJson(inner.toString()) : inner)

// `JSON.rawJSON` is in every supported Node, and not yet in TypeScript's library.
const rawJson = (text: string): unknown => {
  const raw = Reflect.get(JSON, "rawJSON")
  return typeof raw === "function" ? Reflect.apply(raw, JSON, [text]) : text
}
