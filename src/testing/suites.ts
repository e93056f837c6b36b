/**
 * What every implementation of a port must do, as suites for vitest: `effect-file-replication/testing/suites`. Whoever
 * writes a port of his own calls its suite in a test file; `@effect/vitest` and `vitest` must be installed.
 */
export { suite as backendSuite } from "./backend/suite.ts"
export { suite as inventorySuite } from "./inventory/suite.ts"
export { suite as manifestSuite } from "./manifest/suite.ts"
export { suite as membershipSuite } from "./membership/suite.ts"
