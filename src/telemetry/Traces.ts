/**
 * One trace a file, from its registration to its commit on every node. Nothing of it goes over the wire: each node
 * finds the trace's id in what the manifest says of the file.
 *
 * The node that publishes emits a span `publish`; each that pulls emits `replicate`, from the file's registration to its
 * commit there, with the pull below it; each that serves emits `serve`. They are spans of one trace side by side.
 */
import { Clock, Context, Effect, Exit, Option, Tracer } from "effect"
import { createHash } from "node:crypto"
import type { FileEntry } from "../ports/FileEntry.ts"

/** For a span that is made for every file: its own stack costs more than the span. */
export const withoutStack: Tracer.TraceOptions = { captureStackTrace: false }

/** The trace of a file, as the parent of spans that have none: a parent without an id is no parent to a collector. */
const traceOf = ({ created_at, path, sha256 }: FileEntry): Tracer.ExternalSpan => {
  const digest = createHash("sha256").update(`${path}\0${sha256}\0${created_at}`).digest("hex")
  return Tracer.externalSpan({ traceId: digest.slice(0, 32), spanId: "" })
}

/** What makes spans; `undefined` when nobody would see them. */
const listening = Effect.map(Effect.tracer, (tracer) => tracer === Tracer.nativeTracer ? undefined : tracer)

/** Begins a span of a file's trace. */
const begin = (
  tracer: Tracer.Tracer,
  name: string,
  kind: Tracer.SpanKind,
  entry: FileEntry,
  startTime: bigint
): Tracer.Span => {
  const span = tracer.span({
    name,
    parent: Option.some(traceOf(entry)),
    annotations: Context.empty(),
    links: [],
    startTime,
    kind,
    root: false,
    sampled: true
  })
  span.attribute("file.path", entry.path)
  span.attribute("file.size", entry.size_bytes)
  return span
}

/** Nanoseconds since 1970 of an RFC 3339 time; `undefined` of a leap second, and of one that no calendar has. */
const nanosOf = (time: string): bigint | undefined => {
  const seconds = Math.floor(Date.parse(time) / 1000)
  if (Number.isNaN(seconds)) return undefined
  const fraction = (/\.(\d{1,9})/.exec(time)?.[1] ?? "").padEnd(9, "0")
  return BigInt(seconds) * 1_000_000_000n + BigInt(fraction)
}

/**
 * Runs an effect in a span of the file's trace that began when the file was registered. `describe` gives what is told of
 * the outcome.
 */
export const sinceRegistration = <Told>(
  name: "publish" | "replicate",
  entry: FileEntry,
  node: string,
  describe: (outcome: Told) => Readonly<Record<string, unknown>>
) =>
<A extends Told, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.flatMap(listening, (tracer) =>
    tracer === undefined ? effect : Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const now = clock.currentTimeNanosUnsafe()
      const registered = nanosOf(entry.created_at) ?? now
      const kind = name === "publish" ? "producer" : "consumer"
      // Another node's clock may be ahead of ours.
      const span = begin(tracer, name, kind, entry, registered < now ? registered : now)
      span.attribute("file.origin", entry.origin_node_id)
      span.attribute("node", node)
      return yield* effect.pipe(
        Effect.withParentSpan(span, withoutStack),
        Effect.onExit((exit: Exit.Exit<A, E>) =>
          Effect.sync(() => {
            if (exit._tag === "Success") {
              for (const [key, value] of Object.entries(describe(exit.value))) span.attribute(key, value)
            }
            span.end(clock.currentTimeNanosUnsafe(), exit)
          })
        )
      )
    }))

/** Runs the sending of files, each in a span of its trace. `failure`: what befell one of them, by its place. */
export const serving = <A>(
  entries: ReadonlyArray<FileEntry>,
  node: string,
  peer: string,
  offset: number,
  failure: (outcome: A, n: number) => unknown = () => undefined
) =>
<E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.gen(function*() {
    const tracer = yield* listening
    if (tracer === undefined) return yield* effect
    const clock = yield* Clock.Clock
    const startTime = clock.currentTimeNanosUnsafe()
    const spans = entries.map((entry) => {
      const span = begin(tracer, "serve", "server", entry, startTime)
      span.attribute("node", node)
      span.attribute("peer", peer)
      span.attribute("offset", offset)
      return span
    })
    return yield* Effect.onExit(effect, (exit: Exit.Exit<A, E>) =>
      Effect.sync(() => {
        const endTime = clock.currentTimeNanosUnsafe()
        for (const [n, span] of spans.entries()) {
          const why = exit._tag === "Success" ? failure(exit.value, n) : undefined
          span.end(endTime, why === undefined ? exit : Exit.fail(why))
        }
      }))
  })
