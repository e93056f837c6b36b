import { assert, it } from "@effect/vitest"
import { Cause } from "effect"
import { line } from "../../src/cli/logs.ts"

it("a line of the log is one line, whatever a path in it holds", () => {
  const message = "db/\u001b[2J\r\n\u009b\u202e was refused"
  const said = line({ date: new Date(2026, 3, 11, 14, 5, 9), level: "Warn", message, cause: Cause.empty }, false)
  assert.strictEqual(said, "14:05:09 WARN  db/\\u001b[2J\\u000d\\u000a\\u009b\\u202e was refused")
})
