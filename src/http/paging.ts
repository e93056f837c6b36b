/** Where a page of the manifest begins, for a prefix. */
import { Option } from "effect"
import { FilePath, offence } from "../ports/FilePath.ts"

const lastCharacter = "\u{10FFFF}"

/**
 * Pure: a path behind which every path with a prefix comes, and nothing else before them; `none` for the beginning.
 * The manifest's pages know no prefix, only a path that they begin behind: so this is the last path that could be
 * before the prefix. `undefined` when no path can begin so.
 */
export const before = (prefix: string): Option.Option<FilePath> | undefined => {
  if (prefix === "") return Option.none()
  const characters = [...prefix]
  const last = characters.pop()?.codePointAt(0)
  if (last === undefined || !prefix.isWellFormed()) return undefined
  const head = characters.join("")
  // The next lower characters that may stand there: some are surrogates, and some no path may contain.
  for (let lower = last - 1; lower > 0; lower--) {
    if (lower >= 0xd800 && lower <= 0xdfff) lower = 0xd7ff
    const text = head + String.fromCodePoint(lower)
    for (const path of [text + lastCharacter.repeat(4), text]) {
      if (offence(path) === undefined) return Option.some(FilePath.make(path))
    }
    if (last - lower > 8) break
  }
  return head === "" ? Option.none() : undefined
}
