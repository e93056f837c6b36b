/** What a node says that has lost its id to another one. */
import type { NodeId } from "../ports/FileEntry.ts"
import { MembershipError } from "../ports/Membership.ts"

export const supplanted = (id: NodeId, holder: string): MembershipError =>
  new MembershipError({
    operation: "heartbeat",
    detail: `this node gave no sign of life for a while, and another one now goes by its id ${id} (${holder})`
  })
