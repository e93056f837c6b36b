/** Which SQL is answered: judged by the tree that DuckDB's own parser gives, before any of it is bound or run. */
import { Schema } from "effect"

/** The one row that `json_serialize_sql` gives: it knows SELECT, and nothing else. */
export const Parsed = Schema.Tuple([
  Schema.Tuple([
    Schema.fromJsonString(Schema.Union([
      Schema.Struct({ error: Schema.Literal(false), statements: Schema.Array(Schema.Unknown) }),
      Schema.Struct({ error: Schema.Literal(true), error_message: Schema.String })
    ]))
  ])
])
export type Parsed = typeof Parsed.Type

/**
 * A table function may do more than read, though it stands in a SELECT: `enable_logging` has the process write to its
 * files or its output, and end when it may not. So those that are known to be harmless are named.
 */
const tableFunctions: ReadonlySet<unknown> = new Set(["range", "generate_series", "unnest"])

/** Why a statement is not answered; `undefined`: it is. */
export const refusalOf = ([[parsed]]: Parsed): string | undefined => {
  if (parsed.error) return parsed.error_message
  if (parsed.statements.length !== 1) return "send one statement"
  // A stack of its own: a statement may be nested deeper than calls can be.
  const left: Array<unknown> = [...parsed.statements]
  while (left.length > 0) {
    const node = left.pop()
    if (typeof node !== "object" || node === null) continue
    if (Reflect.get(node, "type") === "TABLE_FUNCTION") {
      const name: unknown = Reflect.get(Object(Reflect.get(node, "function")), "function_name")
      if (!tableFunctions.has(name)) return `the table function ${JSON.stringify(name)} can't be used here`
    }
    for (const child of Object.values(node)) left.push(child)
  }
  return undefined
}
