/**
 * How the API says no: one shape, `{ "error": { "code": …, "message": … } }`, whoever refuses. A code is stable and
 * for programs, a message is a sentence for people that says what to do.
 */
import { Schema } from "effect"
import { HttpServerResponse } from "effect/http"

/** Every code, and the HTTP status that it comes with. */
export const statuses = {
  /** The path of a file breaks the rules of paths, or is not percent-encoded rightly. */
  BadPath: 400,
  /** A parameter, a header or the body is not as described. */
  BadRequest: 400,
  /** The call changes something and carries no bearer token, or another one. */
  Unauthorized: 401,
  /** The call comes, or may come, from a web page of another site. */
  ForeignOrigin: 403,
  /** There is no such endpoint. */
  NoSuchEndpoint: 404,
  /** The manifest does not know the file. */
  NotFound: 404,
  /** The endpoint takes other methods; `Allow` names them. */
  MethodNotAllowed: 405,
  /** The body came too slowly. */
  TooSlow: 408,
  /** Other bytes are registered under this path, or a file where it would need a folder. */
  Conflict: 409,
  /** The member is alive, or there is none, or the list is fixed. */
  NotRemoved: 409,
  /** Some of the lines are wrong or refused; the answer names them, and says what became of the others. */
  NotImported: 409,
  /** A node may still have the file, and it was not forgotten. */
  NotLost: 409,
  /** The path was deleted, for good. */
  Gone: 410,
  /** The call publishes a file and does not say that a body follows, not even an empty one. */
  LengthRequired: 411,
  /** `If-Match` or `If-None-Match` speaks of another file than the one that is registered, or of none. */
  PreconditionFailed: 412,
  /** The body is longer than this node takes. */
  TooLarge: 413,
  /** The body has another media type or encoding than described. */
  WrongMediaType: 415,
  /** The range is none of this file, or there is more than one. */
  RangeNotSatisfiable: 416,
  /** A defect of this software; its log tells more. */
  Internal: 500,
  /** The manifest, the inventory or the disk does not answer, or the node starts or stops; asking again later is safe. */
  Unavailable: 503,
  /** The file is safe on this node's disk and not registered yet; it will be, without being sent again. */
  NotRegistered: 503,
  /** The file is not here, verified, and will be: `message` says why it is not. */
  NotVerified: 503,
  /** The disk has no room. */
  NoSpace: 507
} as const

export type Code = keyof typeof statuses

export interface Refusal<C extends Code = Code> {
  readonly error: { readonly code: C; readonly message: string }
}

export const refuse = <C extends Code>(code: C, message: string): Refusal<C> => ({ error: { code, message } })

/** The schema of refusals with one of some codes of the same status. */
const refusal = <const C extends Code>(code: C) =>
  Schema.Struct({ error: Schema.Struct({ code: Schema.Literal(code), message: Schema.String }) }).annotate({
    httpApiStatus: statuses[code],
    identifier: code,
    description: code
  })

/** What an endpoint may refuse with, for its definition. */
export const refusals = <const C extends ReadonlyArray<Code>>(...codes: C) => codes.map((code) => refusal(code))

/** A refusal as an answer, where no endpoint is there to say it. */
export const response = (
  { error }: Refusal,
  headers: Readonly<Record<string, string>> = {}
): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.jsonUnsafe({ error }, { status: statuses[error.code], headers: { ...fresh, ...headers } })

/** No answer of a node is good for long. */
export const fresh = { "cache-control": "no-store" }
