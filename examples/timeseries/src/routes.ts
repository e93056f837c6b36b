/** The HTTP API of a node. Everyone answers queries; a writer takes points, too. */
import { ByteSize, Duration, Effect, type FileSystem, Layer, Option, Schema, Semaphore } from "effect"
import { Manifest, Membership, Readiness, Registrar, View } from "effect-file-replication"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { join } from "node:path"
import { promisify } from "node:util"
import { gunzip } from "node:zlib"
import { compact } from "./Compaction.ts"
import { type Answer, query } from "./Duck.ts"
import { Ingest } from "./Ingest.ts"
import { precisionOf } from "./lineProtocol.ts"

export interface Folders {
  readonly data: string
  readonly work: string
}

/** What a request was refused with. */
class Refused extends Schema.TaggedError<Refused>()("Refused", {
  status: Schema.Int,
  code: Schema.String,
  detail: Schema.String,
  retryAfterSeconds: Schema.optionalKey(Schema.Int)
}) {
  override get message(): string {
    return this.detail
  }
}

const later = (detail: string, seconds = 1) =>
  new Refused({ status: 503, code: "unavailable", detail, retryAfterSeconds: seconds })
const invalid = (detail: string) => new Refused({ status: 400, code: "invalid", detail })

const tooLarge = (detail: string) => new Refused({ status: 413, code: "too large", detail })

const refusal = ({ code, detail, retryAfterSeconds, status }: Refused) =>
  HttpServerResponse.jsonUnsafe({ code, message: detail }, {
    status,
    headers: retryAfterSeconds === undefined ? {} : { "retry-after": String(retryAfterSeconds) }
  })

const answering = <R>(effect: Effect.Effect<HttpServerResponse.HttpServerResponse, Refused, R>) =>
  effect.pipe(Effect.catch((error) => Effect.succeed(refusal(error))))

// -----------------------------------------------------------------------------
// Bodies
// -----------------------------------------------------------------------------

const maxBody = 16 * 1024 * 1024
const unzip = promisify(gunzip)
const strictText = new TextDecoder("utf-8", { fatal: true })

const bodyOf = Effect.gen(function*() {
  const request = yield* HttpServerRequest.HttpServerRequest
  const over = tooLarge(`over ${maxBody} bytes; split it`)
  const bytes = yield* request.arrayBuffer.pipe(
    Effect.map((buffer) => new Uint8Array(buffer)),
    Effect.provideService(HttpServerRequest.MaxBodySize, ByteSize.bytes(maxBody)),
    Effect.mapError(() => over)
  )
  const encoding = request.headers["content-encoding"] ?? "identity"
  if (encoding !== "gzip" && encoding !== "identity") return yield* invalid(`the encoding ${encoding} is not known`)
  const plain = encoding === "identity" ? bytes : yield* Effect.tryPromise({
    try: () => unzip(bytes, { maxOutputLength: maxBody }),
    catch: (cause) => Reflect.get(Object(cause), "code") === "ERR_BUFFER_TOO_LARGE" ? over : invalid("no valid gzip")
  })
  return yield* Effect.try({ try: () => strictText.decode(plain), catch: () => invalid("the body is not UTF-8") })
})

// -----------------------------------------------------------------------------
// Writes
// -----------------------------------------------------------------------------

const Name = Schema.String.check(Schema.isPattern(/^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$/))

const parameters = Effect.map(
  HttpServerRequest.HttpServerRequest,
  ({ url }) => new URL(url, "http://node").searchParams
)

/** `db` of version 1, `bucket` of version 2. */
const write = (databaseParameter: string) =>
  Effect.gen(function*() {
    const ingest = yield* Ingest
    const given = yield* parameters
    const database = Schema.decodeOption(Name)(given.get(databaseParameter) ?? "")
    if (Option.isNone(database)) return yield* invalid(`${databaseParameter} must be 1 to 64 of A-Z a-z 0-9 _ - .`)
    const precision = precisionOf(given.get("precision") ?? "ns")
    if (precision === undefined) return yield* invalid("precision must be ns, us, ms or s (n, u, ms, s, m, h)")
    const lines = yield* bodyOf
    yield* ingest.write(database.value, precision, lines).pipe(
      Effect.catchTags({
        Rejected: (error) => invalid(error.message),
        Busy: (error) => later(error.message),
        TooLarge: (error) => tooLarge(error.message),
        WalFailed: (error) => later(error.message, 5)
      })
    )
    return HttpServerResponse.empty({ status: 204 })
  }).pipe(answering)

const writing = (folders: Folders) =>
  HttpRouter.use(Effect.fnUntraced(function*(router) {
    const manifest = yield* Manifest.Manifest
    const context = yield* Effect.context<
      Ingest | Manifest.Manifest | Registrar.Registrar | View.View | FileSystem.FileSystem
    >()
    /** Up to where a reader must have come to have seen it. */
    const reached = <A extends object>(done: A) =>
      manifest.head.pipe(
        Effect.map(({ epoch, revision }) => HttpServerResponse.jsonUnsafe({ ...done, epoch, revision })),
        Effect.mapError((error) => later(error.message, 5))
      )
    const flush = Effect.flatMap(Ingest, ({ flush }) => flush).pipe(
      Effect.mapError((error) =>
        error._tag === "SetAside"
          ? new Refused({ status: 500, code: "set aside", detail: error.message })
          : later(error.message, 5)
      ),
      Effect.flatMap((files) => reached({ files })),
      answering
    )
    const merge = compact(folders.data, folders.work).pipe(
      Effect.mapError((error) => later(error.message, 5)),
      Effect.flatMap(reached),
      answering
    )
    yield* router.add("POST", "/write", Effect.provide(write("db"), context))
    yield* router.add("POST", "/api/v2/write", Effect.provide(write("bucket"), context))
    yield* router.add("POST", "/flush", Effect.provide(flush, context))
    yield* router.add("POST", "/compact", Effect.provide(merge, context))
  }))

// -----------------------------------------------------------------------------
// Queries
// -----------------------------------------------------------------------------

export interface QueryOptions {
  /** Queries that run at once, each with what one may take. */
  readonly parallel: number
  /** How long one more waits for its turn. */
  readonly patience: Duration.Duration
}

const defaults: QueryOptions = { parallel: 4, patience: Duration.seconds(5) }

const Question = Schema.fromJsonString(Schema.Struct({
  db: Name,
  sql: Schema.NonEmptyString,
  /** Answer only when everything up to this revision is here, … */
  min_revision: Schema.optionalKey(Schema.Natural),
  /** … of this history of the manifest, if it is given. */
  epoch: Schema.optionalKey(Schema.String)
}))

const answerOf = (answer: Answer, revision: number, node: string) =>
  HttpServerResponse.jsonUnsafe({ node, revision, columns: answer.columns, rows: answer.rows })

const querying = (folders: Folders, { parallel, patience }: QueryOptions = defaults) =>
  HttpRouter.use(Effect.fnUntraced(function*(router) {
    const { self } = yield* Membership.Membership
    const readiness = yield* Readiness.Readiness
    const view = yield* View.View
    const turns = yield* Semaphore.make(parallel)
    const turn = Effect.acquireRelease(turns.take(1), () => turns.release(1), { interruptible: true }).pipe(
      Effect.timeoutOrElse({
        duration: patience,
        orElse: () => Effect.fail(later(`as many queries run as may, ${parallel}`))
      })
    )

    const ask = Effect.gen(function*() {
      const question = yield* Schema.decodeEffect(Question)(yield* bodyOf).pipe(
        Effect.mapError((error) => invalid(error.message))
      )
      yield* readiness.gate.pipe(
        Effect.mapError((error) => later(error.message, Math.ceil(error.retryAfterMillis / 1000)))
      )
      yield* turn
      // These files stay on the disk until the answer is there, whatever is merged or deleted meanwhile.
      const { files, through } = yield* view.open(({ database }) => database === question.db).pipe(
        Effect.mapError((error) => later(error.message))
      )
      if (question.epoch !== undefined && question.epoch !== through.epoch) {
        return yield* later(`this node is in the history ${through.epoch}, not in ${question.epoch}`)
      }
      if (question.min_revision !== undefined && through.revision < question.min_revision) {
        return yield* later(`this node has everything up to revision ${through.revision} of ${question.min_revision}`)
      }
      const tables = new Map(
        Array.from(
          Map.groupBy(files, ({ entry }) => entry.measurement),
          ([name, own]) => [name, own.map(({ entry }) => join(folders.data, entry.path))] as const
        )
      )
      const answer = yield* query(tables, question.sql).pipe(
        Effect.catchTags({
          BadQuery: (error) => invalid(error.message),
          AnswerTooLarge: (error) => tooLarge(error.message),
          DuckFailed: (error) => later(error.message)
        })
      )
      return answerOf(answer, through.revision, self.id)
    }).pipe(Effect.scoped, answering)

    yield* router.add("POST", "/query", ask)
    yield* router.add(
      "GET",
      "/health",
      readiness.status.pipe(
        Effect.map(({ ready, reason }) =>
          HttpServerResponse.jsonUnsafe({ name: self.id, status: "pass", ready, reason })
        ),
        Effect.catch((error) => Effect.succeed(refusal(later(error.message))))
      )
    )
  }))

export const reader = querying
export const writer = (folders: Folders, queries?: QueryOptions) =>
  Layer.merge(querying(folders, queries), writing(folders))
