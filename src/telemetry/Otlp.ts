/**
 * Sends traces, metrics and logs to a collector, by OTLP over HTTP with JSON.
 *
 * A collector that does not answer costs nothing but what it is not told: each request has its time, what can't be sent
 * is dropped, and for a minute nothing is tried. Metrics and logs go on where they also went before.
 */
import { Duration, Effect, Layer } from "effect"
import { FetchHttpClient, HttpClient, HttpClientError } from "effect/http"
import { Otlp } from "effect/observability"

export interface OtlpOptions {
  /** `http://127.0.0.1:4318`; `/v1/traces`, `/v1/metrics` and `/v1/logs` are put behind it. */
  readonly endpoint: string
  readonly version: string
  readonly clusterName: string
  /** The node's id; `undefined` when it is made at its first start. */
  readonly node: string | undefined
  readonly role: string
}

/** How long one request may take. */
const patience = Duration.seconds(5)

/** How long the last sending may hold up the end of the process, for each of the three. */
const lastPatience = Duration.millis(500)

/** Says once that nothing can be sent, until something could be again. */
const client = (endpoint: string) =>
  Layer.effect(
    HttpClient.HttpClient,
    Effect.gen(function*() {
      const inner = yield* HttpClient.HttpClient
      let silent = false
      return HttpClient.transform(inner, (response, request) =>
        response.pipe(
          Effect.timeoutOrElse({
            duration: patience,
            orElse: () => {
              const description = `no answer for ${Duration.format(patience)}`
              const reason = new HttpClientError.TransportError({ request, description })
              return Effect.fail(new HttpClientError.HttpClientError({ reason }))
            }
          }),
          Effect.tap(() => Effect.sync(() => void (silent = false))),
          Effect.tapError((error) =>
            Effect.suspend(() => {
              if (silent) return Effect.void
              silent = true
              return Effect.logWarning(`telemetry can't be sent to ${endpoint} and is dropped: ${error.message}`)
            })
          )
        ))
    })
  ).pipe(Layer.provide(FetchHttpClient.layer))

export const layer = (options: OtlpOptions): Layer.Layer<never> => {
  const { clusterName, endpoint, node, role, version } = options
  return Layer.effectDiscard(Effect.void).pipe(
    Layer.provideMerge(
      Otlp.layerJson({
        baseUrl: endpoint,
        resource: {
          serviceName: "file-replication",
          serviceVersion: version,
          attributes: {
            "service.namespace": clusterName,
            ...(node === undefined ? {} : { "service.instance.id": node }),
            "file_replication.role": role
          }
        },
        shutdownTimeout: lastPatience
      })
    ),
    Layer.provide(client(endpoint))
  )
}
