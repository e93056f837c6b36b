/** Whether a write may go on, by what it says of the file that it expects. Pure. */
import { namesTag } from "./range.ts"
import { type Refusal, refuse } from "./refusals.ts"

/** `sha256`: of the file that is registered under the path; `undefined`: there is none. */
export const precondition = (
  headers: Readonly<Record<string, string | undefined>>,
  sha256: string | undefined
): Refusal<"PreconditionFailed"> | undefined => {
  const tag = sha256 === undefined ? undefined : `"${sha256}"`
  const match = headers["if-match"]
  if (match !== undefined && !(tag !== undefined && namesExactly(match, tag))) {
    const standing = tag === undefined ? "no file is registered there" : `the file there is ${tag}`
    return refuse("PreconditionFailed", `nothing was done, because If-Match is ${match} and ${standing}`)
  }
  const noneMatch = headers["if-none-match"]
  if (tag !== undefined && namesTag(noneMatch, tag)) {
    return refuse(
      "PreconditionFailed",
      `nothing was done, because If-None-Match is ${noneMatch} and the file is ${tag}`
    )
  }
  return undefined
}

/** Whether a write says anything of the file that it expects. */
export const isConditional = (headers: Readonly<Record<string, string | undefined>>): boolean =>
  headers["if-match"] !== undefined || headers["if-none-match"] !== undefined

/** A weak tag says too little to write by. */
const namesExactly = (header: string, tag: string): boolean =>
  header.trim() === "*" || header.split(",").some((each) => each.trim() === tag)
