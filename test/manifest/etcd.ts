/** Manifests on a cluster of tests. */
import { Context, Effect, Layer, type Scope, Stream } from "effect"
import * as Etcd from "../../src/etcd/EtcdClient.ts"
import * as ManifestEtcd from "../../src/manifest/ManifestEtcd.ts"
import {
  type Cursor,
  Manifest,
  ManifestCollector,
  type ManifestEvent,
  ManifestHealth
} from "../../src/ports/Manifest.ts"

/** A manifest with a client of its own, as another process would have. */
export const openManifest = (
  options: Partial<Etcd.Options> & { readonly endpoints: ReadonlyArray<string> },
  namespace = "test"
): Effect.Effect<
  {
    readonly manifest: Manifest["Service"]
    readonly collector: ManifestCollector["Service"]
    readonly health: ManifestHealth["Service"]
  },
  never,
  Scope.Scope
> =>
  Layer.build(ManifestEtcd.layer({ namespace }).pipe(Layer.provide(Etcd.layer(options)), Layer.orDie)).pipe(
    Effect.map((context) => ({
      manifest: Context.get(context, Manifest),
      collector: Context.get(context, ManifestCollector),
      health: Context.get(context, ManifestHealth)
    }))
  )

/** Why nothing can go on from a cursor, as its stream of events says. */
export const whyLost = (manifest: Manifest["Service"], cursor: Cursor) =>
  Effect.map(
    Effect.flip(Stream.runDrain(manifest.events(cursor))),
    (error) => error._tag === "CursorLost" ? error.reason : error.message
  )

/** The next `count` events behind a cursor, and the cursor behind them. */
export const nextEvents = Effect.fnUntraced(function*(manifest: Manifest["Service"], after: Cursor, count: number) {
  const events: Array<ManifestEvent> = []
  let cursor = after
  yield* manifest.events(after).pipe(
    Stream.takeUntil((batch) => {
      events.push(...batch.events)
      cursor = batch.cursor
      return events.length >= count
    }),
    Stream.runDrain
  )
  return { events, cursor }
})

export const pathsOf = (events: ReadonlyArray<ManifestEvent>): ReadonlyArray<string> =>
  events.map((event) => event._tag === "Put" ? event.file.entry.path : `-${event.path}`)
