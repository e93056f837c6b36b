/** Requests and answers as raw bytes, for tests that speak the protocol by hand. */
import { Effect, Option, type Redacted, Result } from "effect"
import { randomBytes } from "node:crypto"
import * as Frame from "../../../src/peer/protocol/Frame.ts"
import * as Mac from "../../../src/peer/protocol/Mac.ts"
import * as Messages from "../../../src/peer/protocol/Messages.ts"
import type { FileEntry } from "../../../src/ports/FileEntry.ts"
import { clusterName, type RawClient, secret } from "./nodes.ts"

export const nowSeconds = (): bigint => BigInt(Math.floor(performance.timeOrigin / 1000 + performance.now() / 1000))

/** A request that is right but for what the test overrides; it is signed afterwards, with what `signedWith` says. */
export const requestFor = (
  path: string,
  overrides: Partial<Messages.FetchFile> = {},
  signedWith: { readonly secret?: Redacted.Redacted<string>; readonly clusterName?: string } = {}
): Messages.FetchFile => {
  const request: Messages.FetchFile = {
    path,
    node_id: "node-b",
    nonce: randomBytes(32).toString("hex"),
    timestamp: nowSeconds(),
    hmac: "",
    byte_offset: 0n,
    keep_alive: false,
    byte_length: 0n,
    range_hmac: "",
    can_wait: false,
    not_at: [],
    ...overrides
  }
  const mac = Mac.fetchMac(signedWith.secret ?? secret, macFields(request, signedWith.clusterName))
  return { ...request, hmac: overrides.hmac ?? Mac.toHex(mac) }
}

const macFields = (request: Messages.FetchFile, name = clusterName): Mac.FetchFields => ({
  nonce: request.nonce,
  nodeId: request.node_id,
  clusterName: name,
  path: request.path,
  timestamp: request.timestamp
})

/** The same with its offset and length bound by a MAC of their own. */
export const boundRequest = (path: string, overrides: Partial<Messages.FetchFile> = {}): Messages.FetchFile => {
  const request = requestFor(path, overrides)
  const { byte_length: length, byte_offset: offset } = request
  return { ...request, range_hmac: Mac.toHex(Mac.rangeMac(secret, { ...macFields(request), offset, length })) }
}

export const requestFrame = (request: Messages.FetchFile): Uint8Array =>
  Result.getOrThrow(Messages.encodeFetchFile(request))

export const frame = (type: number, json: string): Uint8Array =>
  Result.getOrThrow(Frame.encode(type, Buffer.from(json, "utf8")))

export const ackFrame = (ack: Partial<Messages.FetchFileAck>): Uint8Array =>
  Result.getOrThrow(Messages.encodeFetchFileAck({ ...Messages.emptyFetchFileAck, status: "ok", ...ack }))

/** The next frame that the server sends; `none` when it closes instead. */
export const takeFrame = (client: RawClient): Effect.Effect<Option.Option<Frame.Frame>> =>
  Effect.gen(function*() {
    const head = yield* client.take(4)
    if (head.length < 4) return Option.none()
    const body = yield* client.take(head.readUInt32BE(0))
    return Option.some({ type: body.readUInt8(0), payload: body.subarray(1) })
  })

/** The next answer that the server sends. */
export const takeAck = (client: RawClient): Effect.Effect<Messages.FetchFileAck> =>
  Effect.map(
    takeFrame(client),
    (frame) => Result.getOrThrow(Messages.decodeFetchFileAck(Option.getOrThrow(frame).payload))
  )

/** Whether an answer carries a right signature. */
export const isSigned = (request: Messages.FetchFile, ack: Messages.FetchFileAck): boolean =>
  ack.server_node_id === "node-a" && Mac.matches(
    Mac.ackMac(secret, {
      nonce: request.nonce,
      serverNodeId: ack.server_node_id,
      status: ack.status,
      code: ack.code,
      sizeBytes: ack.size_bytes,
      sha256: ack.sha256,
      byteOffset: ack.byte_offset
    }),
    ack.ack_hmac
  )

// ---------------------------------------------------------------------------------------------------------------------
// Bundles
// ---------------------------------------------------------------------------------------------------------------------

/** A right request for a bundle of these files, but for what the test overrides; signed afterwards. */
export const bundleFor = (
  files: ReadonlyArray<FileEntry>,
  overrides: Partial<Messages.FetchBundle> = {}
): Messages.FetchBundle => {
  const request: Messages.FetchBundle = {
    paths: files.map(({ path }) => path),
    sha256: files.map(({ sha256 }) => sha256),
    node_id: "node-b",
    nonce: randomBytes(32).toString("hex"),
    timestamp: nowSeconds(),
    hmac: "",
    ...overrides
  }
  const { node_id: nodeId, nonce, paths, sha256, timestamp } = request
  const mac = Mac.bundleMac(secret, { nonce, nodeId, clusterName, timestamp, paths, sha256 })
  return { ...request, hmac: overrides.hmac ?? Mac.toHex(mac) }
}

export const bundleFrame = (request: Messages.FetchBundle): Uint8Array =>
  Result.getOrThrow(Messages.encodeFetchBundle(request))

/** A right answer to a request for a bundle, but for what the test overrides. */
export const bundleAckFor = (
  { nonce }: Messages.FetchBundle,
  sizes: ReadonlyArray<number>,
  overrides: Partial<Messages.FetchBundleAck> = {}
): Uint8Array => {
  const server_node_id = overrides.server_node_id ?? "node-a"
  const hmac = Mac.toHex(Mac.bundleAckMac(secret, { nonce, serverNodeId: server_node_id, sizes }))
  return Result.getOrThrow(Messages.encodeFetchBundleAck({ sizes, hmac, server_node_id, ...overrides }))
}
