/**
 * The messages inside frames, as JSON.
 *
 * They are read as Go reads them: a key in any case, the last of several counts, `null` and an absent field are the
 * zero value, unknown fields are ignored, an integer is an integer literal within 64 bits. (A key that is there twice in
 * the very same letters may differ: docs/protocol.md.) They are written byte for byte as Go writes them. Integers are
 * `bigint`, so that none of the 64 bits is lost.
 */
import { Effect, Result, Schema, SchemaTransformation } from "effect"
import * as ExactJson from "../../ports/ExactJson.ts"
import * as Frame from "./Frame.ts"

/** A payload that is no such message. Holds nothing of what was sent. */
export class NotAMessage extends Schema.TaggedError<NotAMessage>()("NotAMessage", {
  expected: Schema.String,
  reason: Schema.Literals([
    "it is not valid UTF-8",
    "it is not JSON",
    "it is not an object",
    "a field has a wrong type"
  ])
}) {
  override get message(): string {
    return `not a ${this.expected} message: ${this.reason}`
  }
}

const minInt64 = -(2n ** 63n)
const maxInt64 = 2n ** 63n - 1n

const zero = <S extends Schema.Constraint>(value: S["Encoded"]) =>
  Schema.withDecodingDefaultKey<S>(Effect.succeed(value))

// A lone surrogate reads as U+FFFD, in Go and in every UTF-8 that is made of it.
const Text = Schema.String.pipe(
  Schema.decodeTo(
    Schema.String,
    SchemaTransformation.transform<string, string>({ decode: (text) => text.toWellFormed(), encode: (text) => text })
  ),
  zero("")
)

const Int64 = Schema.Union([Schema.BigInt, Schema.Int]).pipe(
  Schema.decodeTo(
    Schema.BigInt.check(
      Schema.makeFilter((value) => (value >= minInt64 && value <= maxInt64) || "an integer of 64 bits with a sign")
    ),
    SchemaTransformation.transform<bigint, bigint | number>({ decode: BigInt, encode: (value) => value })
  ),
  zero(0n)
)

const Flag = Schema.Boolean.pipe(zero(false))

const Texts = Schema.Array(Schema.String).pipe(zero([]))

const Rfc3339 = Schema.String.check(
  Schema.isPattern(/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:Z|[+-]\d{2}:\d{2})$/)
).pipe(zero("0001-01-01T00:00:00Z"))

/** Asks for a file's bytes. */
export const FetchFile = Schema.Struct({
  path: Text,
  /** Who asks. */
  node_id: Text,
  /** 32 random bytes, lower-case hex. */
  nonce: Text,
  /** Seconds since 1970. */
  timestamp: Int64,
  hmac: Text,
  /** The first byte that is wanted. */
  byte_offset: Int64,
  /** Extension: another request will follow on this connection. */
  keep_alive: Flag,
  /** Extension: how many bytes are wanted, 0 for all that follow. */
  byte_length: Int64,
  /** Extension: binds offset and length as `hmac` binds the path. */
  range_hmac: Text,
  /** Extension: whoever asks can take the file elsewhere, or later. */
  can_wait: Flag,
  /** Extension: with `can_wait`, the ids of nodes that were said to have it and can't be asked. */
  not_at: Texts
})
export interface FetchFile extends Schema.Schema.Type<typeof FetchFile> {}

/** Answers `FetchFile`. After `ok`, `size_bytes` bytes of the file follow. */
export const FetchFileAck = Schema.Struct({
  /** `ok` or `error`. */
  status: Text,
  /** The machine-readable reason of an error; older peers send none. */
  code: Text,
  /** The reason for people. */
  error: Text,
  /** Bytes that follow. */
  size_bytes: Int64,
  /** Of the whole file. */
  sha256: Text,
  byte_offset: Int64,
  /** Extension: another request may follow on this connection. */
  keep_alive: Flag,
  /** Extension: shows that whoever answers knows the secret. */
  ack_hmac: Text,
  /** Extension: who answers. */
  server_node_id: Text,
  /** Extension: with `busy` and `crowded`, when to ask again. */
  retry_after_ms: Int64,
  /** Extension: with `crowded`, the ids of nodes that have the file. */
  holders: Texts,
  /** Extension: whoever answers takes `FetchBundle`. */
  bundles: Flag
})
export interface FetchFileAck extends Schema.Schema.Type<typeof FetchFileAck> {}

/** An answer in which every field is its zero value. */
export const emptyFetchFileAck: FetchFileAck = {
  status: "",
  code: "",
  error: "",
  size_bytes: 0n,
  sha256: "",
  byte_offset: 0n,
  keep_alive: false,
  ack_hmac: "",
  server_node_id: "",
  retry_after_ms: 0n,
  holders: [],
  bundles: false
}

/**
 * Asks for several small files, whole. Extension: only for those who have said that they take it. Whatever is not given
 * is asked for by `FetchFile`, which says why.
 */
export const FetchBundle = Schema.Struct({
  paths: Schema.Array(Schema.String),
  /** Of each path, what is asked for: lower-case hex. */
  sha256: Schema.Array(Schema.String),
  /** Who asks. */
  node_id: Text,
  /** 32 random bytes, lower-case hex. */
  nonce: Text,
  /** Seconds since 1970. */
  timestamp: Int64,
  hmac: Text
})
export interface FetchBundle extends Schema.Schema.Type<typeof FetchBundle> {}

/** Answers `FetchBundle`. The bytes of all files that are given follow, in their order. */
export const FetchBundleAck = Schema.Struct({
  /** Of each path, how many bytes follow; -1: it is not given. */
  sizes: Schema.Array(Schema.Int),
  hmac: Text,
  /** Who answers. */
  server_node_id: Text
})
export interface FetchBundleAck extends Schema.Schema.Type<typeof FetchBundleAck> {}

/** A node's sign of life. */
export const Heartbeat = Schema.Struct({
  node_id: Text,
  state: Text,
  is_leader: Flag,
  timestamp: Rfc3339,
  auth_nonce: Text,
  /** Seconds since 1970. */
  auth_timestamp: Int64,
  auth_hmac: Text
})
export interface Heartbeat extends Schema.Schema.Type<typeof Heartbeat> {}

/** Answers `Heartbeat`. */
export interface HeartbeatAck {
  /** Who answers. */
  readonly node_id: string
  /** RFC 3339. */
  readonly timestamp: string
}

/** A node says that it leaves. */
export const LeaveNotify = Schema.Struct({
  node_id: Text,
  reason: Text,
  auth_nonce: Text,
  /** Seconds since 1970. */
  auth_timestamp: Int64,
  auth_hmac: Text
})
export interface LeaveNotify extends Schema.Schema.Type<typeof LeaveNotify> {}

// ---------------------------------------------------------------------------------------------------------------------
// Reading
// ---------------------------------------------------------------------------------------------------------------------

// A byte order mark is no JSON; without `ignoreBOM` it would be swallowed.
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

// Go folds keys so that the long s and the Kelvin sign, too, are the letters they look like.
const foldKey = (key: string): string => key.replaceAll("\u017f", "s").toLowerCase()

type Message<A> = Schema.Codec<A, unknown> & { readonly fields: { readonly [name: string]: unknown } }

const decoder = <A>(expected: string, schema: Message<A>) => {
  const decode = Schema.decodeUnknownResult(schema)
  const fail = (reason: NotAMessage["reason"]) => Result.fail(new NotAMessage({ expected, reason }))
  return (payload: Uint8Array): Result.Result<A, NotAMessage> => {
    const text = Result.try(() => utf8.decode(payload))
    if (Result.isFailure(text)) return fail("it is not valid UTF-8")
    const parsed = ExactJson.parse(text.success)
    if (Result.isFailure(parsed)) return fail("it is not JSON")
    const value = parsed.success
    if (value !== null && (typeof value !== "object" || Array.isArray(value))) return fail("it is not an object")
    const known = new Map<string, unknown>()
    for (const [key, field] of Object.entries(value ?? {})) {
      const name = foldKey(key)
      if (field !== null && Object.hasOwn(schema.fields, name)) known.set(name, field)
    }
    const message = decode(Object.fromEntries(known))
    return Result.isFailure(message) ? fail("a field has a wrong type") : Result.succeed(message.success)
  }
}

export const decodeFetchFile = decoder("FetchFile", FetchFile)
export const decodeFetchFileAck = decoder("FetchFileAck", FetchFileAck)
export const decodeFetchBundle = decoder("FetchBundle", FetchBundle)
export const decodeFetchBundleAck = decoder("FetchBundleAck", FetchBundleAck)
export const decodeHeartbeat = decoder("Heartbeat", Heartbeat)
export const decodeLeaveNotify = decoder("LeaveNotify", LeaveNotify)

// ---------------------------------------------------------------------------------------------------------------------
// Writing
// ---------------------------------------------------------------------------------------------------------------------

const escapes: { readonly [character: string]: string } = {
  "<": "\\u003c",
  ">": "\\u003e",
  "&": "\\u0026",
  "\u2028": "\\u2028",
  "\u2029": "\\u2029"
}

const wellFormed = (message: object): object =>
  Object.fromEntries(
    Object.entries(message).map(([name, value]) => [name, typeof value === "string" ? value.toWellFormed() : value])
  )

const json = (message: object): Uint8Array =>
  Buffer.from(
    ExactJson.stringify(wellFormed(message))
      .replace(/[<>&\u2028\u2029]/g, (character) => escapes[character] ?? character),
    "utf8"
  )

// A field that Go leaves out when it is the zero value.
const unlessZero = <A extends string | bigint | boolean>(value: A): A | undefined =>
  value === "" || value === 0n || value === false ? undefined : value

const unlessEmpty = (texts: ReadonlyArray<string>): ReadonlyArray<string> | undefined =>
  texts.length === 0 ? undefined : texts.map((text) => text.toWellFormed())

/** Writes the whole frame of a request. Too long only with a path far over what a manifest takes. */
export const encodeFetchFile = (message: FetchFile): Result.Result<Uint8Array, Frame.FrameTooLong> =>
  Frame.encode(
    Frame.messageType.fetchFile,
    json({
      path: message.path,
      node_id: message.node_id,
      nonce: message.nonce,
      timestamp: message.timestamp,
      hmac: message.hmac,
      byte_offset: unlessZero(message.byte_offset),
      keep_alive: unlessZero(message.keep_alive),
      byte_length: unlessZero(message.byte_length),
      range_hmac: unlessZero(message.range_hmac),
      can_wait: unlessZero(message.can_wait),
      not_at: unlessEmpty(message.not_at)
    })
  )

export const encodeFetchFileAck = (message: FetchFileAck): Result.Result<Uint8Array, Frame.FrameTooLong> =>
  Frame.encode(
    Frame.messageType.fetchFileAck,
    json({
      status: message.status,
      code: unlessZero(message.code),
      error: unlessZero(message.error),
      size_bytes: message.size_bytes,
      sha256: message.sha256,
      byte_offset: unlessZero(message.byte_offset),
      keep_alive: unlessZero(message.keep_alive),
      ack_hmac: unlessZero(message.ack_hmac),
      server_node_id: unlessZero(message.server_node_id),
      retry_after_ms: unlessZero(message.retry_after_ms),
      holders: unlessEmpty(message.holders),
      bundles: unlessZero(message.bundles)
    })
  )

export const encodeFetchBundle = (message: FetchBundle): Result.Result<Uint8Array, Frame.FrameTooLong> =>
  Frame.encode(Frame.messageType.fetchBundle, json(message))

export const encodeFetchBundleAck = (message: FetchBundleAck): Result.Result<Uint8Array, Frame.FrameTooLong> =>
  Frame.encode(Frame.messageType.fetchBundleAck, json(message))

export const encodeHeartbeatAck = (message: HeartbeatAck): Result.Result<Uint8Array, Frame.FrameTooLong> =>
  Frame.encode(
    Frame.messageType.heartbeatAck,
    json({ node_id: message.node_id, timestamp: message.timestamp })
  )
