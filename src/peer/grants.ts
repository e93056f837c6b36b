/** Which requests for a file are granted: the checks behind the secret, in the order in which they are made. */
import { Effect, Option, Schema, Stream } from "effect"
import { agrees } from "../ports/Backend.ts"
import { type FileEntry, sameBytes } from "../ports/FileEntry.ts"
import { FilePath, wireOffence } from "../ports/FilePath.ts"
import { Inventory } from "../ports/Inventory.ts"
import type { Manifest } from "../ports/Manifest.ts"
import { Refused } from "./answers.ts"
import * as Listing from "./listing.ts"
import type * as Messages from "./protocol/Messages.ts"

/** A request that passed all checks. */
export interface Granted {
  readonly entry: FileEntry
  readonly offset: number
  readonly length: number
}

/** How long a request waits for a file that this node is about to show. */
const comingMillis = 3000

export interface Grants {
  /** Grants a request, or says why not. */
  readonly one: (request: Messages.FetchFile) => Effect.Effect<Granted, Refused>
  /**
   * Of many paths, in their order, the entries of those that can be given at once with the digest that is asked for.
   * Nothing is waited for.
   */
  readonly among: (
    paths: ReadonlyArray<string>,
    sha256: ReadonlyArray<string>
  ) => Effect.Effect<ReadonlyArray<FileEntry | undefined>>
}

export const make: Effect.Effect<Grants, never, Inventory | Manifest> = Effect.gen(function*() {
  const listed = yield* Listing.make
  const inventory = yield* Inventory

  const isHere = (entry: FileEntry) =>
    Effect.map(
      inventory.verified(entry.path),
      Option.exists(({ held }) => agrees(held, entry))
    )

  /**
   * Whether a file that this node writes gets its name within moments. It is registered first, so a quick peer asks
   * for it in between; a refusal would cost that peer its backoff.
   */
  const isComing = Effect.fnUntraced(function*(entry: FileEntry) {
    const [local] = yield* inventory.look([entry.path])
    // No longer pending: it has just got its name, or never was.
    if (local?.pending === undefined || !sameBytes(local.pending.entry, entry)) return yield* isHere(entry)
    const shown = inventory.changes.pipe(
      Stream.mapEffect(() => isHere(entry)),
      Stream.takeUntil((here) => here),
      Stream.runDrain
    )
    return Option.isSome(yield* Effect.timeoutOption(shown, comingMillis))
  })

  const one: Grants["one"] = Effect.fnUntraced(function*(request) {
    const offence = wireOffence(request.path)
    if (offence !== undefined) return yield* new Refused({ code: "invalid_path", reason: offence })

    const path = Schema.decodeOption(FilePath)(request.path)
    const unlisted = new Refused({ code: "manifest", reason: "not in the manifest" })
    if (Option.isNone(path)) return yield* unlisted
    const [found = Option.none()] = yield* listed([path.value])
    if (Option.isNone(found)) return yield* unlisted
    const entry = found.value

    const here = yield* isHere(entry).pipe(
      Effect.flatMap((now) => now ? Effect.succeed(true) : isComing(entry)),
      Effect.mapError((error) => new Refused({ code: "backend", reason: error.message }))
    )
    if (!here) return yield* new Refused({ code: "not_found", reason: "not verified on this node" })

    const { byte_length: wanted, byte_offset: offset } = request
    const left = BigInt(entry.size_bytes) - offset
    if ((offset !== 0n && (offset < 0n || left <= 0n)) || wanted < 0n || wanted > left) {
      return yield* new Refused({ code: "bad_offset", reason: `the range is not within ${entry.size_bytes} bytes` })
    }
    const granted: Granted = { entry, offset: Number(offset), length: Number(wanted === 0n ? left : wanted) }
    return granted
  })

  const among: Grants["among"] = Effect.fnUntraced(
    function*(paths, sha256) {
      const asked = paths.flatMap((text, n) => {
        const path = wireOffence(text) === undefined ? Schema.decodeOption(FilePath)(text) : Option.none()
        return Option.isNone(path) ? [] : [{ n, path: path.value }]
      })
      const rows = yield* inventory.look(asked.map(({ path }) => path))
      const here = asked.flatMap(({ n, path }, index) => {
        const row = rows[index]?.row
        return row?._tag === "Verified" && row.held.sha256 === sha256[n] ? [{ n, path, held: row.held }] : []
      })
      const entries = yield* listed(here.map(({ path }) => path))
      const given: Array<FileEntry | undefined> = paths.map(() => undefined)
      here.forEach(({ held, n }, index) => {
        const entry = Option.getOrUndefined(entries[index] ?? Option.none())
        if (entry !== undefined && agrees(held, entry)) given[n] = entry
      })
      return given
    },
    // Whoever asks for one of them alone hears why.
    (effect, paths) => Effect.orElseSucceed(effect, () => paths.map(() => undefined))
  )

  return { one, among }
})
