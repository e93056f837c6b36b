/** A schema failure as one line that names every offence: `sha256: Expected …; size_bytes: Expected …`. */
import { type Schema, SchemaIssue } from "effect"

const format = SchemaIssue.makeFormatterStandardSchemaV1()

export const explain = (error: Schema.SchemaError): string =>
  format(error.issue).issues.map(({ message, path }) => {
    const at = (path ?? []).map((part) => String(typeof part === "object" ? part.key : part)).join(".")
    return at === "" ? message : `${at}: ${message}`
  }).join("; ")
