/** Whether a request comes from a node of this cluster, now, for the first time. Pure but for the nonces it remembers. */
import { Redacted } from "effect"
import type { AuthCause } from "../telemetry/Metrics.ts"
import * as Mac from "./protocol/Mac.ts"
import type { FetchBundle, FetchFile, Heartbeat, LeaveNotify } from "./protocol/Messages.ts"
import type { NonceCache } from "./protocol/NonceCache.ts"

/** How far a request's timestamp may be from our clock, seconds. */
export const windowSeconds = 300

/** `reason` is for our own log; the peer hears one sentence for all of them. */
export type Verdict =
  | { readonly _tag: "Accepted" }
  | { readonly _tag: "Refused"; readonly code: "auth"; readonly cause: AuthCause; readonly reason: string }
  | { readonly _tag: "Refused"; readonly code: "busy"; readonly reason: string }

/** What this node checks requests against. */
export interface Credentials {
  readonly clusterName: string
  /** Any of these is accepted. None: nothing is. */
  readonly secrets: ReadonlyArray<Redacted.Redacted<string>>
}

const accepted: Verdict = { _tag: "Accepted" }
const refused = (cause: AuthCause, reason: string): Verdict => ({ _tag: "Refused", code: "auth", cause, reason })

/** Who shows the certificate of a node speaks as that node only. `certified`: the node that it was made for, if any. */
export const asCertified = (verdict: Verdict, nodeId: string, certified: string | undefined): Verdict =>
  verdict._tag === "Refused" || certified === undefined || certified === nodeId
    ? verdict
    : refused("certificate", `${certified}'s certificate, and a message of another node`)

/** The secrets that are configured, the current one first. */
export const configuredSecrets = (
  secret: Redacted.Redacted<string>,
  previous: Redacted.Redacted<string> | undefined
): ReadonlyArray<Redacted.Redacted<string>> =>
  (previous === undefined ? [secret] : [secret, previous]).filter((value) => Redacted.value(value) !== "")

/** Whether a nonce is 32 bytes in lower-case hex. */
export const isNonce = (nonce: string): boolean => /^[0-9a-f]{64}$/.test(nonce)

/** Checks 1 to 3 of a fetch request. `now` in seconds since 1970. */
export const authenticateFetch = (
  credentials: Credentials,
  nonces: NonceCache,
  now: number,
  request: FetchFile
): Verdict => {
  const { clusterName, secrets } = credentials
  const { node_id: nodeId, nonce, path, timestamp } = request
  const fields = { nonce, nodeId, clusterName, path, timestamp }
  const range = { ...fields, offset: request.byte_offset, length: request.byte_length }
  // An offset alone may go unbound, for older peers know no more; a length, and what claims to be bound, may not.
  const bound = request.range_hmac !== "" || request.byte_length !== 0n
  const offence = macOffence(secrets, request.hmac, (secret) => Mac.fetchMac(secret, fields))
    ?? (bound ? macOffence(secrets, request.range_hmac, (secret) => Mac.rangeMac(secret, range)) : undefined)
    ?? timeOffence(timestamp, now)
  return offence ?? firstTime(nonces, request, now)
}

/** The same for a bundle. */
export const authenticateBundle = (
  { clusterName, secrets }: Credentials,
  nonces: NonceCache,
  now: number,
  request: FetchBundle
): Verdict => {
  const { node_id: nodeId, nonce, paths, sha256, timestamp } = request
  const offence = macOffence(
    secrets,
    request.hmac,
    (secret) => Mac.bundleMac(secret, { nonce, nodeId, clusterName, timestamp, paths, sha256 })
  ) ?? timeOffence(timestamp, now)
  return offence ?? firstTime(nonces, request, now)
}

/** The same for a heartbeat and a leave. Whoever has only overheard one can't make it count again. */
export const authenticateJoin = (
  { clusterName, secrets }: Credentials,
  nonces: NonceCache,
  now: number,
  label: "heartbeat" | "leave",
  message: Heartbeat | LeaveNotify
): Verdict => {
  const offence = macOffence(secrets, message.auth_hmac, (secret) =>
    Mac.joinMac(secret, {
      label,
      nonce: message.auth_nonce,
      nodeId: message.node_id,
      clusterName,
      timestamp: message.auth_timestamp
    })) ?? timeOffence(message.auth_timestamp, now)
  return offence === undefined
    ? remember(nonces, `${label} ${message.auth_nonce}`, message.auth_timestamp, now)
    : offence
}

const macOffence = (
  secrets: ReadonlyArray<Redacted.Redacted<string>>,
  hex: string,
  mac: (secret: Redacted.Redacted<string>) => Uint8Array
): Verdict | undefined => {
  if (secrets.length === 0) return refused("secret", "this node has no shared secret")
  return secrets.some((secret) => Mac.matches(mac(secret), hex))
    ? undefined
    : refused("secret", "the MAC is wrong: another shared secret or another cluster name")
}

const timeOffence = (timestamp: bigint, now: number): Verdict | undefined => {
  const skew = timestamp - BigInt(now)
  return skew >= -BigInt(windowSeconds) && skew <= BigInt(windowSeconds)
    ? undefined
    : refused("clock", `the timestamp is ${skew} s from this node's clock`)
}

const firstTime = (nonces: NonceCache, { nonce, timestamp }: FetchFile | FetchBundle, now: number): Verdict =>
  isNonce(nonce)
    ? remember(nonces, nonce, timestamp, now)
    : refused("nonce", "the nonce is not 64 lower-case hex digits")

const remember = (nonces: NonceCache, nonce: string, timestamp: bigint, now: number): Verdict => {
  switch (nonces.remember(nonce, Number(timestamp), now)) {
    case "fresh":
      return accepted
    case "seen":
      return refused("replay", "the request was made before")
    case "full":
      return { _tag: "Refused", code: "busy", reason: "too many requests are remembered" }
  }
}
