import { defineConfig } from "vitest/config"
import { BaseSequencer, type TestSpecification } from "vitest/node"

const json = process.env["VITEST_JSON"]

/** Those that take longest, beginning with the longest. */
const long = [
  "cluster/etcd",
  "failures/commit",
  "cluster/demo",
  "Repair",
  "manifest/etcdFailures",
  "membership/MembershipEtcd",
  "cluster/operator",
  "cluster/life",
  "hostile/borders",
  "hostile/fuzz",
  "failures/partition",
  "soak/kills",
  "OnEtcd",
  "replication/interleavings"
]

/** Begins with them, so that none of them runs on alone at the end. */
class LongOnesFirst extends BaseSequencer {
  override async sort(files: Array<TestSpecification>): Promise<Array<TestSpecification>> {
    const rank = ({ moduleId }: TestSpecification): number => {
      const at = long.findIndex((name) => moduleId.endsWith(`/test/${name}.test.ts`))
      return at < 0 ? long.length : at
    }
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b))
  }
}

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: "test/support/bundle.ts",
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: "forks",
    // More than the two cores that there may be: many files wait for most of their time.
    maxWorkers: 3,
    sequence: { sequencer: LongOnesFirst },
    // What the tests log on purpose would bury their results.
    silent: "passed-only",
    reporters: json === undefined || json === "" ? ["default"] : ["default", "json"],
    ...(json === undefined || json === "" ? {} : { outputFile: { json } })
  }
})
