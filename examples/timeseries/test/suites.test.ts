/** The suites that the library exports for ports of others, as an application runs them. */
import { ManifestMemory } from "effect-file-replication"
import { manifestSuite } from "effect-file-replication/testing/suites"

manifestSuite("in memory, from outside of the library", ManifestMemory.layer)
