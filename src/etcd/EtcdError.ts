/** Everything that etcd, or the way to it, answers instead of what was asked for. */
import { Schema } from "effect"

/**
 * Why a call failed, and so what to do about it.
 *
 * - `Unreachable`: no answer, or one that says that there is no leader. The outcome is unknown; asking again may help.
 * - `TokenExpired`: the session of the user has ended; the client begins another one by itself.
 * - `Denied`: the certificate, the user or its role does not allow it.
 * - `Compacted`: the revision asked for is no longer kept.
 * - `FutureRevision`: the revision asked for has not been reached: the store was put back to an earlier state.
 * - `Invalid`: the request itself is none that these members take, such as one that is too large.
 * - `Rejected`: anything else that stays as it is when it is asked again, such as a store that is full.
 */
export class EtcdError extends Schema.TaggedError<EtcdError>()("EtcdError", {
  reason: Schema.Literals([
    "Unreachable",
    "TokenExpired",
    "Denied",
    "Compacted",
    "FutureRevision",
    "Invalid",
    "Rejected"
  ]),
  operation: Schema.String,
  endpoint: Schema.String,
  detail: Schema.String,
  /** Of `Compacted`, where it is known: the oldest revision that can still be read. */
  compactedTo: Schema.optionalKey(Schema.Int)
}) {
  override get message(): string {
    return `etcd at ${this.endpoint}: ${this.operation}: ${this.detail}`
  }
}

/** The codes of gRPC that are told apart here. */
const codes = {
  cancelled: 1,
  invalid: 3,
  deadline: 4,
  denied: 7,
  aborted: 10,
  internal: 13,
  unavailable: 14,
  unauthenticated: 16
}

/** A failure of gRPC, by its code and by etcd's own sentences, which are more exact than the codes. */
export const errorOf = (
  operation: string,
  endpoint: string,
  failure: { readonly code: number; readonly details: string }
): EtcdError => {
  const { code } = failure
  // What the library appends when it has nothing to append.
  const details = failure.details.replace(/\. Resolution note: $/, "")
  const error = (reason: EtcdError["reason"], detail = details) =>
    new EtcdError({ reason, operation, endpoint, detail })
  if (details.includes("required revision has been compacted")) return error("Compacted")
  if (details.includes("required revision is a future revision")) return error("FutureRevision")
  if (details.includes("invalid auth token") || details.includes("revision in header is old")) {
    return error("TokenExpired")
  }
  if (details.includes("database space exceeded")) {
    return error(
      "Rejected",
      `${details}: compact and defragment it, or raise --quota-backend-bytes, then disarm the alarm`
    )
  }
  if (code === codes.denied || details.includes("permission denied")) {
    return error("Denied", `${details}: the role of this user must allow reading and writing the whole namespace`)
  }
  if (code === codes.unauthenticated || /authentication (failed|is not enabled)|user name is empty/.test(details)) {
    return error("Denied", `${details}: look at cluster.etcd_user, cluster.etcd_password and the certificate's name`)
  }
  if (code === codes.deadline) return error("Unreachable", "no answer in time")
  if ([codes.unavailable, codes.cancelled, codes.aborted, codes.internal].includes(code)) return error("Unreachable")
  // The first is etcd's word, the second that of gRPC, for what is far larger.
  if (code === codes.invalid || details.includes("received message larger than max")) return error("Invalid")
  return error("Rejected")
}
