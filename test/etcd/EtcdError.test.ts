import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Etcd from "../../src/etcd/EtcdClient.ts"

it.live("an etcd that can't be reached is told of in a sentence that has an end", () =>
  Effect.gen(function*() {
    // Nobody listens there.
    const client = yield* Etcd.make({ endpoints: ["http://127.0.0.1:1"], deadline: "5 seconds", patience: "1 millis" })
    const { message } = yield* Effect.flip(client.put({ key: "a", value: "" }))
    assert.match(message, /^etcd at .*127\.0\.0\.1:1: .*No connection established\. Last error: .*[^ :]$/)
  }), 20_000)
