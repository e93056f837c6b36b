/** Entries for tests: those that the suites of the ports use. */
export { entryOf, pathOf } from "../../src/testing/entries.ts"
