/** Who is in the cluster, and where. Lists nobody's files and deletes nothing: a lapsed member is just not asked. */
import { Context, type Effect, Option, Schema, type Stream } from "effect"
import { NodeId, Revision } from "./FileEntry.ts"
import { Cursor } from "./Manifest.ts"

/** Where a node's cluster port listens. */
export const Address = Schema.Struct({ host: Schema.NonEmptyString, port: Schema.Port })
export interface Address extends Schema.Schema.Type<typeof Address> {}

export const Role = Schema.Literals(["writer", "reader"])
export type Role = typeof Role.Type

/** How far a node says that it holds everything, verified on its disk. */
export const Watermark = Schema.Struct({
  /** Everything that was registered up to here. */
  through: Revision,
  /** How far it has taken the manifest's events: it says of which history `through` is, and is never below it. */
  at: Cursor
})
export interface Watermark extends Schema.Schema.Type<typeof Watermark> {}

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
  /** `none` when it is not known: of a static list, of an older version, of a node that still compares its disk. */
  readonly watermark: Option.Option<Watermark>
  /** It is about to leave: it is asked only for what nobody else has, and its copies don't count. */
  readonly draining: boolean
}

/** Another live node goes by this node's id. Two nodes of one name would answer for each other's files. */
export class NodeIdTaken
  extends Schema.TaggedError<NodeIdTaken>()("NodeIdTaken", { id: NodeId, detail: Schema.String })
{
  override get message(): string {
    return `another live node already goes by the id ${this.id} (${this.detail}); give this one another cluster.node_id`
  }
}

/** The member stays in the list, and why. */
export class NotRemoved extends Schema.TaggedError<NotRemoved>()("NotRemoved", { id: NodeId, detail: Schema.String }) {
  override get message(): string {
    return `${this.id} was not removed: ${this.detail}`
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

/** What keeps this node from seeing the others or from being seen. */
export const Trouble = Schema.Struct({
  /** Milliseconds since 1970. */
  since: Schema.Int,
  detail: Schema.String
}).pipe(Schema.encodeKeys({ since: "since_ms" }))
export interface Trouble extends Schema.Schema.Type<typeof Trouble> {}

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
  /** Tells the others how far this node holds everything; `none`: it does not know. */
  readonly publish: (watermark: Option.Option<Watermark>) => Effect.Effect<void, MembershipError>
  /** Tells the others that this node is about to leave, or that it stays. Ends with its process. */
  readonly drain: (draining: boolean) => Effect.Effect<void, MembershipError>
  /** Takes a member's own word that it leaves. */
  readonly departed: (id: NodeId) => Effect.Effect<void, MembershipError>
  /** `none` while all is well. Meanwhile the others are those that were known last. */
  readonly trouble: Effect.Effect<Option.Option<Trouble>>
  /**
   * Takes a member that never comes back out of the list: nobody waits for it any more. Nobody's files are touched, and
   * one that comes back all the same is a member again. Refused while it is alive.
   */
  readonly remove: (id: NodeId) => Effect.Effect<void, MembershipError | NotRemoved>
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
