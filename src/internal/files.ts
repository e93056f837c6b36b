/** Numbers of files, as sentences say them. */

export const files = (count: number): string => count === 1 ? "1 file" : `${count} files`

export const filesAre = (count: number): string => `${files(count)} ${count === 1 ? "is" : "are"}`

export const filesWere = (count: number): string => `${files(count)} ${count === 1 ? "was" : "were"}`
