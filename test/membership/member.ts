/** A process that is a member: `member.ts DATABASE ID`. Prints `announced`; ends when its standard input closes. */
import { Effect } from "effect"
import { once } from "node:events"
import * as MembershipSqlite from "../../src/membership/MembershipSqlite.ts"
import { NodeId } from "../../src/ports/FileEntry.ts"
import { Membership } from "../../src/ports/Membership.ts"

const [path = "", id = ""] = process.argv.slice(2)
const self = { id: NodeId.make(id), role: "writer" } as const

await Effect.runPromise(
  Effect.gen(function*() {
    const membership = yield* Membership
    yield* membership.announce({ host: "127.0.0.1", port: 1 })
    yield* Effect.sync(() => process.stdout.write("announced\n"))
    process.stdin.resume()
    yield* Effect.promise(() => once(process.stdin, "end"))
  }).pipe(Effect.provide(MembershipSqlite.layer({ path, self, version: "1", ttlMillis: 3_600_000 })))
)
