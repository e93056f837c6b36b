/** What there is and where it stands. Only reads. */
import { Effect, Option, Order } from "effect"
import { HttpServerRequest } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import { Backend } from "../../ports/Backend.ts"
import { FilePath } from "../../ports/FilePath.ts"
import { Inventory } from "../../ports/Inventory.ts"
import { Manifest } from "../../ports/Manifest.ts"
import { type Member, Membership } from "../../ports/Membership.ts"
import { Drain } from "../../replication/Drain.ts"
import * as FileReport from "../../replication/FileReport.ts"
import { Puller } from "../../replication/Puller.ts"
import { Readiness } from "../../replication/Readiness.ts"
import { version } from "../../version.ts"
import { Api } from "../Api.ts"
import { filePathIn } from "../filePath.ts"
import { before } from "../paging.ts"
import { refuse } from "../refusals.ts"
import { Verifier } from "../Verifier.ts"

/** What does not answer: the manifest, the inventory, the members. */
export const unavailable = ({ message }: { readonly message: string }) => refuse("Unavailable", message)

const byId = Order.mapInput(Order.String, ({ id }: Member) => id)

/** How many files a call gives when it does not say. */
const usualLimit = 100

/** Owed files of the first `limit` by their time, wherever that lies. */
const everything = Number.MAX_SAFE_INTEGER

export const clusterHandlers = HttpApiBuilder.group(Api, "cluster", (handlers) =>
  Effect.gen(function*() {
    const backend = yield* Backend
    const inventory = yield* Inventory
    const manifest = yield* Manifest
    const membership = yield* Membership
    const puller = yield* Puller
    const readiness = yield* Readiness
    const verifier = yield* Verifier
    const drain = yield* Drain
    const { self } = membership
    const services = yield* Effect.context<Backend | Inventory | Manifest>()

    const members = membership.members.pipe(
      Effect.map((members) => ({
        node: self.id,
        members: [...members].sort(byId).map(({ address, alive, draining, id, role, version, watermark }) => ({
          id,
          role,
          self: id === self.id,
          alive,
          address: Option.getOrNull(address),
          version,
          watermark: Option.getOrNull(watermark),
          draining
        }))
      })),
      Effect.mapError(unavailable)
    )

    const status = Effect.gen(function*() {
      const stats = yield* puller.stats
      return {
        node: self.id,
        role: self.role,
        version,
        head: Option.getOrNull(yield* Effect.option(manifest.head)),
        status: yield* readiness.status,
        pulls: {
          queued: stats.queueDepth,
          in_flight: stats.inFlight,
          pulled: stats.pulled,
          bytes: stats.bytes,
          attempts: stats.attempts,
          failed: stats.failed,
          checksum_mismatches: stats.checksumMismatches
        },
        free_bytes: Option.getOrNull(yield* Effect.option(backend.freeSpace)),
        verification: Option.getOrNull(yield* verifier.latest)
      }
    }).pipe(Effect.mapError(unavailable))

    const owed = Effect.fnUntraced(function*(limit: number) {
      const { owed } = yield* inventory.progress
      const rows = yield* inventory.due(everything, limit)
      return {
        total: owed.files,
        bytes: owed.bytes,
        files: rows.slice(0, limit).flatMap((row) => {
          const local = FileReport.localState(row)
          if (local.state !== "owed") return []
          const { state: _, ...rest } = local
          const { origin_node_id, path, size_bytes } = row.file.entry
          return [{ path, size_bytes, origin_node_id, ...rest }]
        })
      }
    }, Effect.mapError(unavailable))

    const files = Effect.fnUntraced(function*(
      { cursor, limit, prefix = "" }: {
        readonly cursor?: FilePath | undefined
        readonly limit: number
        readonly prefix?: string | undefined
      }
    ) {
      const start = before(prefix)
      if (start === undefined) return yield* Effect.fail(refuse("BadRequest", "no path can begin with this prefix"))
      const given = Option.fromUndefinedOr(cursor)
      const after = Option.isSome(given) && Option.isSome(start) && bytesOrder(given.value, start.value) < 0
        ? start
        : Option.orElse(given, () => start)
      const page = yield* Effect.mapError(manifest.page(after, limit), unavailable)
      const listed = page.files.filter(({ entry }) => entry.path.startsWith(prefix))
      const locals = yield* Effect.mapError(inventory.look(listed.map(({ entry }) => entry.path)), unavailable)
      return {
        files: listed.map((file, index) => ({ ...file, local: FileReport.localState(locals[index]?.row) })),
        // Behind the first path without the prefix there is none with it.
        next: listed.length < page.files.length ? null : Option.getOrNull(page.next)
      }
    })

    const file = Effect.gen(function*() {
      const request = yield* HttpServerRequest.HttpServerRequest
      const path = yield* Effect.fromResult(filePathIn(request.url, 4))
      const known = yield* FileReport.report(path).pipe(
        Effect.provideContext(services),
        Effect.mapError(unavailable)
      )
      const nothing = known.manifest.state === "unknown" && known.local.state === "unknown"
        && known.on_disk === null && !known.pending
      if (nothing) return yield* Effect.fail(refuse("NotFound", `nothing is known of ${path}`))
      return known
    })

    return handlers.handleAll({
      members: () => members,
      status: () => status,
      owed: ({ query }) => owed(query.limit ?? usualLimit),
      files: ({ query: { cursor, limit = usualLimit, prefix } }) => files({ cursor, limit, prefix }),
      file: () => file,
      drain: () => drain.status
    })
  }))

const bytesOrder = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b))
