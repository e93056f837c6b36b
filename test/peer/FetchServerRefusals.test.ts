/** What the server refuses, with which code, and what it tells of it. */
import { assert, describe, it, vi } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import type * as Messages from "../../src/peer/protocol/Messages.ts"
import { startServer } from "./support/nodes.ts"
import { boundRequest, isSigned, nowSeconds, requestFor } from "./support/requests.ts"
import { ask, bytes, empty, entry, files, server } from "./support/served.ts"

const refusals: ReadonlyArray<
  { readonly what: string; readonly code: string; readonly request: () => Messages.FetchFile }
> = [
  { what: "a wrong MAC", code: "auth", request: () => requestFor(entry.path, { hmac: "0".repeat(64) }) },
  { what: "a MAC that is no hex", code: "auth", request: () => requestFor(entry.path, { hmac: "xyz" }) },
  { what: "no MAC", code: "auth", request: () => requestFor(entry.path, { hmac: "" }) },
  {
    what: "another secret",
    code: "auth",
    request: () => requestFor(entry.path, {}, { secret: Redacted.make("another") })
  },
  { what: "another cluster's name", code: "auth", request: () => requestFor(entry.path, {}, { clusterName: "other" }) },
  {
    what: "the MAC of another file",
    code: "auth",
    request: () => ({ ...requestFor("absent"), path: entry.path })
  },
  {
    what: "a stale timestamp",
    code: "auth",
    request: () => requestFor(entry.path, { timestamp: nowSeconds() - 302n })
  },
  {
    what: "a future timestamp",
    code: "auth",
    request: () => requestFor(entry.path, { timestamp: nowSeconds() + 302n })
  },
  {
    what: "the last timestamp there is",
    code: "auth",
    request: () => requestFor(entry.path, { timestamp: 2n ** 63n - 1n })
  },
  { what: "a short nonce", code: "auth", request: () => requestFor(entry.path, { nonce: "ab" }) },
  { what: "an upper-case nonce", code: "auth", request: () => requestFor(entry.path, { nonce: "A".repeat(64) }) },
  ...["", "/etc/passwd", "../a", "a/../b", "a//b", "a/", "./a", "a\\b", "C:/a", "a\0b"].map((path) => ({
    what: `the path ${JSON.stringify(path)}`,
    code: "invalid_path",
    request: () => requestFor(path)
  })),
  { what: "a path off the manifest", code: "manifest", request: () => requestFor("db/m/nowhere.parquet") },
  { what: "a path that no manifest takes", code: "manifest", request: () => requestFor("x".repeat(5000)) },
  { what: "a file that is not verified here", code: "not_found", request: () => requestFor("absent") },
  { what: "a file that is here with other bytes", code: "not_found", request: () => requestFor("other") },
  { what: "a file that has left the disk", code: "not_found", request: () => requestFor("vanished") },
  { what: "a file that the disk refuses", code: "backend", request: () => requestFor("broken") },
  { what: "a file of which the inventory can't tell", code: "backend", request: () => requestFor("unknown") },
  ...[-1n, 1000n, 1001n, 2n ** 63n - 1n, -(2n ** 63n)].map((byte_offset) => ({
    what: `the offset ${byte_offset}`,
    code: "bad_offset",
    request: () => requestFor(entry.path, { byte_offset })
  })),
  ...[[0n, 1001n], [1n, 1000n], [0n, -1n], [999n, 2n], [0n, 2n ** 63n - 1n], [1000n, 0n]].map((
    [byte_offset = 0n, byte_length = 0n]
  ) => ({
    what: `${byte_length} bytes from ${byte_offset} on`,
    code: "bad_offset",
    request: () => boundRequest(entry.path, { byte_offset, byte_length })
  })),
  {
    what: "a length that no MAC binds",
    code: "auth",
    request: () => requestFor(entry.path, { byte_length: 10n })
  },
  {
    what: "another length than was signed",
    code: "auth",
    request: () => ({ ...boundRequest(entry.path, { byte_length: 10n }), byte_length: 11n })
  },
  {
    what: "another offset than was signed",
    code: "auth",
    request: () => ({ ...boundRequest(entry.path, { byte_offset: 1n }), byte_offset: 2n })
  },
  {
    what: "the MAC of another request's range",
    code: "auth",
    request: () => ({ ...requestFor(entry.path), range_hmac: boundRequest(entry.path).range_hmac })
  },
  { what: "offset 1 of an empty file", code: "bad_offset", request: () => requestFor(empty.path, { byte_offset: 1n }) },
  // Two faults each: the earlier check answers.
  { what: "a wrong MAC for a bad path", code: "auth", request: () => requestFor("../a", { hmac: "0".repeat(64) }) },
  { what: "a stale timestamp for a bad path", code: "auth", request: () => requestFor("../a", { timestamp: 1n }) },
  { what: "a short nonce for a bad path", code: "auth", request: () => requestFor("../a", { nonce: "ab" }) },
  {
    what: "a wrong MAC for a path off the manifest",
    code: "auth",
    request: () => requestFor("nowhere", { hmac: "0".repeat(64) })
  },
  {
    what: "a bad path and a bad offset",
    code: "invalid_path",
    request: () => requestFor("../a", { byte_offset: -1n })
  },
  {
    what: "a bad offset off the manifest",
    code: "manifest",
    request: () => requestFor("nowhere", { byte_offset: -1n })
  },
  {
    what: "a bad offset of a file that is not verified here",
    code: "not_found",
    request: () => requestFor("absent", { byte_offset: 10n })
  }
]

// Most faults here show as waiting for ever.
vi.setConfig({ testTimeout: 10_000 })

describe("FetchServer", () => {
  for (const { code, request, what } of refusals) {
    it.live(`answers ${what} with ${code}, repeats nothing, and goes on`, () =>
      Effect.gen(function*() {
        const peer = yield* server
        const bad = request()
        const { ack, body } = yield* ask(peer, bad)
        assert.deepInclude(ack, { status: "error", code, size_bytes: 0n, sha256: "", byte_offset: 0n })
        assert.strictEqual(body.length, 0)
        if (code === "auth") assert.strictEqual(ack.error, "authentication failed")
        if (bad.path.length > 3) assert.notInclude(ack.error, bad.path)
        if (bad.nonce.length === 64 && bad.nonce !== "A".repeat(64)) assert.isTrue(isSigned(bad, ack))
        const good = yield* ask(peer, requestFor(entry.path))
        assert.isTrue(good.body.equals(bytes))
      }))
  }

  it.live("accepts a timestamp up to 299 s from its clock, either way", () =>
    Effect.gen(function*() {
      const peer = yield* server
      for (const skew of [-299n, 299n]) {
        const { ack } = yield* ask(peer, requestFor(entry.path, { timestamp: nowSeconds() + skew }))
        assert.strictEqual(ack.status, "ok")
      }
    }))

  it.live("tells its own log, and only that, why it refused: by how much a clock is off", () =>
    Effect.gen(function*() {
      const logs: Array<string> = []
      const peer = yield* startServer({ files }, {}, logs)
      const { ack } = yield* ask(peer, requestFor(entry.path, { timestamp: nowSeconds() - 4000n }))
      assert.strictEqual(ack.error, "authentication failed")
      assert.match(logs.join("\n"), /\(auth\): the timestamp is -400\d s from this node's clock/)
    }))

  it.live("accepts a MAC in upper case", () =>
    Effect.gen(function*() {
      const request = requestFor(entry.path)
      const { ack } = yield* ask(yield* server, { ...request, hmac: request.hmac.toUpperCase() })
      assert.strictEqual(ack.status, "ok")
    }))

  it.live("refuses a request that was made before", () =>
    Effect.gen(function*() {
      const peer = yield* server
      const request = requestFor(entry.path)
      assert.strictEqual((yield* ask(peer, request)).ack.status, "ok")
      assert.deepInclude((yield* ask(peer, request)).ack, { status: "error", code: "auth" })
      // Its nonce counts although the path was refused, and before the path is looked at.
      const bad = requestFor("../a")
      assert.strictEqual((yield* ask(peer, bad)).ack.code, "invalid_path")
      assert.strictEqual((yield* ask(peer, bad)).ack.code, "auth")
    }))
})
