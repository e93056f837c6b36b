/** Who is in the cluster, and where. Lists nobody's files and deletes nothing: a lapsed member is just not asked. */
import { Context, type Effect, Option, Schema, type Stream } from "effect"
import { NodeId, Revision } from "./FileEntry.ts"

/** Where a node's cluster port listens. */
export const Address = Schema.Struct({ host: Schema.NonEmptyString, port: Schema.Port })
export interface Address extends Schema.Schema.Type<typeof Address> {}

export const Role = Schema.Literals(["writer", "reader"])
export type Role = typeof Role.Type

export interface Member {
  readonly id: NodeId
  /** A label for people; every node both fetches and serves. */
  readonly role: Role
  /** `none` until the member has announced one. */
  readonly address: Option.Option<Address>
  /** Whether its sign of life is recent. Always true for a static list. */
  readonly alive: boolean
  /** The version of the software that it runs, `""` when not known. */
  readonly version: string
  /** The revision through which it says it holds everything; `none` when not known. */
  readonly verifiedThrough: Option.Option<Revision>
}

/** Another live node goes by this node's id. Two nodes of one name would answer for each other's files. */
export class NodeIdTaken
  extends Schema.TaggedError<NodeIdTaken>()("NodeIdTaken", { id: NodeId, detail: Schema.String })
{
  override get message(): string {
    return `another live node already goes by the id ${this.id} (${this.detail}); give this one another cluster.node_id`
  }
}

/** The list can't be read or written. */
export class MembershipError extends Schema.TaggedError<MembershipError>()("MembershipError", {
  operation: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `membership failed (${this.operation}): ${this.detail}`
  }
}

export class Membership extends Context.Service<Membership, {
  readonly self: { readonly id: NodeId; readonly role: Role }
  /** Every member that is known, this one included, alive or not. */
  readonly members: Effect.Effect<ReadonlyArray<Member>, MembershipError>
  /** The members now, then whenever somebody came, moved, lapsed or left. */
  readonly changes: Stream.Stream<ReadonlyArray<Member>, MembershipError>
  /**
   * Tells the others where this node listens. From then on it shows signs of life, until its scope closes. An id that
   * another node goes by: one that is seen to run on this host keeps it, frozen or not; one that can't be seen is
   * waited for, and loses it when it gives no sign of life.
   */
  readonly announce: (address: Address) => Effect.Effect<void, MembershipError | NodeIdTaken>
  /** Tells the others through which revision this node holds everything. */
  readonly publish: (verifiedThrough: Revision) => Effect.Effect<void, MembershipError>
  /** Takes a member's own word that it leaves. */
  readonly departed: (id: NodeId) => Effect.Effect<void, MembershipError>
}>()("file-replication/Membership") {}

export const addressText = (address: Address): string =>
  address.host.includes(":") ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`

/** Reads `host:port`, `[::1]:port`, `:port`. */
export const parseAddress = (text: string): Option.Option<{ readonly host: string; readonly port: number }> => {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]]*)):(\d{1,5})$/.exec(text)
  const port = Number(match?.[3])
  if (match === null || port > 65535) return Option.none()
  return Option.some({ host: match[1] ?? match[2] ?? "", port })
}
