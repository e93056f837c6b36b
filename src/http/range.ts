/** Which part of a file a request asks for. Pure. */

/** The first byte and how many. */
export interface Span {
  readonly offset: number
  readonly length: number
}

/**
 * `undefined`: no range is asked for, or one of another unit, and the whole file is meant. `"Unsatisfiable"`: it is none
 * of this file, there is more than one, or it can't be read.
 */
export const rangeOf = (header: string | undefined, size: number): Span | "Unsatisfiable" | undefined => {
  if (header === undefined || !/^\s*bytes\s*=/i.test(header)) return undefined
  const match = /^\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*$/i.exec(header)
  const [, first = "", last = ""] = match ?? []
  if (match === null || (first === "" && last === "")) return "Unsatisfiable"
  if (first === "") {
    const length = Math.min(Number(last), size)
    return length === 0 ? "Unsatisfiable" : { offset: size - length, length }
  }
  const offset = Number(first)
  const end = last === "" ? size : Math.min(Number(last) + 1, size)
  return offset >= size || end <= offset ? "Unsatisfiable" : { offset, length: end - offset }
}

/** Whether a list of entity tags, as of `If-None-Match`, names one; `*` names every one. */
export const namesTag = (header: string | undefined, tag: string): boolean =>
  header !== undefined
  && (header.trim() === "*" || header.split(",").some((each) => each.trim().replace(/^W\//, "") === tag))
