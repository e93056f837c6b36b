/** What changes the node or the cluster. */
import { Effect } from "effect"
import { HttpServerRequest } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import { Inventory } from "../../ports/Inventory.ts"
import { Manifest } from "../../ports/Manifest.ts"
import { Membership } from "../../ports/Membership.ts"
import { Drain } from "../../replication/Drain.ts"
import { inManifest } from "../../replication/FileReport.ts"
import { Puller } from "../../replication/Puller.ts"
import { Registrar } from "../../replication/Registrar.ts"
import { Api } from "../Api.ts"
import { filePathIn, parseFilePath } from "../filePath.ts"
import { precondition } from "../precondition.ts"
import { refusalOf, registered, stoodBefore } from "../publishing.ts"
import { refuse } from "../refusals.ts"
import { Verifier } from "../Verifier.ts"
import { unavailable } from "./cluster.ts"

/** How fast a verification reads when the call does not say, MiB per second. */
const usualRate = 128

export const operationHandlers = HttpApiBuilder.group(Api, "operation", (handlers) =>
  Effect.gen(function*() {
    const manifest = yield* Manifest
    const puller = yield* Puller
    const registrar = yield* Registrar
    const verifier = yield* Verifier
    const drain = yield* Drain
    const membership = yield* Membership
    const services = yield* Effect.context<Inventory | Manifest>()

    const remove = Effect.fnUntraced(function*(reason: string) {
      const request = yield* HttpServerRequest.HttpServerRequest
      const path = yield* Effect.fromResult(filePathIn(request.url, 4))
      const standing = yield* inManifest(path).pipe(Effect.provideContext(services), Effect.mapError(unavailable))
      if (standing.state === "deleted") {
        return yield* Effect.fail(refuse("Gone", `${path} was deleted already: ${standing.reason}`))
      }
      if (standing.state !== "listed") return yield* Effect.fail(refuse("NotFound", `${path} is not in the manifest`))
      const refusal = precondition(request.headers, standing.entry.sha256)
      if (refusal !== undefined) return yield* Effect.fail(refusal)
      const revision = yield* Effect.mapError(manifest.remove(path, reason), unavailable)
      yield* Effect.logInfo(`${path} was deleted from the manifest at revision ${revision}: ${reason}`)
      return { path, revision, reason }
    })

    const pulling = Effect.map(puller.paused, (paused) => ({ paused }))

    return handlers.handleAll({
      register: ({ payload: { partition_time, ...given } }) =>
        Effect.gen(function*() {
          const path = yield* Effect.fromResult(parseFilePath(given.path))
          const file = { ...given, ...(partition_time === undefined ? {} : { partitionTime: partition_time }) }
          const stood = yield* Effect.mapError(Effect.provideContext(stoodBefore(path), services), unavailable)
          return registered(yield* registrar.adopt(file).pipe(Effect.mapError(refusalOf)), stood)
        }),
      remove: ({ query }) => remove(query.reason ?? "deleted over HTTP"),
      verify: ({ query }) => verifier.begin((query.rate ?? usualRate) * 1024 * 1024),
      pause: () => Effect.mapError(Effect.andThen(puller.pause("operator"), pulling), unavailable),
      resume: () => Effect.mapError(Effect.andThen(puller.resume("operator"), pulling), unavailable),
      drain: () => Effect.mapError(Effect.andThen(drain.start, drain.status), unavailable),
      stay: () => Effect.mapError(Effect.andThen(drain.stop, drain.status), unavailable),
      removeMember: ({ params: { id } }) =>
        membership.remove(id).pipe(
          Effect.as({ removed: id }),
          Effect.mapError((error) =>
            error._tag === "NotRemoved" ? refuse("NotRemoved", error.message) : unavailable(error)
          )
        )
    })
  }))
