/**
 * Serves bundles: several small files, whole, in one answer. What can't be given at once is left out of it; whoever asked
 * asks for that alone, and hears why.
 */
import { Effect } from "effect"
import { Backend } from "../ports/Backend.ts"
import type { ByteSink } from "../ports/ByteSink.ts"
import type { FileEntry } from "../ports/FileEntry.ts"
import * as Metrics from "../telemetry/Metrics.ts"
import * as Traces from "../telemetry/Traces.ts"
import type { Signer } from "./answers.ts"
import type { Grants } from "./grants.ts"
import * as Bundle from "./protocol/bundle.ts"
import * as Mac from "./protocol/Mac.ts"
import * as Messages from "./protocol/Messages.ts"
import { type Connection, makeProgress } from "./transport/Connection.ts"

/** Whether a request asks for a bundle that may be served. */
export const isInForm = ({ paths, sha256 }: Messages.FetchBundle): boolean =>
  paths.length > 0 && paths.length <= Bundle.maxFiles && sha256.length === paths.length

/** Answers requests in form that were found to come from a node of this cluster. */
export const make = Effect.fnUntraced(function*(options: {
  readonly signer: Signer
  readonly grants: Grants
  readonly serveTimeoutMillis: number
}) {
  const { grants, signer } = options
  const backend = yield* Backend

  /** Reads a file into memory of its length. Gives whether all of it is there. */
  const read = (entry: FileEntry, into: Uint8Array, asker: string) => {
    let length = 0
    const sink: ByteSink<never> = {
      write: (chunk) =>
        Effect.sync(() => {
          into.set(chunk, length)
          length += chunk.length
        })
    }
    return backend.read(entry.path, 0, entry.size_bytes, sink).pipe(
      Effect.as(true),
      Traces.serving(entry, signer.nodeId, asker, 0),
      Effect.catchTag(
        "BackendError",
        (error) => Effect.as(Effect.logError(`left out of a bundle: ${error.message}`), false)
      )
    )
  }

  /** What of these files is sent: at most so many bytes together. */
  const fitting = (entries: ReadonlyArray<FileEntry | undefined>) => {
    let left = Bundle.maxBytes
    return entries.map((entry) => {
      if (entry === undefined || entry.size_bytes > Math.min(left, Bundle.maxFileBytes)) return undefined
      left -= entry.size_bytes
      return entry
    })
  }

  /** Sends the answer, and behind it the bytes of what is given; nothing of a path: it is not. */
  const give = Effect.fnUntraced(function*(
    connection: Connection,
    { nonce, paths }: Messages.FetchBundle,
    bodies: ReadonlyArray<Uint8Array | undefined>,
    bytes: Uint8Array
  ) {
    const { nodeId, secret } = signer
    const sizes = paths.map((_, n) => bodies[n]?.length ?? -1)
    const hmac = secret === undefined ? "" : Mac.toHex(Mac.bundleAckMac(secret, { nonce, serverNodeId: nodeId, sizes }))
    const ack = yield* Effect.fromResult(Messages.encodeFetchBundleAck({ sizes, hmac, server_node_id: nodeId }))
    const progress = yield* makeProgress(options.serveTimeoutMillis)
    yield* connection.write(ack, progress).pipe(
      Effect.andThen(connection.write(bytes, progress)),
      Effect.raceFirst(progress.watch)
    )
  })

  return {
    serve: Effect.fnUntraced(function*(connection: Connection, request: Messages.FetchBundle) {
      const entries = fitting(yield* grants.among(request.paths, request.sha256))
      const memory = Buffer.allocUnsafeSlow(entries.reduce((sum, entry) => sum + (entry?.size_bytes ?? 0), 0))
      let end = 0
      const bodies = yield* Effect.forEach(entries, (entry) => {
        if (entry === undefined) return Effect.undefined
        const body = memory.subarray(end, end += entry.size_bytes)
        return Effect.map(read(entry, body, request.node_id), (whole) => whole ? body : undefined)
      }, { concurrency: "unbounded" })
      const given = bodies.filter((body) => body !== undefined)
      const length = given.reduce((sum, body) => sum + body.length, 0)
      // One that could not be read leaves a gap.
      yield* give(connection, request, bodies, length === memory.length ? memory : Buffer.concat(given))
      yield* Metrics.sent(request.node_id, length)
      yield* Metrics.served("sent", given.length)
    }),
    giveNothing: (connection: Connection, request: Messages.FetchBundle) =>
      give(connection, request, [], new Uint8Array(0))
  }
})
