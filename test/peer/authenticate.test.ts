import { assert, describe, it } from "@effect/vitest"
import { authenticateFetch, configuredSecrets, type Credentials } from "../../src/peer/authenticate.ts"
import * as NonceCache from "../../src/peer/protocol/NonceCache.ts"
import { clusterName, secret } from "./support/nodes.ts"
import { requestFor } from "./support/requests.ts"

const credentials: Credentials = { clusterName, secrets: configuredSecrets(secret, undefined) }
const now = 1_800_000_000
const nonces = (limit = 10) => NonceCache.make({ windowSeconds: 300, limit })
const at = (skew: number) => requestFor("a", { timestamp: BigInt(now + skew) })

describe("authenticateFetch", () => {
  it("accepts a clock that is 300 s off and none that is 301 s off, and tells our log by how much", () => {
    for (const skew of [-300, -299, 0, 299, 300]) {
      assert.strictEqual(authenticateFetch(credentials, nonces(), now, at(skew))._tag, "Accepted", `${skew}`)
    }
    for (const skew of [-301, 301]) {
      assert.deepStrictEqual(authenticateFetch(credentials, nonces(), now, at(skew)), {
        _tag: "Refused",
        code: "auth",
        cause: "clock",
        reason: `the timestamp is ${skew} s from this node's clock`
      })
    }
  })

  it("remembers no nonce of a request that it refuses", () => {
    const cache = nonces()
    authenticateFetch(credentials, cache, now, at(301))
    authenticateFetch(credentials, cache, now, { ...at(0), hmac: "" })
    assert.strictEqual(cache.size(), 0)
  })

  it("answers busy, never auth, when it can remember no more", () => {
    const cache = nonces(1)
    assert.strictEqual(authenticateFetch(credentials, cache, now, at(0))._tag, "Accepted")
    const verdict = authenticateFetch(credentials, cache, now, at(0))
    assert.deepInclude(verdict, { _tag: "Refused", code: "busy" })
  })
})
