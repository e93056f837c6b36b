/** A suite as whoever writes a port of his own calls it: by what the package exports, and nothing else. */
import { MembershipStatic } from "../../src/index.ts"
import { membershipSuite } from "../../src/testing/suites.ts"

membershipSuite("mine", ({ other, self }) => MembershipStatic.layer({ self, peers: [other] }))
