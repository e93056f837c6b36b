/** What changes the node or the cluster. */
import { Effect, Option } from "effect"
import { HttpServerRequest } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import { RateLimits } from "../../peer/RateLimits.ts"
import { Backend } from "../../ports/Backend.ts"
import { FetchClient } from "../../ports/FetchClient.ts"
import type { FilePath } from "../../ports/FilePath.ts"
import { Inventory } from "../../ports/Inventory.ts"
import { Manifest } from "../../ports/Manifest.ts"
import { Membership } from "../../ports/Membership.ts"
import * as Copies from "../../replication/Copies.ts"
import { Drain } from "../../replication/Drain.ts"
import { inManifest } from "../../replication/FileReport.ts"
import * as Lost from "../../replication/lost.ts"
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

/** `stateFolder`: the node's own. */
export const operationHandlers = (stateFolder: string) =>
  HttpApiBuilder.group(Api, "operation", (handlers) =>
    Effect.gen(function*() {
      const manifest = yield* Manifest
      const puller = yield* Puller
      const rates = yield* RateLimits
      const registrar = yield* Registrar
      const verifier = yield* Verifier
      const drain = yield* Drain
      const membership = yield* Membership
      const copies = yield* Copies.Copies
      const services = yield* Effect.context<Backend | FetchClient | Inventory | Manifest | Membership>()

      /** What the manifest has under a path. */
      const listed = Effect.fnUntraced(function*(path: FilePath) {
        const standing = yield* inManifest(path).pipe(Effect.provideContext(services), Effect.mapError(unavailable))
        if (standing.state === "deleted") {
          return yield* Effect.fail(refuse("Gone", `${path} was deleted already: ${standing.reason}`))
        }
        if (standing.state !== "listed") return yield* Effect.fail(refuse("NotFound", `${path} is not in the manifest`))
        return standing
      })

      const remove = Effect.fnUntraced(function*(reason: string) {
        const request = yield* HttpServerRequest.HttpServerRequest
        const path = yield* Effect.fromResult(filePathIn(request.url, 4))
        const standing = yield* listed(path)
        const refusal = precondition(request.headers, standing.entry.sha256)
        if (refusal !== undefined) return yield* Effect.fail(refusal)
        const revision = yield* Effect.mapError(manifest.remove(path, reason), unavailable)
        yield* Effect.logInfo(`${path} was deleted from the manifest at revision ${revision}: ${reason}`)
        return { path, revision, reason }
      })

      const copiesOf = Effect.gen(function*() {
        const request = yield* HttpServerRequest.HttpServerRequest
        const path = yield* Effect.fromResult(filePathIn(request.url, 4))
        const file = yield* Effect.mapError(manifest.get(path), unavailable)
        if (Option.isNone(file)) return yield* Effect.fail(refuse("NotFound", `${path} is not in the manifest`))
        const sightings = yield* Effect.mapError(copies.find(file.value), unavailable)
        return { path, revision: file.value.revision, held: Copies.held(sightings), sightings }
      })

      const forget = Effect.fnUntraced(function*(given: string, confirmed: boolean, force: boolean) {
        const path = yield* Effect.fromResult(parseFilePath(given))
        const found = yield* Lost.search(yield* listed(path)).pipe(
          Effect.provideContext(services),
          Effect.mapError(unavailable)
        )
        if (!confirmed) return { ...found, forgotten: null }
        if (found.objection !== null && !force) {
          return yield* Effect.fail(refuse("NotLost", `${path} was not forgotten: ${found.objection}`))
        }
        const forgotten = yield* Lost.forget(found, stateFolder).pipe(
          Effect.provideContext(services),
          Effect.mapError(unavailable)
        )
        yield* Effect.logWarning(`${path} was forgotten at revision ${forgotten.revision}: ${forgotten.reason}`)
        return { ...found, forgotten }
      })

      const pulling = Effect.map(puller.paused, (paused) => ({ paused }))

      const setLimits = Effect.fnUntraced(function*(pulled: number | undefined, served: number | undefined) {
        if (pulled !== undefined) yield* rates.pull.set(pulled)
        if (served !== undefined) yield* rates.serve.set(served)
        const limits = {
          pull_bytes_per_second: rates.pull.bytesPerSecond(),
          serve_bytes_per_second: rates.serve.bytesPerSecond()
        }
        if (pulled !== undefined || served !== undefined) {
          yield* Effect.logInfo("the limits were changed").pipe(Effect.annotateLogs(limits))
        }
        return limits
      })

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
        limits: ({ payload }) => setLimits(payload.pull_bytes_per_second, payload.serve_bytes_per_second),
        drain: () => Effect.mapError(Effect.andThen(drain.start, drain.status), unavailable),
        stay: () => Effect.mapError(Effect.andThen(drain.stop, drain.status), unavailable),
        copies: () => copiesOf,
        forget: ({ payload: { confirmed = false, force = false, path } }) => forget(path, confirmed, force),
        removeMember: ({ params: { id } }) =>
          membership.remove(id).pipe(
            Effect.as({ removed: id }),
            Effect.mapError((error) =>
              error._tag === "NotRemoved" ? refuse("NotRemoved", error.message) : unavailable(error)
            )
          )
      })
    }))
