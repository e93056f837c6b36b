/**
 * InfluxDB line protocol, read strictly:
 *
 * ```
 * measurement[,tag=value…] field=value[,field=value…] [timestamp]
 * ```
 *
 * A request is taken as a whole or not at all: the first lines that are wrong are named with their numbers.
 */

/** Fields by their types: `1.5`, `1i`, `1u`, `"text"`, `true`. */
export type FieldType = "DOUBLE" | "BIGINT" | "UBIGINT" | "VARCHAR" | "BOOLEAN"
export interface Field {
  readonly type: FieldType
  readonly value: number | bigint | string | boolean
}

export interface Point {
  readonly measurement: string
  readonly tags: ReadonlyMap<string, string>
  readonly fields: ReadonlyMap<string, Field>
  /** Nanoseconds since 1970. */
  readonly time: bigint
  /** In its request, counted from 1. */
  readonly line: number
}

export interface LineError {
  /** Counted from 1. */
  readonly line: number
  readonly reason: string
}

export type Precision = "ns" | "us" | "ms" | "s" | "m" | "h"

const nanos: Record<Precision, bigint> = {
  ns: 1n,
  us: 1_000n,
  ms: 1_000_000n,
  s: 1_000_000_000n,
  m: 60_000_000_000n,
  h: 3_600_000_000_000n
}

/** Both APIs' names: `n` and `u` are those of version 1. */
export const precisionOf = (text: string): Precision | undefined => {
  const name = { n: "ns", u: "us", µ: "us" }[text] ?? text
  return Object.hasOwn(nanos, name) ? name as Precision : undefined
}

const minTime = -9_223_372_036_854_775_806n
const maxTime = 9_223_372_036_854_775_806n
const maxErrors = 20

/** UTF-16 units of one line, and of a name in it. */
const maxLine = 256 * 1024
const maxName = 256

class Malformed extends Error {}
const malformed = (reason: string): never => {
  throw new Malformed(reason)
}

export interface Read {
  readonly points: ReadonlyArray<Point>
  readonly errors: ReadonlyArray<LineError>
}

/** Reads every line of a request. `now`: nanoseconds, for lines without a timestamp. */
export const parse = (text: string, precision: Precision, now: bigint): Read => {
  const reading = parseInTurns(text, precision, now)
  for (;;) {
    const { done, value } = reading.next()
    if (done === true) return value
  }
}

/**
 * As {@link parse}, and yields now and then, for others to have their turn: 16 MiB take more than a second. It ends when
 * there are `most` points, whatever follows: points take many times the room of their lines.
 */
export const parseInTurns = function*(
  text: string,
  precision: Precision,
  now: bigint,
  most = Infinity
): Generator<void, Read> {
  const points: Array<Point> = []
  const errors: Array<LineError> = []
  let count = 0
  for (const { line, number } of lines(text)) {
    if (errors.length === maxErrors || points.length === most) break
    if (++count % 1000 === 0) yield
    const content = line.replace(/^[ \t\r]+/, "")
    if (content.trim() === "" || content.startsWith("#")) continue
    try {
      points.push({ ...parseLine(content, precision, now), line: number })
    } catch (error) {
      if (!(error instanceof Malformed)) throw error
      errors.push({ line: number, reason: error.message })
    }
  }
  return { points, errors }
}

/** Lines end at a line feed that stands in no string: a string field may hold one. */
const lines = function*(text: string) {
  let number = 1
  for (let from = 0; from < text.length;) {
    const { crossed, end } = lineEnd(text, from)
    yield { line: text.slice(from, end).replace(/\r$/, ""), number }
    number += 1 + crossed
    from = end + 1
  }
}

const lineEnd = (text: string, from: number) => {
  let quoted = false
  let inFields = false
  let crossed = 0
  // Blanks before a line are no part of it.
  let start = from
  while (/[ \t\r]/.test(text[start] ?? "")) start++
  const comment = text[start] === "#"
  for (let at = start; at < text.length; at++) {
    const char = text[at]
    if (char === "\n" && !quoted) return { end: at, crossed }
    if (comment) continue
    if (char === "\n") crossed++
    else if (char === "\\") at += text[at + 1] === "\n" ? 0 : 1
    else if (char === " " && !quoted) inFields = true
    else if (char === "\"" && inFields && (quoted || text[at - 1] === "=")) quoted = !quoted
  }
  // A string that is never closed must not swallow the lines behind it.
  const first = text.indexOf("\n", from)
  return quoted && first !== -1 ? { end: first, crossed: 0 } : { end: text.length, crossed }
}

const parseLine = (line: string, precision: Precision, now: bigint): Omit<Point, "line"> => {
  if (line.length > maxLine) malformed(`it has ${line.length} characters, and at most ${maxLine} are taken`)
  let at = 0

  /** Up to one of `ends` that is not escaped, which is left; `escapable` lose their back-slash. */
  const token = (what: string, ends: string, escapable: string): string => {
    let out = ""
    for (; at < line.length && !ends.includes(line[at] ?? ""); at++) {
      const next = line[at + 1]
      if (line[at] === "\\" && next !== undefined && escapable.includes(next)) {
        out += next
        at++
      } else out += line[at]
    }
    if (out === "") malformed(`${what} is missing at column ${at + 1}`)
    return out
  }
  const name = (what: string): string => {
    const out = named(what, token(what, ",= ", ",= "))
    if (line[at] !== "=") malformed(`"=" is missing behind ${what} "${out}"`)
    at++
    return out
  }

  const string = (): string => {
    let out = ""
    for (at++; at < line.length && line[at] !== "\""; at++) {
      const next = line[at + 1]
      if (line[at] === "\\" && (next === "\"" || next === "\\")) {
        out += next
        at++
      } else out += line[at]
    }
    if (at === line.length) malformed("a string has no closing quote")
    at++
    return out
  }

  const measurement = named("the measurement", token("the measurement", ", ", ", "))
  const tags = new Map<string, string>()
  while (line[at] === ",") {
    at++
    const key = name("a tag's name")
    if (tags.has(key)) malformed(`the tag "${key}" stands twice`)
    const what = `the value of the tag "${key}"`
    tags.set(key, plain(what, token(what, ",= ", ",= ")))
    if (line[at] === "=") malformed(`an "=" in the value of the tag "${key}" is not escaped`)
  }
  while (line[at] === " ") at++
  if (at === line.length) malformed("it has no field")

  const fields = new Map<string, Field>()
  for (;;) {
    const key = name("a field's name")
    if (fields.has(key)) malformed(`the field "${key}" stands twice`)
    if (tags.has(key)) malformed(`"${key}" is a tag and a field`)
    const field: Field = line[at] === "\""
      ? { type: "VARCHAR", value: string() }
      : fieldOf(key, token(`the value of the field "${key}"`, ", ", ""))
    fields.set(key, field)
    if (line[at] !== ",") break
    at++
  }
  if (at < line.length && line[at] !== " ") malformed(`unexpected "${line[at]}" at column ${at + 1}`)
  for (const key of [...tags.keys(), ...fields.keys()]) {
    if (key.toLowerCase() === "time") malformed("\"time\" is reserved for the timestamp")
  }

  const stamp = line.slice(at).trim()
  if (stamp !== "" && !/^-?\d+$/.test(stamp)) malformed(`"${stamp}" is no timestamp: an integer is`)
  const time = stamp === "" ? now - now % nanos[precision] : BigInt(stamp) * nanos[precision]
  if (time < minTime || time > maxTime) malformed(`the timestamp ${stamp} is out of range`)
  return { measurement, tags, fields, time }
}

/** A name becomes a column of a file, or a folder. */
const named = (what: string, name: string): string => {
  if (name.length > maxName) malformed(`${what} "${name.slice(0, 20)}…" is longer than ${maxName} characters`)
  return plain(what, name)
}

const plain = (what: string, text: string): string => {
  if (/\p{Cc}/u.test(text)) malformed(`${what} ${JSON.stringify(text)} has a control character`)
  if (!text.isWellFormed()) malformed(`${what} ${JSON.stringify(text)} is not valid Unicode`)
  return text
}

const trues = new Set(["t", "T", "true", "True", "TRUE"])
const falses = new Set(["f", "F", "false", "False", "FALSE"])

const fieldOf = (key: string, text: string): Field => {
  if (trues.has(text)) return { type: "BOOLEAN", value: true }
  if (falses.has(text)) return { type: "BOOLEAN", value: false }
  const integer = /^(-?\d+)([iu])$/.exec(text)
  if (integer !== null) {
    const value = BigInt(integer[1] ?? "")
    const signed = integer[2] === "i"
    const [least, most] = signed ? [-(2n ** 63n), 2n ** 63n - 1n] : [0n, 2n ** 64n - 1n]
    if (value < least || value > most) malformed(`the field "${key}" does not fit 64 bits: ${text}`)
    return { type: signed ? "BIGINT" : "UBIGINT", value }
  }
  const value = /^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$/.test(text) ? Number(text) : NaN
  if (!Number.isFinite(value)) malformed(`the field "${key}" has no valid value: ${text}`)
  return { type: "DOUBLE", value }
}
