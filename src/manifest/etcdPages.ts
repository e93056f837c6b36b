/**
 * Files in the order of their paths.
 *
 * What a range costs etcd grows with the keys that lie in it, however few are asked for: without more, reading page by
 * page costs the square of the manifest. So when much lies behind a page, some of the keys that follow are noted as
 * fences, and the next pages end at one of them. Fences only bound the work: what a page holds never depends on them.
 */
import { Effect, Option } from "effect"
import type { EtcdClient } from "../etcd/EtcdClient.ts"
import type { EtcdError } from "../etcd/EtcdError.ts"
import type { FilePath } from "../ports/FilePath.ts"
import type { Page } from "../ports/Manifest.ts"
import { type Damaged, fileOf, type Keys } from "./etcdKeys.ts"

export interface Fencing {
  /** Keys that are read together, without their values, to set fences; and of them every so many becomes one. */
  readonly ahead: number
  readonly distance: number
  /** Keys in a range that cost less than reading ahead. */
  readonly cheap: number
}

export const makePages = (
  client: EtcdClient["Service"],
  keys: Keys,
  { ahead, cheap, distance }: Fencing = { ahead: 20_000, distance: 250, cheap: 10_000 }
): (after: Option.Option<FilePath>, limit: number) => Effect.Effect<Page, Damaged | EtcdError> => {
  // In order; of the last walk that came by. They may be of files that are gone.
  let fences: ReadonlyArray<Buffer> = []

  /** Where a range of at least `wanted` keys may end, as far as is known. */
  const fenceBehind = (from: Buffer, wanted: number): string | undefined => {
    const first = fences.findIndex((fence) => Buffer.compare(fence, from) > 0)
    // Before the first fence no other is known to be near.
    if (first <= 0) return undefined
    return fences[first + Math.ceil(wanted / distance)]?.toString("utf8")
  }

  const readAhead = Effect.fnUntraced(function*(key: string) {
    const { kvs } = yield* client.range({ key, rangeEnd: keys.filesEnd, limit: ahead, keysOnly: true })
    fences = kvs.filter((_, index) => index % distance === 0).map((kv) => Buffer.from(kv.key))
  })

  return Effect.fnUntraced(function*(after, limit) {
    const files: Array<Page["files"][number]> = []
    let key = Option.match(after, { onNone: () => keys.file(""), onSome: (path) => `${keys.file(path)}\0` })
    while (true) {
      const wanted = limit + 1 - files.length
      const fence = fenceBehind(Buffer.from(key), wanted)
      const rangeEnd = fence ?? keys.filesEnd
      const { count, kvs } = yield* client.range({ key, rangeEnd, limit: wanted })
      for (const kv of kvs) {
        const { entry, revision } = yield* Effect.fromResult(fileOf(kv))
        files.push({ entry, revision })
      }
      // From the last file that is shown on: the next page begins right behind it.
      if (fence === undefined && count > cheap + wanted) yield* readAhead(kvs.at(-2)?.key ?? key)
      if (files.length > limit) {
        const shown = files.slice(0, limit)
        return { files: shown, next: Option.fromUndefinedOr(shown.at(-1)?.entry.path) }
      }
      if (fence === undefined) return { files, next: Option.none() }
      key = fence
    }
  })
}
