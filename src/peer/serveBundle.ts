/**
 * Serves bundles: several small files, whole, in one answer. What can't be given at once is left out of it; whoever asked
 * asks for that alone, and hears why.
 */
import { Effect } from "effect"
import { Backend, type BackendError, type ReadTogether } from "../ports/Backend.ts"
import { together } from "../ports/FetchClient.ts"
import type { FileEntry } from "../ports/FileEntry.ts"
import * as Metrics from "../telemetry/Metrics.ts"
import * as Traces from "../telemetry/Traces.ts"
import type { Signer } from "./answers.ts"
import type { Grants } from "./grants.ts"
import * as Mac from "./protocol/Mac.ts"
import * as Messages from "./protocol/Messages.ts"
import { type Connection, makeProgress } from "./transport/Connection.ts"

/** Whether a request asks for a bundle that may be served. */
export const isInForm = ({ paths, sha256 }: Messages.FetchBundle): boolean =>
  paths.length > 0 && paths.length <= together.files && sha256.length === paths.length

/** The sizes in an answer that gives no file. */
const nothing = ({ paths }: Messages.FetchBundle): Array<number> => paths.map(() => -1)

const leftOut = (error: BackendError) => Effect.logError(`left out of a bundle: ${error.message}`)

/** Answers requests in form that were found to come from a node of this cluster. */
export const make = Effect.fnUntraced(function*(options: {
  readonly signer: Signer
  readonly grants: Grants
  readonly serveTimeoutMillis: number
}) {
  const { grants, signer } = options
  const backend = yield* Backend

  /** What of these files is sent: at most so many bytes together. */
  const fitting = (entries: ReadonlyArray<FileEntry | undefined>) => {
    let left = together.bytes
    return entries.flatMap((entry, n) => {
      if (entry === undefined || entry.size_bytes > Math.min(left, together.fileBytes)) return []
      left -= entry.size_bytes
      return [{ entry, n }]
    })
  }

  /** Reads files to be sent together. What could not be read is left out, and said. */
  const read = Effect.fnUntraced(
    function*(entries: ReadonlyArray<FileEntry>, asker: string) {
      const read = yield* backend.readTogether(entries.map(({ path, size_bytes }) => ({ path, length: size_bytes })))
        .pipe(Traces.serving(entries, signer.nodeId, asker, 0, ({ unread }, n) => unread.get(n)))
      yield* Effect.forEach(read.unread.values(), leftOut, { discard: true })
      return read
    },
    (effect, entries) =>
      Effect.catchTag(effect, "BackendError", (error): Effect.Effect<ReadTogether> =>
        Effect.as(leftOut(error), {
          bytes: new Uint8Array(0),
          unread: new Map(entries.map((_, n) => [n, error]))
        }))
  )

  /** Sends the answer, and behind it the bytes of what is given. */
  const give = Effect.fnUntraced(function*(
    connection: Connection,
    { nonce }: Messages.FetchBundle,
    sizes: ReadonlyArray<number>,
    bytes: Uint8Array
  ) {
    const { nodeId, secret } = signer
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
      const files = fitting(yield* grants.among(request.paths, request.sha256))
      const { bytes, unread } = yield* read(files.map(({ entry }) => entry), request.node_id)
      const sizes = nothing(request)
      for (const [at, { entry, n }] of files.entries()) if (!unread.has(at)) sizes[n] = entry.size_bytes
      yield* give(connection, request, sizes, bytes)
      yield* Metrics.sent(request.node_id, bytes.length)
      yield* Metrics.served("sent", files.length - unread.size)
    }),
    giveNothing: (connection: Connection, request: Messages.FetchBundle) =>
      give(connection, request, nothing(request), new Uint8Array(0))
  }
})
