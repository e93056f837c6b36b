/** `PUT /api/v1/files/{path}`: publishes the body, in constant memory, as it arrives. */
import { Deferred, Duration, Effect, Stream } from "effect"
import { HttpServerRequest } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import { Inventory } from "../../ports/Inventory.ts"
import { Manifest } from "../../ports/Manifest.ts"
import { type NewFile, Registrar } from "../../replication/Registrar.ts"
import { Room } from "../../replication/Room.ts"
import { Api } from "../Api.ts"
import { bodyOf, encodingRefusal } from "../body.ts"
import { filePathIn } from "../filePath.ts"
import type { Pace } from "../pace.ts"
import { isConditional, precondition } from "../precondition.ts"
import { notRegistered, refusalOf, registered, stoodAsKnown, stoodBefore } from "../publishing.ts"
import { refuse } from "../refusals.ts"
import { unavailable } from "./cluster.ts"

/** How long a caller waits for the manifest behind the last byte, milliseconds. */
const usualPatience = 20_000

const tooLarge = (limit: number) =>
  refuse("TooLarge", `this node takes files of at most ${limit} bytes (server.max_file_bytes); nothing of it was kept`)

const lengthRequired = refuse(
  "LengthRequired",
  "no file came: send it as the body, with Content-Length or Transfer-Encoding: chunked; an empty one has Content-Length: 0"
)

export const uploadHandlers = ({ maxFileBytes, pace, patienceMillis = usualPatience }: {
  /** No file may be longer; 0: none of the node's own. */
  readonly maxFileBytes: number
  readonly pace: Pace
  readonly patienceMillis?: number | undefined
}) =>
  HttpApiBuilder.group(Api, "upload", (handlers) =>
    Effect.gen(function*() {
      const room = yield* Room
      const inventory = yield* Inventory
      const registrar = yield* Registrar
      const services = yield* Effect.context<Inventory | Manifest>()
      const limit = maxFileBytes === 0 ? Number.MAX_SAFE_INTEGER : maxFileBytes

      const known = <A, E extends { readonly message: string }>(standing: Effect.Effect<A, E, Inventory | Manifest>) =>
        Effect.mapError(Effect.provideContext(standing, services), unavailable)

      /** What is known to be in vain before the first byte. */
      const admit = Effect.fnUntraced(function*(request: HttpServerRequest.HttpServerRequest) {
        const { headers } = request
        const refusal = encodingRefusal(request)
        if (refusal !== undefined) return yield* Effect.fail(refusal)
        if (headers["content-range"] !== undefined) {
          return yield* Effect.fail(refuse("BadRequest", "a file is sent whole, without Content-Range"))
        }
        const length = headers["content-length"]
        if (length === undefined) {
          // Neither is what `curl -X PUT` sends without a file, and would publish an empty one for good.
          return headers["transfer-encoding"] === undefined ? yield* Effect.fail(lengthRequired) : undefined
        }
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
        // What is safe here may wait for the manifest; what is said of the file that stands can't be told without it.
        const stood = yield* (isConditional(request.headers) ? known(stoodBefore(path)) : known(stoodAsKnown(path)))
        const refusal = precondition(request.headers, stood?.entry.sha256)
        if (refusal !== undefined) return yield* Effect.fail(refusal)
        const arrived = yield* Deferred.make<void>()
        const late = Effect.gen(function*() {
          yield* Deferred.await(arrived)
          yield* Effect.sleep(Duration.millis(patienceMillis))
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
        const body = bodyOf(request, { limit, pace, tooLarge: tooLarge(limit) }).pipe(
          Stream.onEnd(Deferred.succeed(arrived, undefined))
        )
        return yield* registrar.publish({ path, ...about }, body).pipe(
          Effect.mapError((error) => "_tag" in error ? refusalOf(error) : error),
          Effect.map((file) => registered(file, stood)),
          Effect.raceFirst(late)
        )
      })

      return handlers.handleRaw(
        "upload",
        ({ query: { partition_time, ...about } }) =>
          upload({ ...about, ...(partition_time === undefined ? {} : { partitionTime: partition_time }) })
      )
    }))
