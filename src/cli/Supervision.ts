/**
 * How a program that starts a node talks to it: one JSON object a line, commands on the node's standard input, reports
 * on its standard output. The node leaves when its input closes, so it never outlives whoever started it.
 */
import { Schema } from "effect"
import { NodeId } from "../ports/FileEntry.ts"
import { Cursor } from "../ports/Manifest.ts"
import { Address } from "../ports/Membership.ts"

export const Command = Schema.Union([
  /** Publish a file of this machine under a path. */
  Schema.TaggedStruct("Publish", {
    id: Schema.Int,
    file: Schema.String,
    as: Schema.String
  }),
  /** Say where the manifest ends. */
  Schema.TaggedStruct("Head", { id: Schema.Int }),
  /** Wait until everything up to a position is verified here and the node is ready. */
  Schema.TaggedStruct("Await", { id: Schema.Int, at: Cursor }),
  /** Write the manifest as this node sees it into a file, one entry a line. */
  Schema.TaggedStruct("Export", { id: Schema.Int, to: Schema.String })
])
export type Command = typeof Command.Type

const Amount = Schema.Struct({ files: Schema.Natural, bytes: Schema.Natural })

/** Where a node stands. */
export const Progress = Schema.TaggedStruct("Progress", {
  ready: Schema.Boolean,
  /** Why it is not ready. */
  reason: Schema.String,
  verified: Amount,
  owed: Amount,
  /** Files that came from peers, and the bytes of them, those in flight included. */
  pulled: Schema.Natural,
  bytes: Schema.Natural,
  skippedSelf: Schema.Natural,
  failed: Schema.Natural,
  attempts: Schema.Natural
})
export type Progress = typeof Progress.Type

export const Report = Schema.Union([
  /** The node listens. */
  Schema.TaggedStruct("Started", { node: NodeId, address: Address }),
  Progress,
  /** A command has been carried out. */
  Schema.TaggedStruct("Done", { id: Schema.Int, at: Schema.optionalKey(Cursor) }),
  /** A command has failed. */
  Schema.TaggedStruct("Failed", { id: Schema.Int, message: Schema.String })
])
export type Report = typeof Report.Type

export const decodeCommand = Schema.decodeUnknownEffect(Schema.fromJsonString(Command))
export const encodeCommand = Schema.encodeSync(Schema.fromJsonString(Command))
export const decodeReport = Schema.decodeUnknownEffect(Schema.fromJsonString(Report))
export const encodeReport = Schema.encodeSync(Schema.fromJsonString(Report))
