/**
 * The message authentication codes of the fetch protocol: HMAC-SHA256 over fields joined by NUL bytes.
 *
 * A path is inside its MAC, so a request for one file can't be turned into one for another. The cluster's name is in
 * it and never sent. Each family has a label or a shape of its own, so that none can be replayed as another.
 */
import { Redacted } from "effect"
import { createHmac, timingSafeEqual } from "node:crypto"

const sign = (secret: Redacted.Redacted<string>, fields: ReadonlyArray<string>): Uint8Array =>
  createHmac("sha256", Redacted.value(secret)).update(fields.join("\0"), "utf8").digest()

/** What the MAC of a fetch request covers. */
export interface FetchFields {
  readonly nonce: string
  readonly nodeId: string
  readonly clusterName: string
  readonly path: string
  /** Seconds since 1970. */
  readonly timestamp: bigint
}

export const fetchMac = (secret: Redacted.Redacted<string>, fields: FetchFields): Uint8Array =>
  sign(secret, [fields.nonce, fields.nodeId, fields.clusterName, fields.path, fields.timestamp.toString()])

/** What the second MAC of a fetch request covers, which binds the part of the file that is asked for. */
export interface RangeFields extends FetchFields {
  readonly offset: bigint
  /** 0: to the end. */
  readonly length: bigint
}

export const rangeMac = (secret: Redacted.Redacted<string>, fields: RangeFields): Uint8Array =>
  sign(secret, [
    "fetch-range",
    fields.nonce,
    fields.nodeId,
    fields.clusterName,
    fields.path,
    fields.timestamp.toString(),
    fields.offset.toString(),
    fields.length.toString()
  ])

/** What the MAC of a heartbeat or of a leave covers. */
export interface JoinFields {
  readonly label: "heartbeat" | "leave"
  readonly nonce: string
  readonly nodeId: string
  readonly clusterName: string
  /** Seconds since 1970. */
  readonly timestamp: bigint
}

export const joinMac = (secret: Redacted.Redacted<string>, fields: JoinFields): Uint8Array =>
  sign(secret, [fields.label, fields.nonce, fields.nodeId, fields.clusterName, fields.timestamp.toString()])

/** What the MAC of an answer covers. */
export interface AckFields {
  /** The request's. */
  readonly nonce: string
  /** Who answers. */
  readonly serverNodeId: string
  readonly status: string
  readonly code: string
  readonly sizeBytes: bigint
  readonly sha256: string
  readonly byteOffset: bigint
}

export const ackMac = (secret: Redacted.Redacted<string>, fields: AckFields): Uint8Array =>
  sign(secret, [
    "fetch-ack",
    fields.nonce,
    fields.serverNodeId,
    fields.status,
    fields.code,
    fields.sizeBytes.toString(),
    fields.sha256,
    fields.byteOffset.toString()
  ])

/** What the MAC of a request for a bundle covers. */
export interface BundleFields extends Omit<FetchFields, "path"> {
  readonly paths: ReadonlyArray<string>
  readonly sha256: ReadonlyArray<string>
}

export const bundleMac = (secret: Redacted.Redacted<string>, fields: BundleFields): Uint8Array =>
  sign(secret, [
    "fetch-bundle",
    fields.nonce,
    fields.nodeId,
    fields.clusterName,
    fields.timestamp.toString(),
    // Where one list ends and the other begins.
    fields.paths.length.toString(),
    ...fields.paths,
    ...fields.sha256
  ])

/** What the MAC of the answer to it covers. */
export interface BundleAckFields {
  /** The request's. */
  readonly nonce: string
  /** Who answers. */
  readonly serverNodeId: string
  readonly sizes: ReadonlyArray<number>
}

export const bundleAckMac = (secret: Redacted.Redacted<string>, fields: BundleAckFields): Uint8Array =>
  sign(secret, ["fetch-bundle-ack", fields.nonce, fields.serverNodeId, ...fields.sizes.map(String)])

/** A MAC as it is sent: lower-case hex. */
export const toHex = (mac: Uint8Array): string => Buffer.from(mac).toString("hex")

/**
 * Whether `hex`, in either case, is this MAC. Takes the same time wherever they differ; false for anything that is not
 * 64 hex digits.
 */
export const matches = (mac: Uint8Array, hex: string): boolean =>
  /^[0-9a-fA-F]{64}$/.test(hex) && timingSafeEqual(mac, Buffer.from(hex, "hex"))
