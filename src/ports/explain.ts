/** A schema failure as one line that names every offence: `sha256: Expected …; size_bytes: Expected …`. */
import { type Schema, SchemaIssue } from "effect"

const format = SchemaIssue.makeFormatterStandardSchemaV1()

export const explain = (error: Schema.SchemaError): string => {
  try {
    return format(error.issue).issues.map(({ message, path }) => {
      const at = (path ?? []).map((part) => String(typeof part === "object" ? part.key : part)).join(".")
      return at === "" ? message : `${at}: ${message}`
    }).join("; ")
  } catch {
    // What is shown of it is shown to its last level.
    return "it is nested too deeply"
  }
}
