/** A server with a file for each thing that can be wrong with one, and how it is asked. */
import { Effect } from "effect"
import type * as Messages from "../../../src/peer/protocol/Messages.ts"
import type { Peer } from "../../../src/ports/PeerResolver.ts"
import { allBytes, entryOf, type TestFile } from "./doubles.ts"
import { rawClient, startServer } from "./nodes.ts"
import { requestFrame, takeAck } from "./requests.ts"

/** A file that can be had, of the bytes {@link bytes}. */
export const entry = entryOf("db/m/a.parquet", 1000)
export const empty = entryOf("db/m/empty.parquet", 0)
export const bytes = allBytes(1000)

/** What the server has, and what is wrong with it. */
export const files: ReadonlyArray<TestFile> = [
  { entry },
  { entry: empty },
  { entry: entryOf("absent", 10), state: "absent" },
  { entry: entryOf("other", 10), state: "otherBytes" },
  { entry: entryOf("unknown", 10), state: "unknown" },
  { entry: entryOf("broken", 10), state: "broken" },
  { entry: entryOf("vanished", 10), state: "vanished" },
  { entry: entryOf("short", 10), state: "short" },
  { entry: entryOf("defect", 10), state: "defect" }
]
export const server = startServer({ files })

/** Asks on a connection of its own. */
export const ask = Effect.fnUntraced(function*(peer: Peer, request: Messages.FetchFile) {
  const client = yield* rawClient(peer)
  yield* client.send(requestFrame(request))
  const ack = yield* takeAck(client)
  return { ack, body: yield* client.all }
}, Effect.scoped)
