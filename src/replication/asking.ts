/** Who is asked for which file at this moment. */
import { Effect, Option } from "effect"
import type { FetchClient } from "../ports/FetchClient.ts"
import type { NodeId } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import type { Peer } from "../ports/PeerResolver.ts"

type Client = FetchClient["Service"]

export interface Asking {
  /** The same client, watched. */
  readonly client: Client
  /** The peer that a file is asked of now; `none`: nobody. */
  readonly of: (path: FilePath) => Option.Option<NodeId>
}

export const make = (client: Client): Asking => {
  const asked = new Map<FilePath, NodeId>()
  const during = <A, E>(peer: Peer, paths: ReadonlyArray<FilePath>, fetch: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.suspend(() => {
      for (const path of paths) asked.set(path, peer.id)
      return Effect.ensuring(
        fetch,
        Effect.sync(() => {
          for (const path of paths) asked.delete(path)
        })
      )
    })
  const { together } = client
  return {
    client: {
      fetch: (peer, entry, ...rest) => during(peer, [entry.path], client.fetch(peer, entry, ...rest)),
      ...(together === undefined ? {} : {
        together: (peer) =>
          Option.map(
            together(peer),
            (fetch) => (entries, use) => during(peer, entries.map(({ path }) => path), fetch(entries, use))
          )
      })
    },
    of: (path) => Option.fromUndefinedOr(asked.get(path))
  }
}
