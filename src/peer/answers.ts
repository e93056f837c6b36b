/** What the server answers: one fixed sentence for each code, and its signature. Nothing of a request is repeated. */
import { type Redacted, Schema } from "effect"
import { isNonce } from "./authenticate.ts"
import * as Mac from "./protocol/Mac.ts"
import { emptyFetchFileAck, type FetchFile, type FetchFileAck } from "./protocol/Messages.ts"

const sentences = {
  auth: "authentication failed",
  backend: "backend error",
  bad_offset: "invalid byte offset",
  busy: "busy",
  crowded: "others take it already",
  invalid_path: "invalid path",
  // Peers that know no codes compare these two literally.
  manifest: "file not in manifest",
  not_found: "file not found on local backend",
  raft: "manifest unavailable"
} as const

export type RefusalCode = keyof typeof sentences

/** Why a request is not served. `reason` is for our own log. */
export class Refused extends Schema.TaggedError<Refused>()("Refused", {
  code: Schema.Literals([
    "auth",
    "backend",
    "bad_offset",
    "busy",
    "crowded",
    "invalid_path",
    "manifest",
    "not_found",
    "raft"
  ]),
  reason: Schema.String,
  /** With `crowded`: who has the file. */
  holders: Schema.optionalKey(Schema.Array(Schema.String)),
  /** With `crowded`: when to come again. */
  retryAfterMillis: Schema.optionalKey(Schema.Natural)
}) {
  override get message(): string {
    return `refused (${this.code}): ${this.reason}`
  }
}

/** How long a peer is asked to wait when this node is busy. */
const busyMillis = 1000

/** Who signs, and with what. */
export interface Signer {
  readonly nodeId: string
  /** `undefined`: this node has none, and signs nothing. */
  readonly secret: Redacted.Redacted<string> | undefined
}

const signed = (signer: Signer, request: FetchFile, ack: FetchFileAck): FetchFileAck => {
  const { nodeId, secret } = signer
  // A nonce of another form could move the borders between the fields that are signed.
  if (secret === undefined || !isNonce(request.nonce)) return ack
  const mac = Mac.ackMac(secret, {
    nonce: request.nonce,
    serverNodeId: nodeId,
    status: ack.status,
    code: ack.code,
    sizeBytes: ack.size_bytes,
    sha256: ack.sha256,
    byteOffset: ack.byte_offset
  })
  return { ...ack, ack_hmac: Mac.toHex(mac), server_node_id: nodeId }
}

export const refusal = (
  signer: Signer,
  request: FetchFile,
  { code, holders = [], retryAfterMillis = code === "busy" ? busyMillis : 0 }: Pick<
    Refused,
    "code" | "holders" | "retryAfterMillis"
  >
): FetchFileAck =>
  signed(signer, request, {
    ...emptyFetchFileAck,
    status: "error",
    code,
    error: sentences[code],
    keep_alive: keepsAlive(request, code),
    retry_after_ms: BigInt(retryAfterMillis),
    holders
  })

export const acceptance = (
  signer: Signer,
  request: FetchFile,
  body: { readonly length: number; readonly offset: number; readonly sha256: string; readonly bundles: boolean }
): FetchFileAck =>
  signed(signer, request, {
    ...emptyFetchFileAck,
    status: "ok",
    size_bytes: BigInt(body.length),
    sha256: body.sha256,
    byte_offset: BigInt(body.offset),
    keep_alive: request.keep_alive,
    bundles: request.keep_alive && body.bundles
  })

/** Whether the connection stays open behind a refusal. Nobody stays who could not show the secret. */
export const keepsAlive = (request: FetchFile, code: RefusalCode): boolean => request.keep_alive && code !== "auth"
