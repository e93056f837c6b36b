import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import * as MembershipStatic from "../../src/membership/MembershipStatic.ts"
import { Membership } from "../../src/ports/Membership.ts"
import { find, other, self, suite } from "../../src/testing/membership/suite.ts"

const open = (peers: MembershipStatic.Options["peers"]) =>
  Effect.map(Layer.build(MembershipStatic.layer({ self, peers })), (context) => Context.get(context, Membership))

suite(
  "static, with an entry for itself",
  ({ other, self }) =>
    MembershipStatic.layer({ self, peers: [other, { ...self, address: { host: "10.0.0.1", port: 1 } }] })
)

describe("MembershipStatic", () => {
  it.effect("refuses a list that names one id twice, and names the id", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(open([other, { ...other, address: { host: "10.0.0.3", port: 1 } }]))
      assert.include(error.message, "node-2 twice")
    }))

  it.effect("keeps a member that says it leaves: the list is fixed", () =>
    Effect.gen(function*() {
      const membership = yield* open([other])
      yield* membership.departed(other.id)
      assert.isTrue(find(yield* membership.members, other.id).alive)
    }))
})
