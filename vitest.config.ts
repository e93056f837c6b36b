import { defineConfig } from "vitest/config"

const json = process.env["VITEST_JSON"]

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: "test/support/bundle.ts",
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: "forks",
    maxWorkers: 2,
    // What the tests log on purpose would bury their results.
    silent: "passed-only",
    reporters: json === undefined || json === "" ? ["default"] : ["default", "json"],
    ...(json === undefined || json === "" ? {} : { outputFile: { json } })
  }
})
