/** `PUT /api/v1/files/{path}`: publishes the body, in constant memory, as it arrives. */
import { Clock, Deferred, Duration, Effect, Stream } from "effect"
import { HttpServerRequest } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import { Inventory } from "../../ports/Inventory.ts"
import { Manifest } from "../../ports/Manifest.ts"
import { type NewFile, Registrar } from "../../replication/Registrar.ts"
import { Room } from "../../replication/Room.ts"
import { Api } from "../Api.ts"
import { filePathIn } from "../filePath.ts"
import { precondition } from "../precondition.ts"
import { notRegistered, refusalOf, registered, stoodBefore } from "../publishing.ts"
import { type Refusal, refuse } from "../refusals.ts"
import { unavailable } from "./cluster.ts"

/** A body may rest for so long, and must come at so much a second in the long run. */
const longestRest = Duration.seconds(25)
const slowest = 4 * 1024
const lenient = 60_000

/** How long a caller waits for the manifest behind the last byte. */
const patience = Duration.seconds(20)

const tooSlow = refuse("TooSlow", "the body came too slowly; nothing of it was kept")

const tooLarge = (limit: number) =>
  refuse("TooLarge", `this node takes files of at most ${limit} bytes (server.max_file_bytes); nothing of it was kept`)

/** Fails when the body is too long or comes too slowly; tells when all of it is here. */
const watched = <E>(
  body: Stream.Stream<Uint8Array, E>,
  arrived: Deferred.Deferred<void>,
  limit: number
): Stream.Stream<Uint8Array, E | Refusal<"TooSlow" | "TooLarge">> =>
  Stream.unwrap(Effect.map(Clock.currentTimeMillis, (began) => {
    let bytes = 0
    return body.pipe(
      Stream.timeoutOrElse({ duration: longestRest, orElse: () => Stream.fail(tooSlow) }),
      Stream.tap((chunk): Effect.Effect<void, Refusal<"TooSlow" | "TooLarge">> => {
        bytes += chunk.length
        if (bytes > limit) return Effect.fail(tooLarge(limit))
        return Effect.flatMap(
          Clock.currentTimeMillis,
          (now) => now - began > lenient + (bytes / slowest) * 1000 ? Effect.fail(tooSlow) : Effect.void
        )
      }),
      Stream.onEnd(Deferred.succeed(arrived, undefined))
    )
  }))

/** `maxFileBytes`: no file may be longer; 0: none of the node's own. */
export const uploadHandlers = (maxFileBytes: number) =>
  HttpApiBuilder.group(Api, "upload", (handlers) =>
    Effect.gen(function*() {
      const room = yield* Room
      const inventory = yield* Inventory
      const registrar = yield* Registrar
      const services = yield* Effect.context<Manifest>()
      const limit = maxFileBytes === 0 ? Number.MAX_SAFE_INTEGER : maxFileBytes

      /** What is known to be in vain before the first byte. */
      const admit = Effect.fnUntraced(function*({ headers }: HttpServerRequest.HttpServerRequest) {
        const encoding = headers["content-encoding"]
        if (encoding !== undefined && encoding !== "identity") {
          return yield* Effect.fail(
            refuse("WrongMediaType", `send the file as it is, without Content-Encoding: ${encoding}`)
          )
        }
        if (headers["content-range"] !== undefined) {
          return yield* Effect.fail(refuse("BadRequest", "a file is sent whole, without Content-Range"))
        }
        const length = headers["content-length"]
        if (length === undefined) return
        const free = yield* Effect.mapError(room.free, unavailable)
        if (Number(length) > limit) return yield* Effect.fail(tooLarge(limit))
        if (Number(length) > free) {
          return yield* Effect.fail(refuse("NoSpace", `the file has ${length} bytes, and this node may write ${free}`))
        }
      })

      const upload = Effect.fnUntraced(function*(about: Omit<NewFile, "path">) {
        const request = yield* HttpServerRequest.HttpServerRequest
        const path = yield* Effect.fromResult(filePathIn(request.url, 3))
        yield* admit(request)
        const stood = yield* Effect.mapError(Effect.provideContext(stoodBefore(path), services), unavailable)
        const refusal = precondition(request.headers, stood?.entry.sha256)
        if (refusal !== undefined) return yield* Effect.fail(refusal)
        const arrived = yield* Deferred.make<void>()
        const late = Effect.gen(function*() {
          yield* Deferred.await(arrived)
          yield* Effect.sleep(patience)
          const [local] = yield* Effect.mapError(inventory.look([path]), unavailable)
          if (local?.pending !== undefined) {
            return yield* Effect.fail(
              notRegistered(`${path} is safe on this node's disk, and the manifest does not answer`)
            )
          }
          return yield* Effect.fail(refuse(
            "Unavailable",
            "all bytes have come, but the disk is slow, and they are not safe yet; send the file again, which does no harm"
          ))
        })
        const body = watched(
          Stream.mapError(request.stream, () => refuse("BadRequest", "the body ended too early")),
          arrived,
          limit
        )
        return yield* registrar.publish({ path, ...about }, body).pipe(
          Effect.mapError((error) => "_tag" in error ? refusalOf(error) : error),
          Effect.map((file) => registered(file, stood)),
          Effect.raceFirst(late)
        )
      })

      return handlers.handleRaw("upload", ({ query: { partition_time, ...about } }) =>
        upload({ ...about, ...(partition_time === undefined ? {} : { partitionTime: partition_time }) }))
    }))
