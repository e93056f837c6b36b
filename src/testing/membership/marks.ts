/** Watermarks of tests, apart from the suite: a process that is no test can have them too. */
import { Revision } from "../../ports/FileEntry.ts"
import type { Watermark } from "../../ports/Membership.ts"

/** Everything up to a revision, of one history. */
export const watermark = (through: number): Watermark => ({
  through: Revision.make(through),
  at: { epoch: "an epoch", revision: Revision.make(through + 1), mark: `mark ${through + 1}` }
})
