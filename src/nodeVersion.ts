/** Read before anything else is loaded, on a Node that may be too old for the rest: it imports nothing. */

/** The oldest Node that this runs on; `engines` of the package says the same. */
export const needed = "22.19.0"

const parts = (version: string): ReadonlyArray<number> =>
  version.replace(/^v/, "").split(".").map((part) => parseInt(part, 10))

/** Pure: what to say of a version of Node that is too old; `undefined` when it is not. */
export const offence = (version: string): string | undefined => {
  const [major = 0, minor = 0] = parts(version)
  const [neededMajor = 0, neededMinor = 0] = parts(needed)
  if (major > neededMajor || (major === neededMajor && minor >= neededMinor)) return undefined
  return `it needs Node ${needed} or newer, and this is ${version}`
}
