/** `GET /api/v1/files/{path}`: the bytes of a file that is verified here, and of no other. */
import { toIncomingMessage } from "@effect/platform-node/NodeHttpServerRequest"
import { Clock, Duration, Effect, Option, Queue, Stream } from "effect"
import { HttpServerRequest, HttpServerResponse } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import { createHash } from "node:crypto"
import { Backend, BackendError } from "../../ports/Backend.ts"
import type { FileEntry } from "../../ports/FileEntry.ts"
import type { FilePath } from "../../ports/FilePath.ts"
import { Inventory, type Verified } from "../../ports/Inventory.ts"
import { Manifest } from "../../ports/Manifest.ts"
import { inManifest, localState, waiting } from "../../replication/FileReport.ts"
import { LocalCheck } from "../../replication/LocalCheck.ts"
import { Puller } from "../../replication/Puller.ts"
import { Api } from "../Api.ts"
import { filePathIn } from "../filePath.ts"
import { left, type Pace } from "../pace.ts"
import { namesTag, rangeOf, type Span } from "../range.ts"
import { refuse, response } from "../refusals.ts"
import { unavailable } from "./cluster.ts"

/** Downloads at once; each holds a few MiB. */
const maxDownloads = 32

/** So many of them for one address: nobody keeps all others out. */
const maxOfOneAddress = 16

const addressOf = ({ remoteAddress }: HttpServerRequest.HttpServerRequest) => Option.getOrElse(remoteAddress, () => "")

/** When to ask again for a file that is on its way, seconds. */
const soon = "5"

export const bytesHandlers = (pace: Pace) =>
  HttpApiBuilder.group(Api, "bytes", (handlers) =>
    Effect.gen(function*() {
      const backend = yield* Backend
      const inventory = yield* Inventory
      const localCheck = yield* LocalCheck
      const puller = yield* Puller
      const services = yield* Effect.context<Backend | Inventory | Manifest>()
      let downloads = 0
      const ofAddress = new Map<string, number>()

      const notVerified = (message: string) => response(refuse("NotVerified", message), { "retry-after": soon })

      /** Why a file that is not verified here is not. */
      const absent = Effect.fnUntraced(function*(path: FilePath) {
        const [local] = yield* inventory.look([path])
        if (local?.pending !== undefined) return notVerified(`${path} is being published`)
        const here = waiting(localState(local?.row), yield* puller.waitsFor(path))
        if (here.state === "owed") return notVerified(`${path} is not here yet: ${here.reason}`)
        const standing = yield* Effect.provideContext(inManifest(path), services)
        if (standing.state === "deleted") {
          return yield* Effect.fail(refuse("Gone", `${path} was deleted: ${standing.reason}`))
        }
        if (standing.state === "listed") return notVerified(`${path} is not here yet: it was registered just now`)
        return yield* Effect.fail(refuse("NotFound", `${path} is not in the manifest`))
      })

      /** Something speaks against the file: whoever asks for it again learns what came of it. */
      const doubt = (path: FilePath) =>
        localCheck.examine(path).pipe(
          Effect.catch(({ message }) => Effect.logError(`${path} could not be examined: ${message}`)),
          Effect.forkDetach
        )

      /** A whole file is hashed as it goes, and its last bytes only follow when all were right. */
      const read = ({ path, sha256, size_bytes }: FileEntry, { length, offset }: Span) =>
        Stream.callback<Uint8Array, Error>((queue) =>
          Effect.gen(function*() {
            const digest = length === size_bytes ? createHash("sha256") : undefined
            let held: Uint8Array | undefined
            yield* backend.read(path, offset, length, {
              write: (chunk) =>
                Effect.suspend(() => {
                  const before = held
                  digest?.update(chunk)
                  // The chunk's memory is used again behind this effect.
                  held = Uint8Array.from(chunk)
                  return before === undefined ? Effect.void : Queue.offer(queue, before)
                })
            }).pipe(Effect.tapErrorTag("BackendError", () => doubt(path)))
            if (digest !== undefined && digest.digest("hex") !== sha256) {
              yield* doubt(path)
              return yield* new BackendError({
                operation: "read",
                path,
                reason: "Unreadable",
                detail: "it has other bytes on this disk than it had"
              })
            }
            if (held !== undefined) yield* Queue.offer(queue, held)
            yield* Queue.end(queue)
          }), { bufferSize: 1, strategy: "suspend" }).pipe(
            Stream.tapError(({ message }) => Effect.logError(`a download was cut short: ${message}`))
          )

      /** Cuts a reader that is too slow: in the midst of what is being written, so nothing less would reach it. */
      const watch = Effect.fnUntraced(function*(request: HttpServerRequest.HttpServerRequest, path: FilePath) {
        const { socket } = toIncomingMessage(request)
        const began = yield* Clock.currentTimeMillis
        const before = socket.bytesWritten
        while (true) {
          const taken = socket.bytesWritten - socket.writableLength - before
          const millis = left(pace, (yield* Clock.currentTimeMillis) - began, taken)
          if (millis < 0) break
          yield* Effect.sleep(Duration.millis(Math.floor(millis) + 1))
        }
        const rate = `${pace.bytesPerSecond / 1024} KiB a second`
        yield* Effect.logWarning(`a download was cut short: ${path} was taken at less than ${rate}`)
        socket.destroy()
      })

      /** Counted and watched as long as it is being sent. */
      const counted = <E>(
        bytes: Stream.Stream<Uint8Array, E>,
        request: HttpServerRequest.HttpServerRequest,
        path: FilePath
      ) => {
        const address = addressOf(request)
        const count = (by: 1 | -1) =>
          Effect.sync(() => {
            downloads += by
            const now = (ofAddress.get(address) ?? 0) + by
            if (now === 0) ofAddress.delete(address)
            else ofAddress.set(address, now)
          })
        return Stream.unwrap(
          Effect.acquireRelease(count(1), () => count(-1)).pipe(
            Effect.andThen(Effect.forkScoped(watch(request, path))),
            Effect.as(bytes)
          )
        )
      }

      const send = ({ file: { entry } }: Verified, request: HttpServerRequest.HttpServerRequest) => {
        const { headers, method } = request
        const etag = `"${entry.sha256}"`
        const common = {
          etag,
          "accept-ranges": "bytes",
          // It never changes, but it may be deleted.
          "cache-control": "no-cache",
          "x-content-type-options": "nosniff",
          "repr-digest": `sha-256=:${Buffer.from(entry.sha256, "hex").toString("base64")}:`
        }
        if (namesTag(headers["if-none-match"], etag)) return HttpServerResponse.empty({ status: 304, headers: common })
        const ifRange = headers["if-range"]
        // A range is a matter of GET alone.
        const asked = method === "GET" && (ifRange === undefined || ifRange.trim() === etag)
          ? rangeOf(headers["range"], entry.size_bytes)
          : undefined
        if (asked === "Unsatisfiable") {
          const message = `the range must be one, and within the ${entry.size_bytes} bytes of the file`
          return response(refuse("RangeNotSatisfiable", message), { "content-range": `bytes */${entry.size_bytes}` })
        }
        if (
          method === "GET" && (downloads >= maxDownloads || (ofAddress.get(addressOf(request)) ?? 0) >= maxOfOneAddress)
        ) {
          return response(refuse("Unavailable", "too many files are being sent"), { "retry-after": "1" })
        }
        const span = asked ?? { offset: 0, length: entry.size_bytes }
        const part = `bytes ${span.offset}-${span.offset + span.length - 1}/${entry.size_bytes}`
        return HttpServerResponse.stream(counted(read(entry, span), request, entry.path), {
          status: asked === undefined ? 200 : 206,
          contentType: "application/octet-stream",
          contentLength: span.length,
          headers: asked === undefined ? common : { ...common, "content-range": part }
        })
      }

      const download = Effect.gen(function*() {
        const request = yield* HttpServerRequest.HttpServerRequest
        const path = yield* Effect.fromResult(filePathIn(request.url, 3))
        const row = yield* inventory.verified(path)
        if (Option.isNone(row)) return yield* absent(path)
        const { held } = row.value
        const differing = yield* backend.differing([{ path, size: held.size, mtime: held.mtime, inode: held.inode }])
        if (differing.length === 0) return send(row.value, request)
        // It may have been deleted between the two looks.
        if (Option.isNone(yield* inventory.verified(path))) return yield* absent(path)
        yield* doubt(path)
        return notVerified(`${path} is not on this disk as it was; it is being looked at`)
      }).pipe(
        Effect.catchTag(["BackendError", "InventoryError", "Unavailable"], (error) => Effect.fail(unavailable(error)))
      )

      return handlers.handle("download", () => download)
    }))
