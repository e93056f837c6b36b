/** What goes into one bundle of small files: what one side asks for at once is what the other gives. */

/** Files in a bundle at the most. */
export const maxFiles = 64

/** The longest file that goes into a bundle, bytes. */
export const maxFileBytes = 256 * 1024

/** All files of a bundle together, bytes: as much as one side holds in memory of it. */
export const maxBytes = 1024 * 1024

/** All paths of a bundle together, UTF-16 units: whoever has not shown the secret is not read a longer request. */
export const maxPathLength = 8 * 1024
