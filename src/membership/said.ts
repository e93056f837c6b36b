/**
 * What a member says of itself from time to time, as the text that is kept for the others. Members of several versions
 * read each other's: what a newer one adds is passed over, what can't be understood counts as not said.
 */
import { Option, Schema } from "effect"
import { Watermark } from "../ports/Membership.ts"

const Said = Schema.Struct({
  watermark: Schema.OptionFromNullOr(Watermark),
  draining: Schema.Boolean
})
export type Said = typeof Said.Type

/** Of a member that has said nothing. */
export const quiet: Said = { watermark: Option.none(), draining: false }

const Text = Schema.fromJsonString(Said)

export const toText: (said: Said) => string = Schema.encodeSync(Text)

const decode = Schema.decodeUnknownOption(Text)

/** From what is kept; `null` when nothing is. */
export const heard = (text: unknown): Said => Option.getOrElse(decode(text), () => quiet)
