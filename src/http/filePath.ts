/** A file's path in the address of a request. */
import { Result } from "effect"
import { FilePath, offence } from "../ports/FilePath.ts"
import { type Refusal, refuse } from "./refusals.ts"

/**
 * Pure: what stands behind the first `depth` parts of an address, percent-decoded. The router is not asked for it,
 * because it would end a path at a `;`. A `/` may be encoded or not: no part of a path could contain one.
 */
export const filePathIn = (url: string, depth: number): Result.Result<FilePath, Refusal<"BadPath">> => {
  const address = url.replace(/^https?:\/\/[^/]*/i, "").replace(/[?#][^]*$/, "")
  const encoded = address.split("/").slice(depth + 1).join("/")
  return Result.try({
    try: () => decodeURIComponent(encoded),
    catch: () => refuse("BadPath", "the address is not percent-encoded UTF-8")
  }).pipe(Result.flatMap(parseFilePath))
}

/** Pure: a text as a path. */
export const parseFilePath = (path: string): Result.Result<FilePath, Refusal<"BadPath">> => {
  const why = offence(path)
  return why === undefined
    ? Result.succeed(FilePath.make(path))
    : Result.fail(refuse("BadPath", `this is no path of a replicated file: ${why}`))
}
