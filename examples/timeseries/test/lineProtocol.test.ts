import { describe, expect, it } from "vitest"
import { parse, parseInTurns, precisionOf } from "../src/lineProtocol.ts"

const now = 1_775_916_000_123_456_789n
const one = (line: string, precision = "ns") => {
  const { errors, points } = parse(line, precisionOf(precision) ?? "ns", now)
  expect(errors).toEqual([])
  expect(points.length).toBe(1)
  return points[0]
}
const why = (text: string) => parse(text, "ns", now).errors.map(({ line, reason }) => `${line}: ${reason}`)

describe("line protocol", () => {
  it("reads every type of field, and a timestamp in nanoseconds", () => {
    const point = one("m f=1.5,e=-1e3,i=-42i,u=18446744073709551615u,s=\"text\",t=T,b=false 7")
    expect(Object.fromEntries(point?.fields ?? [])).toEqual({
      f: { type: "DOUBLE", value: 1.5 },
      e: { type: "DOUBLE", value: -1000 },
      i: { type: "BIGINT", value: -42n },
      u: { type: "UBIGINT", value: 18446744073709551615n },
      s: { type: "VARCHAR", value: "text" },
      t: { type: "BOOLEAN", value: true },
      b: { type: "BOOLEAN", value: false }
    })
    expect(point?.time).toBe(7n)
  })

  it("reads escapes where they stand for something, and leaves other back-slashes alone", () => {
    const point = one(String.raw`my\,\ m,a\=b\ c=d\,\ \=e\x f\ g="a \"b\" \\ \n c, d e=f" 1`)
    expect(point?.measurement).toBe("my, m")
    expect(Array.from(point?.tags ?? [])).toEqual([["a=b c", String.raw`d, =e\x`]])
    expect(point?.fields.get("f g")?.value).toBe(String.raw`a "b" \ \n c, d e=f`)
  })

  it("counts time in the unit of the request, backwards too", () => {
    expect(one("m f=1 2", "s")?.time).toBe(2_000_000_000n)
    expect(one("m f=1 -2", "ms")?.time).toBe(-2_000_000n)
    expect(one("m f=1", "s")?.time).toBe(1_775_916_000_000_000_000n)
    expect(precisionOf("n")).toBe("ns")
    expect(precisionOf("week")).toBeUndefined()
  })

  it("goes over comments and empty lines, and counts them", () => {
    const { errors, points } = parse("# it's \"a comment\n\n  \r\nm f=1 1\r\nm f=2 2", "ns", now)
    expect(errors).toEqual([])
    expect(points.map(({ line }) => line)).toEqual([4, 5])
  })

  it("lets no comment begin a string, and no blank before a line", () => {
    const { errors, points } = parse("  # was s=\"x\nm f=1 1\n  m,t=\"x f=2 2\nm s=\"y\" 3", "ns", now)
    expect(errors).toEqual([])
    expect(points.map(({ line }) => line)).toEqual([2, 3, 4])
  })

  it("lets a string hold a line's end, and goes on counting", () => {
    const { errors, points } = parse("m s=\"one\ntwo\" 1\nm f=oops\n", "ns", now)
    expect(points[0]?.fields.get("s")?.value).toBe("one\ntwo")
    expect(errors.map(({ line }) => line)).toEqual([3])
  })

  it("names each line that is wrong, and why", () => {
    expect(why("m f=1\nm f=\nm f=1i2\nm\nm,t f=1\nm f=1 now\n,t=1 f=1\nm f=\"open\nm f=1 1 1\nm time=1\nm f=1,f=2"))
      .toEqual([
        "2: the value of the field \"f\" is missing at column 5",
        "3: the field \"f\" has no valid value: 1i2",
        "4: it has no field",
        "5: \"=\" is missing behind a tag's name \"t\"",
        "6: \"now\" is no timestamp: an integer is",
        "7: the measurement is missing at column 1",
        "8: a string has no closing quote",
        "9: \"1 1\" is no timestamp: an integer is",
        "10: \"time\" is reserved for the timestamp",
        "11: the field \"f\" stands twice"
      ])
  })

  it("refuses names that no file can have, and lines and names that are too long", () => {
    const long = "x".repeat(257)
    expect(why(`m\0 f=1\nm,a\tb=1 f=1\nm \u0085=1\n${long} f=1\nm ${long}=1\nm f="${"y".repeat(256 * 1024)}"`)).toEqual(
      [
        "1: the measurement \"m\\u0000\" has a control character",
        "2: a tag's name \"a\\tb\" has a control character",
        "3: a field's name \"\u0085\" has a control character",
        "4: the measurement \"xxxxxxxxxxxxxxxxxxxx…\" is longer than 256 characters",
        "5: a field's name \"xxxxxxxxxxxxxxxxxxxx…\" is longer than 256 characters",
        "6: it has 262150 characters, and at most 262144 are taken"
      ]
    )
    expect(one("m f=\"\0\ttext\"")?.fields.get("f")?.value).toBe("\0\ttext")
  })

  it("refuses control characters in the value of a tag, a line's end too", () => {
    expect(why("m,t=a\tb f=1\nm,t=\0 f=1\nm,t\\\\ x=\"a\nb\" f=1")).toEqual([
      "1: the value of the tag \"t\" \"a\\tb\" has a control character",
      "2: the value of the tag \"t\" \"\\u0000\" has a control character",
      "3: the value of the tag \"t\\ x\" \"\\\"a\\nb\\\"\" has a control character"
    ])
  })

  it("ends when it has as many points as are wanted", () => {
    const reading = parseInTurns("m f=1 1\nm f=2 2\nm f=", "ns", now, 2)
    const { value } = reading.next()
    expect([value?.points.length, value?.errors]).toEqual([2, []])
  })

  it("refuses numbers that do not fit, instead of changing them", () => {
    expect(why("m f=9223372036854775808i\nm f=-1u\nm f=1e999\nm f=NaN\nm f=1 99999999999999999999").length).toBe(5)
  })
})
