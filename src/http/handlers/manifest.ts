/** `POST /api/v1/cluster/manifest`: entries that come as lines of JSON, registered as they come or all of them at once. */
import { Effect, Option, Semaphore } from "effect"
import { HttpServerRequest } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import { Manifest } from "../../ports/Manifest.ts"
import { importLines, outcome } from "../../replication/manifestLines.ts"
import { Api } from "../Api.ts"
import { bodyOf, encodingRefusal } from "../body.ts"
import type { Pace } from "../pace.ts"
import { refuse } from "../refusals.ts"
import { unavailable } from "./cluster.ts"

/** What is imported whole is held in memory, some times as large as its lines. */
const wholeMebibytes = 16

const tooLarge = refuse(
  "TooLarge",
  `all or none takes lines of at most ${wholeMebibytes} MiB; send it in pieces, or let it keep going (keep_going=true)`
)

export const manifestHandlers = (pace: Pace) =>
  HttpApiBuilder.group(Api, "manifest", (handlers) =>
    Effect.gen(function*() {
      const manifest = yield* Manifest
      const turn = yield* Semaphore.make(1)

      const take = Effect.fnUntraced(function*(keepGoing: boolean) {
        const request = yield* HttpServerRequest.HttpServerRequest
        const refusal = encodingRefusal(request)
        if (refusal !== undefined) return yield* Effect.fail(refusal)
        const limit = keepGoing ? Number.MAX_SAFE_INTEGER : wholeMebibytes * 1024 * 1024
        const found = yield* importLines(bodyOf(request, { limit, pace, tooLarge }), { keepGoing }).pipe(
          Effect.provideService(Manifest, manifest),
          Effect.mapError((error) => "_tag" in error ? unavailable(error) : error)
        )
        const [first] = found.wrong
        if (first === undefined) return found
        const { error } = refuse("NotImported", `${outcome(found)}; line ${first.line}: ${first.why}`)
        return yield* Effect.fail({ error, ...found })
      })

      return handlers.handleRaw("import", ({ query: { keep_going } }) =>
        take(keep_going === "true").pipe(
          turn.withPermitsIfAvailable(1),
          Effect.flatMap(Option.match({
            onNone: () => Effect.fail(refuse("Unavailable", "another import is running; ask again behind it")),
            onSome: Effect.succeed
          }))
        ))
    }))
