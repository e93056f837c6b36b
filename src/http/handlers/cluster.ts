/** What there is and where it stands. Only reads. */
import { Duration, Effect, Option, Order } from "effect"
import { HttpServerRequest } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import { Backend } from "../../ports/Backend.ts"
import { Inventory } from "../../ports/Inventory.ts"
import { Manifest } from "../../ports/Manifest.ts"
import { type Member, Membership } from "../../ports/Membership.ts"
import { Drain } from "../../replication/Drain.ts"
import * as FileList from "../../replication/FileList.ts"
import * as FileReport from "../../replication/FileReport.ts"
import { Puller } from "../../replication/Puller.ts"
import { Readiness } from "../../replication/Readiness.ts"
import { Room } from "../../replication/Room.ts"
import { version } from "../../version.ts"
import { Api } from "../Api.ts"
import { filePathIn } from "../filePath.ts"
import { refuse } from "../refusals.ts"
import { Verifier } from "../Verifier.ts"

/** What does not answer: the manifest, the inventory, the members. */
export const unavailable = ({ message }: { readonly message: string }) => refuse("Unavailable", message)

const byId = Order.mapInput(Order.String, ({ id }: Member) => id)

/** How long the manifest may take to say where it ends, before that counts as not known. */
const patience = Duration.seconds(1)

/** How many files a call gives when it does not say. */
const usualLimit = 100

export const clusterHandlers = HttpApiBuilder.group(Api, "cluster", (handlers) =>
  Effect.gen(function*() {
    const room = yield* Room
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

    // Whoever asks wants to know where the node stands most of all while the manifest does not answer.
    const head = manifest.head.pipe(Effect.timeout(patience), Effect.option)

    const status = Effect.gen(function*() {
      const stats = yield* puller.stats
      return {
        node: self.id,
        role: self.role,
        version,
        head: Option.getOrNull(yield* head),
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
        free_bytes: Option.getOrNull(yield* Effect.option(room.free)),
        verification: Option.getOrNull(yield* verifier.latest)
      }
    }).pipe(Effect.mapError(unavailable))

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
      return { ...known, local: FileReport.waiting(known.local, yield* puller.waitsFor(path)) }
    })

    const owed = Effect.fnUntraced(function*(limit: number) {
      const found = yield* FileList.owed(limit).pipe(Effect.provideContext(services), Effect.mapError(unavailable))
      const files = yield* Effect.forEach(found.files, (file) =>
        Effect.map(puller.waitsFor(file.path), (why) => ({
          ...file,
          reason: Option.getOrElse(why, () => file.reason)
        })))
      return { ...found, files }
    })

    return handlers.handleAll({
      members: () => members,
      status: () => status,
      owed: ({ query }) => owed(query.limit ?? usualLimit),
      files: ({ query: { cursor, limit = usualLimit, prefix } }) =>
        FileList.page({ cursor, limit, prefix }).pipe(
          Effect.provideContext(services),
          Effect.mapError((error) =>
            error._tag === "NoPrefix" ? refuse("BadRequest", error.message) : unavailable(error)
          )
        ),
      file: () => file,
      drain: () => drain.status
    })
  }))
