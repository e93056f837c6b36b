/**
 * What a path of a replicated file may look like.
 *
 * A path is relative, `/`-separated and already clean, so that the same text means the same file on every node and
 * can never lead out of the data folder. A request over the wire and a registration ask for the same; a
 * registration asks for more.
 */
import { Schema } from "effect"

/** Our own folder inside the data folder, as long as `storage.state_path` is not set to another. */
export const reservedFolder = ".replication"

const maxPathBytes = 4096
const maxComponentBytes = 255

const utf8Length = (text: string): number => Buffer.byteLength(text, "utf8")

/** What nearly every path looks like; nothing can be wrong with one of these that is short. */
const plain = /^[\w=-][\w.=-]*(?:\/[\w=-][\w.=-]*)*$/
const isPlain = (path: string): boolean => path.length <= maxComponentBytes && plain.test(path)

/** Why a path may not be asked for over the wire; `undefined` when it may. */
export const wireOffence = (path: string): string | undefined => {
  if (isPlain(path)) return undefined
  if (path === "") return "it is empty"
  if (path.includes("\0")) return "it contains a NUL byte"
  if (path.startsWith("/")) return "it is absolute"
  if (path.includes("\\")) return "it contains a back-slash"
  if (/^[A-Za-z]:/.test(path)) return "it starts with a drive letter"
  for (const component of path.split("/")) {
    if (component === "") return "it contains an empty component"
    if (component === "." || component === "..") return `it contains the component "${component}"`
  }
  return undefined
}

/** Why a path may not be registered in a manifest; `undefined` when it may. */
export const offence = (path: string): string | undefined => {
  if (isPlain(path)) return undefined
  if (/^[A-Za-z][A-Za-z0-9+.-]*:\/\//.test(path)) return "it is a URL"
  const wire = wireOffence(path)
  if (wire !== undefined) return wire
  if (!path.isWellFormed()) return "it is not valid Unicode"
  if (utf8Length(path) > maxPathBytes) return `it is longer than ${maxPathBytes} bytes`
  const components = path.split("/")
  if (components.some((component) => utf8Length(component) > maxComponentBytes)) {
    return `one of its components is longer than ${maxComponentBytes} bytes`
  }
  if (components[0]?.toLowerCase() === reservedFolder) return `"${reservedFolder}" is reserved`
  return undefined
}

/** A path that may be registered. */
export const FilePath = Schema.String.pipe(
  Schema.check(Schema.makeFilter((path: string) => {
    const why = offence(path)
    return why === undefined ? true : `not a path that can be replicated: ${why}`
  })),
  Schema.brand("FilePath")
)
export type FilePath = typeof FilePath.Type

/** Every folder above a path, outermost first: `a/b/c` gives `a`, `a/b`. */
export const folders = (path: string): Array<string> => {
  const parts = path.split("/")
  return parts.slice(1).map((_, index) => parts.slice(0, index + 1).join("/"))
}

/**
 * What a path says of its file when it follows the usual layout, `database/measurement/2026/04/11/14/file.parquet`:
 * the parts that it has. The hour, the day and the month may be left out.
 */
export const layout = (path: string): {
  readonly database?: string
  readonly measurement?: string
  /** RFC 3339. */
  readonly partitionTime?: string
} => {
  const [database, measurement, ...rest] = path.split("/").slice(0, -1)
  if (database === undefined || measurement === undefined) return {}
  const [year = "", month = "01", day = "01", hour = "00"] = rest
  const time = `${year}-${month}-${day}T${hour}:00:00Z`
  const valid = rest.length <= 4 && /^\d{4}-\d{2}-\d{2}T\d{2}:00:00Z$/.test(time) && !Number.isNaN(Date.parse(time))
  return { database, measurement, ...(valid ? { partitionTime: time } : {}) }
}
