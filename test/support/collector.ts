/** A collector of OTLP over HTTP with JSON, that keeps what it is sent. */
import { Effect, Schema } from "effect"
import { createServer } from "node:http"

const Attribute = Schema.Struct({ key: Schema.String, value: Schema.Record(Schema.String, Schema.Unknown) })
const Resource = Schema.Struct({ attributes: Schema.Array(Attribute) })
const Span = Schema.Struct({
  traceId: Schema.String.check(Schema.isPattern(/^[0-9a-f]{32}$/)),
  spanId: Schema.String.check(Schema.isPattern(/^[0-9a-f]{16}$/)),
  parentSpanId: Schema.optionalKey(Schema.String.check(Schema.isPattern(/^([0-9a-f]{16})?$/))),
  name: Schema.String,
  kind: Schema.Int,
  startTimeUnixNano: Schema.BigIntFromString,
  endTimeUnixNano: Schema.BigIntFromString,
  attributes: Schema.Array(Attribute),
  status: Schema.Struct({ code: Schema.Int })
})
const Traces = Schema.Struct({
  resourceSpans: Schema.Array(Schema.Struct({
    resource: Resource,
    scopeSpans: Schema.Array(Schema.Struct({ spans: Schema.Array(Span) }))
  }))
})
const Metrics = Schema.Struct({
  resourceMetrics: Schema.Array(Schema.Struct({
    resource: Resource,
    scopeMetrics: Schema.Array(Schema.Struct({ metrics: Schema.Array(Schema.Struct({ name: Schema.String })) }))
  }))
})
const Logs = Schema.Struct({
  resourceLogs: Schema.Array(Schema.Struct({
    resource: Resource,
    scopeLogs: Schema.Array(Schema.Struct({
      logRecords: Schema.Array(Schema.Struct({ body: Schema.Record(Schema.String, Schema.Unknown) }))
    }))
  }))
})

const plain = (attributes: ReadonlyArray<typeof Attribute.Type>) =>
  Object.fromEntries(attributes.map(({ key, value }) => [key, Object.values(value)[0]]))

/** Starts one; the scope ends it. A request of another shape than OTLP's has is answered 400, and kept as `refused`. */
export const collector = Effect.gen(function*() {
  const bodies: Array<string> = []
  const refused: Array<string> = []
  const spans: Array<Omit<typeof Span.Type, "attributes"> & { service: unknown; attributes: Record<string, unknown> }> =
    []
  const metrics = new Set<string>()
  const logs: Array<unknown> = []

  const take = (path: string, body: string): void => {
    bodies.push(body)
    const json: unknown = JSON.parse(body)
    switch (path) {
      case "/v1/traces":
        for (const { resource, scopeSpans } of Schema.decodeUnknownSync(Traces)(json).resourceSpans) {
          const service = plain(resource.attributes)["service.instance.id"]
          for (const span of scopeSpans.flatMap(({ spans }) => spans)) {
            spans.push({ ...span, service, attributes: plain(span.attributes) })
          }
        }
        return
      case "/v1/metrics":
        for (const { scopeMetrics } of Schema.decodeUnknownSync(Metrics)(json).resourceMetrics) {
          for (const { name } of scopeMetrics.flatMap(({ metrics }) => metrics)) metrics.add(name)
        }
        return
      case "/v1/logs":
        for (const { scopeLogs } of Schema.decodeUnknownSync(Logs)(json).resourceLogs) {
          logs.push(...scopeLogs.flatMap(({ logRecords }) => logRecords.map(({ body }) => Object.values(body)[0])))
        }
        return
      default:
        throw new Error(`nothing is sent to ${path}`)
    }
  }

  const url = yield* serve((path, body) => {
    try {
      take(path, body)
      return 200
    } catch (error) {
      refused.push(String(error))
      return 400
    }
  })
  return { url, bodies, refused, spans, metrics, logs }
})

/** One that takes connections and requests, and never answers. */
export const silentCollector = serve(() => undefined)

function serve(answer: (path: string, body: string) => number | undefined) {
  return Effect.acquireRelease(
    Effect.callback<{ readonly url: string; readonly close: () => void }>((resume) => {
      const server = createServer((request, response) => {
        const chunks: Array<Buffer> = []
        request.on("data", (chunk: Buffer) => chunks.push(chunk))
        request.on("end", () => {
          const code = answer(request.url ?? "", Buffer.concat(chunks).toString())
          if (code !== undefined) response.writeHead(code, { "content-type": "application/json" }).end("{}")
        })
      })
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        const port = address !== null && typeof address === "object" ? address.port : 0
        const close = () => {
          server.closeAllConnections()
          server.close()
        }
        resume(Effect.succeed({ url: `http://127.0.0.1:${port}`, close }))
      })
    }),
    ({ close }) => Effect.sync(close)
  ).pipe(Effect.map(({ url }) => url))
}
