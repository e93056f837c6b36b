import { assert, describe, it } from "@effect/vitest"
import { offence, wireOffence } from "../../../src/ports/FilePath.ts"
import { vectors } from "../support/vectors.ts"

describe("path rules, against the vectors", () => {
  for (const { path, sanitize_fetch_error, validate_manifest_error } of vectors.path_rules) {
    const shown = JSON.stringify(path.length > 40 ? `${path.slice(0, 40)}…` : path)

    it(`refuses ${shown} over the wire and in a registration wherever the other system does`, () => {
      if (sanitize_fetch_error !== null) assert.isDefined(wireOffence(path))
      if (validate_manifest_error !== null) assert.isDefined(offence(path))
      // Whatever may be registered may be asked for.
      if (offence(path) === undefined) assert.isUndefined(wireOffence(path))
    })
  }

  it("accepts every path that both of the other system's rules accept, but for over-long ones", () => {
    const both = vectors.path_rules.filter((rule) =>
      rule.sanitize_fetch_error === null && rule.validate_manifest_error === null
    )
    assert.isAbove(both.length, 5)
    for (const { path } of both) {
      if (path.length <= 255) assert.isUndefined(offence(path), path)
    }
  })
})
