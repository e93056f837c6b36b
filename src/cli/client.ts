/**
 * A running node, asked over HTTP. Commands find it by `--url`, or by the configuration's `server.host` and
 * `server.port`, where only the node of this very configuration counts: another may listen there as well.
 */
import { Duration, Effect, Option, Redacted, Runtime, Schema, Stream } from "effect"
import { HttpBody, HttpClient, HttpClientRequest, type HttpClientResponse } from "effect/http"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { Health } from "../http/answers.ts"
import type { Code } from "../http/refusals.ts"
import { addressText } from "../ports/Membership.ts"
import { folders, type Settings } from "../ReplicationConfig.ts"
import { configured, type NodeFlags } from "./flags.ts"
import type { FileFailed } from "./userFiles.ts"

/** Nothing answers there. */
export class NoAnswer
  extends Schema.TaggedError<NoAnswer>()("NoAnswer", { url: Schema.String, detail: Schema.String })
{
  override get message(): string {
    return `no node answers at ${this.url}: ${this.detail}; is it running, and is this its server.host and server.port?`
  }
}

/** What was given by `--url` or the environment is none. */
export class NoUrl extends Schema.TaggedError<NoUrl>()("NoUrl", { url: Schema.String }) {
  override readonly [Runtime.errorExitCode] = 2
  override get message(): string {
    return `${this.url} is no address of a node; one looks like http://127.0.0.1:8000`
  }
}

/** The node has refused. `code` is one of the HTTP API's. */
export class Refused extends Schema.TaggedError<Refused>()("Refused", {
  code: Schema.String,
  detail: Schema.String,
  /** The whole answer: some refusals tell more. */
  body: Schema.String
}) {
  override get message(): string {
    return this.code === ("Unauthorized" satisfies Code)
      ? `${this.detail}; give it by --token, FILE_REPLICATION_TOKEN or the node's own --config`
      : this.detail
  }
}

export interface Client {
  readonly url: string
  /** Calls, and reads the answer as a schema says. */
  readonly call: <A>(
    method: "GET" | "POST" | "DELETE",
    path: string,
    schema: Schema.Codec<A, unknown>,
    body?: Readonly<Record<string, unknown>>
  ) => Effect.Effect<A, NoAnswer | Refused>
  /** Sends a file as it is read; `length` is in bytes, `undefined` when it is not known. */
  readonly send: <A>(
    method: "POST" | "PUT",
    path: string,
    bytes: Stream.Stream<Uint8Array, FileFailed>,
    length: number | undefined,
    schema: Schema.Codec<A, unknown>
  ) => Effect.Effect<A, NoAnswer | Refused | FileFailed>
}

/** The address of a file: slashes stay, all else is encoded. */
export const fileAddress = (prefix: string, path: string): string =>
  `${prefix}/${path.split("/").map(encodeURIComponent).join("/")}`

const Refusal = Schema.Struct({ error: Schema.Struct({ code: Schema.String, message: Schema.String }) })

const detailOf = (cause: unknown): string => {
  if (!(cause instanceof Error)) return String(cause)
  if (Reflect.get(Object(cause.cause), "code") === "EPROTO") return "it does not speak TLS; say http:// for https://"
  const { cause: below } = cause
  return below instanceof Error && below.message !== "" ? below.message : cause.message
}

export const makeClient = Effect.fnUntraced(function*(url: string, token: Option.Option<Redacted.Redacted>) {
  if (!URL.canParse(url)) return yield* new NoUrl({ url })
  const http = yield* HttpClient.HttpClient
  const silent = (cause: unknown) => new NoAnswer({ url, detail: detailOf(cause) })

  const answered = Effect.fnUntraced(function*<A>(
    response: HttpClientResponse.HttpClientResponse,
    schema: Schema.Codec<A, unknown>
  ) {
    const text = yield* Effect.mapError(response.text, silent)
    if (response.status >= 200 && response.status < 300) {
      return yield* Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.toCodecJson(schema)))(text).pipe(
        Effect.mapError((error) =>
          silent(new Error(`it answers otherwise than this version expects: ${error.message}`))
        )
      )
    }
    const refusal = Schema.decodeOption(Schema.fromJsonString(Refusal))(text)
    return yield* Option.match(refusal, {
      onNone: () => silent(new Error(`it answers with status ${response.status}, as no node would`)),
      onSome: ({ error }) => new Refused({ code: error.code, detail: error.message, body: text })
    })
  })

  const run = <A>(request: HttpClientRequest.HttpClientRequest, schema: Schema.Codec<A, unknown>) =>
    http.execute(
      Option.match(token, {
        onNone: () => request,
        onSome: (token) => HttpClientRequest.bearerToken(request, token)
      })
    ).pipe(
      Effect.mapError(silent),
      Effect.flatMap((response) => answered(response, schema))
    )

  const client: Client = {
    url,
    call: (method, path, schema, body) => {
      const request = HttpClientRequest.make(method)(url + path)
      return run(body === undefined ? request : HttpClientRequest.bodyJsonUnsafe(request, body), schema)
    },
    send: (method, path, bytes, length, schema) => {
      // A file that can't be read ends the request as well: what is said is the cause.
      let unread: FileFailed | undefined
      const watched = Stream.tapError(bytes, (error) => Effect.sync(() => (unread = error)))
      return run(
        HttpClientRequest.make(method)(url + path).pipe(
          HttpClientRequest.setBody(HttpBody.stream(watched, "application/octet-stream", length))
        ),
        schema
      ).pipe(
        Effect.catchTag(
          "NoAnswer",
          (error): Effect.Effect<never, NoAnswer | FileFailed> => Effect.fail(unread ?? error)
        )
      )
    }
  }
  return client
})

/** Where the node of a configuration serves; `undefined` when its address is not known from outside. */
export const faceOf = (settings: Settings): string | undefined => {
  if (!settings.serverEnabled || settings.serverPort === 0) return undefined
  const anywhere = settings.serverHost === "0.0.0.0" || settings.serverHost === "::"
  return `http://${addressText({ host: anywhere ? "127.0.0.1" : settings.serverHost, port: settings.serverPort })}`
}

/** How long a node may take to say who it is. */
export const patience = Duration.seconds(2)

/** The name of the node of a configuration, when it has run. */
const nameOf = (settings: Settings) =>
  Option.isSome(settings.nodeId)
    ? Effect.succeed<string>(settings.nodeId.value)
    : Effect.tryPromise(() => readFile(join(folders(settings).state, "node-id"), "utf8")).pipe(
      Effect.map((text) => text.trim()),
      Effect.orElseSucceed(() => undefined)
    )

const environment = (name: string) => Option.fromUndefinedOr(process.env[name])

const tokenOf = (flags: NodeFlags) =>
  Option.orElse(flags.token, () => Option.map(environment("FILE_REPLICATION_TOKEN"), Redacted.make))

/** The node that was named by its address, if one was. */
export const named = Effect.fnUntraced(function*(flags: NodeFlags) {
  const url = Option.orElse(flags.url, () => environment("FILE_REPLICATION_URL")).pipe(
    Option.map((url) => (/^https?:\/\//.test(url) ? url : `http://${url}`).replace(/\/+$/, ""))
  )
  return Option.isNone(url) ? Option.none<Client>() : Option.some(yield* makeClient(url.value, tokenOf(flags)))
})

/** Where a node is asked: over HTTP, or from its files. */
export type Place =
  | { readonly _tag: "Running"; readonly client: Client; readonly settings: Settings | undefined }
  | { readonly _tag: "Files"; readonly settings: Settings }

export const place = Effect.fn("place")(function*(flags: NodeFlags): Effect.fn.Return<
  Place,
  Effect.Error<ReturnType<typeof configured>> | NoUrl,
  HttpClient.HttpClient
> {
  const byAddress = yield* named(flags)
  if (Option.isSome(byAddress)) return { _tag: "Running", client: byAddress.value, settings: undefined }
  const settings = yield* configured(flags.config)
  const face = faceOf(settings)
  if (face === undefined) return { _tag: "Files", settings }
  const client = yield* makeClient(face, Option.orElse(tokenOf(flags), () => settings.apiToken))
  const name = yield* nameOf(settings)
  const health = yield* client.call("GET", "/health", Health).pipe(Effect.timeout(patience), Effect.option)
  return name !== undefined && Option.exists(health, ({ node }) => node === name)
    ? { _tag: "Running", client, settings }
    : { _tag: "Files", settings }
})

/** For what only a running node can do. */
export const running = Effect.fn("running")(function*(flags: NodeFlags) {
  const found = yield* place(flags)
  if (found._tag === "Running") return found.client
  const face = faceOf(found.settings)
  return yield* new NoAnswer({
    url: face ?? "the node's address",
    detail: face === undefined ? "server.enabled is off or server.port is 0" : "the node of this configuration does not"
  })
})
