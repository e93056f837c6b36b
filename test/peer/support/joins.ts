/** Heartbeats and leaves as peers send them; our nodes only read them. */
import { Option, Result, Schema } from "effect"
import * as Frame from "../../../src/peer/protocol/Frame.ts"
import * as Mac from "../../../src/peer/protocol/Mac.ts"
import type * as Messages from "../../../src/peer/protocol/Messages.ts"
import * as ExactJson from "../../../src/ports/ExactJson.ts"
import { clusterName, secret } from "./nodes.ts"
import { nowSeconds } from "./requests.ts"

const frame = (type: number, message: object) =>
  Result.getOrThrow(Frame.encode(type, Buffer.from(ExactJson.stringify(message), "utf8")))

const authOf = (message: Messages.Heartbeat | Messages.LeaveNotify) =>
  message.auth_nonce === "" ? {} : {
    auth_nonce: message.auth_nonce,
    auth_timestamp: message.auth_timestamp,
    auth_hmac: message.auth_hmac
  }

export const heartbeatFrame = (message: Messages.Heartbeat): Uint8Array =>
  frame(Frame.messageType.heartbeat, {
    node_id: message.node_id,
    state: message.state,
    is_leader: message.is_leader,
    timestamp: message.timestamp,
    ...authOf(message)
  })

export const leaveFrame = (message: Messages.LeaveNotify): Uint8Array =>
  frame(Frame.messageType.leaveNotify, { node_id: message.node_id, reason: message.reason, ...authOf(message) })

/** What a node signs of itself, with the label of another message when `signedAs` says so. */
export const signedJoin = (
  label: "heartbeat" | "leave",
  id: string,
  nonce: string,
  signedAs: "heartbeat" | "leave" = label
) => {
  const timestamp = nowSeconds()
  const mac = Mac.joinMac(secret, { label: signedAs, nonce, nodeId: id, clusterName, timestamp })
  return { node_id: id, auth_nonce: nonce, auth_timestamp: timestamp, auth_hmac: Mac.toHex(mac) }
}

/** A healthy node's heartbeat. */
export const heartbeatOf = (fields: ReturnType<typeof signedJoin>): Uint8Array =>
  heartbeatFrame({ state: "healthy", is_leader: false, timestamp: "2026-01-01T12:00:00Z", ...fields })

const HeartbeatAck = Schema.fromJsonString(Schema.Struct({ node_id: Schema.String, timestamp: Schema.String }))

/** Reads the answer to a heartbeat. */
export const heartbeatAckOf = (answer: Option.Option<Frame.Frame>): Messages.HeartbeatAck => {
  const { payload, type } = Option.getOrThrow(answer)
  if (type !== Frame.messageType.heartbeatAck) throw new Error(`a frame of type ${type} is no answer to a heartbeat`)
  return Schema.decodeSync(HeartbeatAck)(Buffer.from(payload).toString())
}
