/** The frames and MACs that the wire-compatible system computed, decoded. */
import { Schema } from "effect"
import { readFileSync } from "node:fs"

const Vectors = Schema.Struct({
  ack_frames: Schema.Array(Schema.Struct({
    name: Schema.String,
    frame_hex: Schema.String,
    fields: Schema.Struct({
      status: Schema.String,
      code: Schema.String,
      error: Schema.String,
      sha256: Schema.String,
      size_bytes: Schema.String,
      byte_offset: Schema.String
    })
  })),
  fetch_hmac: Schema.Array(Schema.Struct({
    name: Schema.String,
    secret: Schema.String,
    nonce: Schema.String,
    node_id: Schema.String,
    cluster: Schema.String,
    path: Schema.String,
    timestamp_str: Schema.String,
    hmac: Schema.String
  })),
  fetch_request_frames: Schema.Array(Schema.Union([
    Schema.Struct({
      name: Schema.String,
      frame_hex: Schema.String,
      path: Schema.String,
      node_id: Schema.String,
      nonce: Schema.String,
      timestamp: Schema.Int,
      hmac: Schema.String,
      byte_offset_str: Schema.String
    }),
    Schema.Struct({
      name: Schema.String,
      frame_head_hex: Schema.String,
      frame_len: Schema.Int,
      path_len: Schema.Int,
      length_field: Schema.Int
    })
  ])),
  join_family_hmac: Schema.Array(Schema.Struct({
    name: Schema.String,
    msg_type: Schema.Literals(["heartbeat", "leave"]),
    secret: Schema.String,
    nonce: Schema.String,
    node_id: Schema.String,
    cluster: Schema.String,
    timestamp: Schema.Int,
    hmac: Schema.String
  })),
  path_rules: Schema.Array(Schema.Struct({
    path: Schema.String,
    sanitize_fetch_error: Schema.NullOr(Schema.String),
    validate_manifest_error: Schema.NullOr(Schema.String)
  })),
  other_frames: Schema.Array(Schema.Struct({ name: Schema.String, type: Schema.Int, frame_hex: Schema.String })),
  decoder: Schema.Array(Schema.Struct({
    name: Schema.String,
    frame_hex: Schema.String,
    error: Schema.optionalKey(Schema.String),
    decoded: Schema.optionalKey(Schema.String)
  }))
})

export const vectors = Schema.decodeUnknownSync(Vectors)(
  JSON.parse(readFileSync(new URL("../../support/arc-wire.json", import.meta.url), "utf8"))
)
