import { assert, describe, it } from "@effect/vitest"
import { Option, Result, Schema } from "effect"
import * as Frame from "../../../src/peer/protocol/Frame.ts"
import * as Messages from "../../../src/peer/protocol/Messages.ts"
import { heartbeatFrame, leaveFrame } from "../support/joins.ts"
import { vectors } from "../support/vectors.ts"

const hex = (text: string) => Buffer.from(text, "hex")
const payload = (text: string) => Buffer.from(text, "utf8")

const frameOf = (bytes: Uint8Array): Frame.Frame =>
  Option.getOrThrow(Result.getOrThrow(Frame.makeDecoder(Frame.maxLength).push(bytes))).frame

const plainRequest: Messages.FetchFile = {
  path: "",
  node_id: "",
  nonce: "",
  timestamp: 0n,
  hmac: "",
  byte_offset: 0n,
  keep_alive: false,
  byte_length: 0n,
  range_hmac: "",
  can_wait: false,
  not_at: []
}

const ackFrom = (text: string) => Messages.decodeFetchFileAck(payload(text))
const reasonOf = (result: Result.Result<unknown, Messages.NotAMessage>) =>
  Result.isFailure(result) ? result.failure.reason : "none"

/** A frame's payload, read and written again; `undefined` when it can't be read. */
const rewritten = (bytes: Uint8Array): string | undefined => {
  const pushed = Frame.makeDecoder(Frame.maxLength).push(bytes)
  if (Result.isFailure(pushed) || Option.isNone(pushed.success)) return undefined
  const { payload, type } = pushed.success.value.frame
  const written = type === Frame.messageType.fetchFile
    ? Result.flatMap(Messages.decodeFetchFile(payload), Messages.encodeFetchFile)
    : type === Frame.messageType.fetchFileAck
    ? Result.flatMap(Messages.decodeFetchFileAck(payload), Messages.encodeFetchFileAck)
    : undefined
  return written === undefined || Result.isFailure(written)
    ? undefined
    : Buffer.from(frameOf(written.success).payload).toString()
}

describe("Messages, against the vectors", () => {
  for (const vector of vectors.ack_frames) {
    it(`reads and writes the answer ${vector.name} byte for byte`, () => {
      const { byte_offset, size_bytes, ...texts } = vector.fields
      const message = {
        ...Messages.emptyFetchFileAck,
        ...texts,
        size_bytes: BigInt(size_bytes),
        byte_offset: BigInt(byte_offset)
      }
      const frame = frameOf(hex(vector.frame_hex))
      assert.strictEqual(frame.type, Frame.messageType.fetchFileAck)
      assert.deepStrictEqual(Result.getOrThrow(Messages.decodeFetchFileAck(frame.payload)), message)
      const written = Result.getOrThrow(Messages.encodeFetchFileAck(message))
      assert.strictEqual(Buffer.from(written).toString("hex"), vector.frame_hex)
    })
  }

  for (const vector of vectors.fetch_request_frames) {
    it(`reads and writes the request ${vector.name} byte for byte`, () => {
      if ("frame_head_hex" in vector) {
        const path = "x".repeat(vector.path_len)
        const written = Result.getOrThrow(Messages.encodeFetchFile({ ...plainRequest, path }))
        assert.strictEqual(written.length, vector.frame_len)
        assert.isTrue(Buffer.from(written).toString("hex").startsWith(vector.frame_head_hex))
        assert.strictEqual(Result.getOrThrow(Messages.decodeFetchFile(frameOf(written).payload)).path, path)
        return
      }
      const { byte_offset_str, hmac, node_id, nonce, path, timestamp } = vector
      const message: Messages.FetchFile = {
        ...plainRequest,
        path,
        node_id,
        nonce,
        hmac,
        timestamp: BigInt(timestamp),
        byte_offset: BigInt(byte_offset_str)
      }
      const frame = frameOf(hex(vector.frame_hex))
      assert.strictEqual(frame.type, Frame.messageType.fetchFile)
      assert.deepStrictEqual(Result.getOrThrow(Messages.decodeFetchFile(frame.payload)), message)
      const written = Result.getOrThrow(Messages.encodeFetchFile(message))
      assert.strictEqual(Buffer.from(written).toString("hex"), vector.frame_hex)
    })
  }

  for (const vector of vectors.other_frames) {
    it(`reads every field of ${vector.name}`, () => {
      const frame = frameOf(hex(vector.frame_hex))
      assert.strictEqual(frame.type, vector.type)
      const written = frame.type === Frame.messageType.heartbeat
        ? heartbeatFrame(Result.getOrThrow(Messages.decodeHeartbeat(frame.payload)))
        : leaveFrame(Result.getOrThrow(Messages.decodeLeaveNotify(frame.payload)))
      assert.strictEqual(Buffer.from(written).toString("hex"), vector.frame_hex)
    })
  }

  for (const vector of vectors.decoder) {
    it(`${vector.error === undefined ? "accepts" : "refuses"} ${vector.name}`, () => {
      assert.strictEqual(rewritten(hex(vector.frame_hex)), vector.decoded)
    })
  }
})

describe("Messages", () => {
  it("takes a key in any case, and the last of several", () => {
    const ack = Result.getOrThrow(
      ackFrom(`{"status":"error","STATUS":"ok","\u017fHA256":"x","size_bytes":1,"Size_Bytes":2}`)
    )
    assert.deepStrictEqual(ack, { ...Messages.emptyFetchFileAck, status: "ok", sha256: "x", size_bytes: 2n })
  })

  it("takes null and an absent field for the zero value, and ignores unknown fields", () => {
    assert.deepStrictEqual(Result.getOrThrow(ackFrom("null")), Messages.emptyFetchFileAck)
    assert.deepStrictEqual(
      Result.getOrThrow(ackFrom(`{"status":null,"keep_alive":null,"__proto__":{"code":"x"}}`)),
      Messages.emptyFetchFileAck
    )
  })

  it("keeps all 64 bits of an integer and refuses one more", () => {
    const size = (literal: string) => Result.map(ackFrom(`{"size_bytes":${literal}}`), (ack) => ack.size_bytes)
    assert.deepStrictEqual(size("9223372036854775807"), Result.succeed(9223372036854775807n))
    assert.deepStrictEqual(size("-9223372036854775808"), Result.succeed(-9223372036854775808n))
    assert.deepStrictEqual(size("9007199254740993"), Result.succeed(9007199254740993n))
    for (const literal of ["9223372036854775808", "-9223372036854775809", "5.0", "5e0", `"5"`, "true", "[5]", "{}"]) {
      assert.strictEqual(reasonOf(size(literal)), "a field has a wrong type", literal)
    }
  })

  it("refuses bytes that are not UTF-8, a byte order mark, and what is no object", () => {
    assert.strictEqual(
      reasonOf(Messages.decodeFetchFileAck(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]))),
      "it is not valid UTF-8"
    )
    assert.strictEqual(reasonOf(ackFrom("\ufeff{}")), "it is not JSON")
    assert.strictEqual(reasonOf(ackFrom("")), "it is not JSON")
    assert.strictEqual(reasonOf(ackFrom(`{"status":"ok"} x`)), "it is not JSON")
    for (const text of ["[]", "5", `"ok"`, "true"]) assert.strictEqual(reasonOf(ackFrom(text)), "it is not an object")
  })

  it("refuses or leaves out nesting that is deeper than the stack instead of falling over it", () => {
    const nested = (inner: string) => ackFrom(`{"x":${"[".repeat(500_000)}${inner}${"]".repeat(500_000)}}`)
    assert.strictEqual(reasonOf(nested("")), "none")
    assert.strictEqual(reasonOf(nested("1.5")), "it is not JSON")
  })

  it("reads a lone surrogate as U+FFFD, as the other system does", () => {
    assert.strictEqual(Result.getOrThrow(ackFrom(`{"error":"a\\ud800b"}`)).error, "a\ufffdb")
  })

  it("writes a lone surrogate as U+FFFD, in whichever field it is", () => {
    const written = Result.getOrThrow(
      Messages.encodeFetchFile({ ...plainRequest, path: "a\ud800b", node_id: "\udc00" })
    )
    assert.deepInclude(Result.getOrThrow(Messages.decodeFetchFile(frameOf(written).payload)), {
      path: "a\ufffdb",
      node_id: "\ufffd"
    })
    assert.include(Buffer.from(written).toString(), "a\ufffdb")
  })

  it("says nothing of the payload in its failures", () => {
    const failure = Result.getOrThrow(Result.flip(ackFrom(`{"secret-text":`)))
    assert.notInclude(failure.message, "secret-text")
  })

  it.prop("reads what it writes", [Schema.String, Schema.String, Schema.Int, Schema.Int, Schema.Boolean], ([
    path,
    node,
    timestamp,
    offset,
    keepAlive
  ]) => {
    const message: Messages.FetchFile = {
      path: path.toWellFormed(),
      node_id: node.toWellFormed(),
      nonce: "",
      timestamp: BigInt(timestamp),
      hmac: "",
      byte_offset: BigInt(offset),
      keep_alive: keepAlive,
      byte_length: BigInt(timestamp),
      range_hmac: path.toWellFormed(),
      can_wait: keepAlive,
      not_at: [path.toWellFormed()]
    }
    const written = Result.getOrThrow(Messages.encodeFetchFile(message))
    assert.deepStrictEqual(Result.getOrThrow(Messages.decodeFetchFile(frameOf(written).payload)), message)
  })

  it("writes the extensions behind the fields that every peer knows", () => {
    const written = Result.getOrThrow(Messages.encodeFetchFileAck({
      ...Messages.emptyFetchFileAck,
      status: "error",
      code: "busy",
      error: "busy",
      ack_hmac: "ab",
      server_node_id: "n",
      retry_after_ms: 7n,
      keep_alive: true
    }))
    assert.strictEqual(
      Buffer.from(frameOf(written).payload).toString(),
      `{"status":"error","code":"busy","error":"busy","size_bytes":0,"sha256":"","keep_alive":true,"ack_hmac":"ab",`
        + `"server_node_id":"n","retry_after_ms":7}`
    )
    const request = { ...plainRequest, can_wait: true, not_at: ["n"] }
    assert.strictEqual(
      Buffer.from(frameOf(Result.getOrThrow(Messages.encodeFetchFile(request))).payload).toString(),
      `{"path":"","node_id":"","nonce":"","timestamp":0,"hmac":"","can_wait":true,"not_at":["n"]}`
    )
  })

  it("reads and writes lists of names", () => {
    const message = { ...Messages.emptyFetchFileAck, status: "error", code: "crowded", holders: ["a", "b\u00e9"] }
    const written = frameOf(Result.getOrThrow(Messages.encodeFetchFileAck(message))).payload
    assert.include(Buffer.from(written).toString(), `"holders":["a","b\u00e9"]`)
    assert.deepStrictEqual(Result.getOrThrow(Messages.decodeFetchFileAck(written)), message)
    assert.deepStrictEqual(Result.getOrThrow(ackFrom(`{"holders":null}`)).holders, [])
    assert.strictEqual(reasonOf(ackFrom(`{"holders":["a",1]}`)), "a field has a wrong type")
  })
})
