import { assert, describe, it } from "@effect/vitest"
import { Redacted, Schema } from "effect"
import * as Mac from "../../../src/peer/protocol/Mac.ts"
import { vectors } from "../support/vectors.ts"

const secret = Redacted.make("secret")
const Text = Schema.String.check(Schema.isPattern(/^[a-z/0-9]{0,12}$/))
const Integer = Schema.Int

describe("Mac, against the vectors", () => {
  for (const vector of vectors.fetch_hmac) {
    it(`computes the MAC of the request ${vector.name}`, () => {
      const mac = Mac.fetchMac(Redacted.make(vector.secret), {
        nonce: vector.nonce,
        nodeId: vector.node_id,
        clusterName: vector.cluster,
        path: vector.path,
        timestamp: BigInt(vector.timestamp_str)
      })
      assert.strictEqual(Mac.toHex(mac), vector.hmac)
    })
  }

  for (const vector of vectors.join_family_hmac) {
    it(`computes the MAC of ${vector.name}`, () => {
      const fields = {
        nonce: vector.nonce,
        nodeId: vector.node_id,
        clusterName: vector.cluster,
        timestamp: BigInt(vector.timestamp)
      }
      const of = (label: "heartbeat" | "leave") =>
        Mac.toHex(Mac.joinMac(Redacted.make(vector.secret), { ...fields, label }))
      assert.strictEqual(of(vector.msg_type), vector.hmac)
      assert.notStrictEqual(of(vector.msg_type === "leave" ? "heartbeat" : "leave"), vector.hmac)
    })
  }
})

describe("Mac", () => {
  it.prop(
    "of a request changes with any one of its fields",
    [Text, Text, Text, Text, Integer, Text],
    ([nonce, nodeId, clusterName, path, seconds, other]) => {
      const fields: Mac.FetchFields = { nonce, nodeId, clusterName, path, timestamp: BigInt(seconds) }
      const hex = Mac.toHex(Mac.fetchMac(secret, fields))
      for (const name of ["nonce", "nodeId", "clusterName", "path"] as const) {
        if (fields[name] === other) continue
        assert.notStrictEqual(Mac.toHex(Mac.fetchMac(secret, { ...fields, [name]: other })), hex)
      }
      assert.notStrictEqual(Mac.toHex(Mac.fetchMac(secret, { ...fields, timestamp: fields.timestamp + 1n })), hex)
      assert.notStrictEqual(Mac.toHex(Mac.fetchMac(Redacted.make(`secret${other}x`), fields)), hex)
    }
  )

  it.prop(
    "of an answer changes with any one of its fields",
    [Text, Text, Text, Integer, Integer, Text],
    ([nonce, serverNodeId, sha256, size, offset, other]) => {
      const fields: Mac.AckFields = {
        nonce,
        serverNodeId,
        sha256,
        status: "ok",
        code: "",
        sizeBytes: BigInt(size),
        byteOffset: BigInt(offset)
      }
      const hex = Mac.toHex(Mac.ackMac(secret, fields))
      for (const name of ["nonce", "serverNodeId", "sha256", "status", "code"] as const) {
        if (fields[name] === other) continue
        assert.notStrictEqual(Mac.toHex(Mac.ackMac(secret, { ...fields, [name]: other })), hex)
      }
      for (const name of ["sizeBytes", "byteOffset"] as const) {
        assert.notStrictEqual(Mac.toHex(Mac.ackMac(secret, { ...fields, [name]: fields[name] + 1n })), hex)
      }
    }
  )

  it("is accepted in either case of its hex and refused in any other form", () => {
    const mac = Mac.joinMac(secret, { label: "leave", nonce: "n", nodeId: "a", clusterName: "c", timestamp: 1n })
    const hex = Mac.toHex(mac)
    assert.isTrue(Mac.matches(mac, hex))
    assert.isTrue(Mac.matches(mac, hex.toUpperCase()))
    for (let at = 0; at < hex.length; at++) {
      const other = hex[at] === "0" ? "1" : "0"
      assert.isFalse(Mac.matches(mac, hex.slice(0, at) + other + hex.slice(at + 1)), `digit ${at}`)
    }
    for (
      const bad of ["", hex.slice(1), `${hex}00`, `${hex} `, `g${hex.slice(1)}`, `0x${hex.slice(2)}`, "0".repeat(64)]
    ) {
      assert.isFalse(Mac.matches(mac, bad), bad)
    }
  })
})
