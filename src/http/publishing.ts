/** What publishing by a body and registering in place have in common. */
import { Duration, Effect, Option, Schema } from "effect"
import { HttpServerResponse } from "effect/http"
import type { Registered } from "../ports/FileEntry.ts"
import type { FilePath } from "../ports/FilePath.ts"
import { Inventory, knownHere } from "../ports/Inventory.ts"
import { Manifest } from "../ports/Manifest.ts"
import type { PublishError } from "../replication/Registrar.ts"
import { Registration } from "./answers.ts"
import { refuse } from "./refusals.ts"

/** What the manifest has under the path already, asked before: behind it, the same bytes answer as if they were new. */
export const stoodBefore = Effect.fnUntraced(function*(path: FilePath) {
  return Option.getOrUndefined(yield* (yield* Manifest).get(path))
})

/** How long the manifest may take before the file is taken without its word. */
const patience = Duration.seconds(2)

/** The same, and while the manifest does not answer what this node knows of a file that it has verified. */
export const stoodAsKnown = Effect.fnUntraced(function*(path: FilePath) {
  const answer = yield* Effect.timeoutOption(stoodBefore(path), patience).pipe(
    Effect.catchTag("Unavailable", () => Effect.succeedNone)
  )
  if (Option.isSome(answer)) return answer.value
  return Option.getOrUndefined(yield* knownHere(yield* Inventory, path))
})

const encode = Schema.encodeUnknownSync(Schema.toCodecJson(Registration))

/** 201, or 200 when it stood before. */
export const registered = (file: Registered, stood: Registered | undefined): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.jsonUnsafe(encode(file), {
    status: stood === undefined ? 201 : 200,
    headers: { etag: `"${file.entry.sha256}"` }
  })

/** The bytes are safe, and their registration comes by itself. */
export const notRegistered = (why: string) =>
  refuse("NotRegistered", `${why}; the file is registered as soon as that can be, without being sent again`)

/** Pure: what a caller is told. */
export const refusalOf = (error: PublishError) => {
  const { message } = error
  switch (error._tag) {
    case "InvalidEntry":
      return refuse("BadRequest", message)
    case "Conflict":
      return refuse("Conflict", message)
    case "Gone":
      return refuse("Gone", message)
    // The bytes are kept, and are registered once somebody has mended what the message names.
    case "EntryRefused":
    case "Unavailable":
      return notRegistered(message)
    case "InventoryError":
      return refuse("Unavailable", message)
    case "BackendError":
      switch (error.reason) {
        case "NoSpace":
          return refuse("NoSpace", message)
        case "NotFound":
          return refuse("NotFound", message)
        case "Unsafe":
          return refuse("BadRequest", message)
        case "Unreadable":
        case "Io":
          return refuse("Unavailable", message)
      }
  }
}
