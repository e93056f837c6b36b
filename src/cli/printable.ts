/** Text that others chose, a path or what a peer says, must not steer the terminal of whoever reads it. */

/** Pure: one line, with control characters and those that turn the direction of writing as `\u001b`. */
export const printable = (text: string): string =>
  text.replace(
    /[\p{Cc}\p{Bidi_Control}]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`
  )

/** Pure: several lines, each of them {@link printable}. */
export const printableLines = (text: string): string => text.split("\n").map(printable).join("\n")
