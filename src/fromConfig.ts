/** Layers that stand on the configuration. */
import { Context, Effect, Equal, Layer, type Scope } from "effect"
import type { StartError } from "./Replication.ts"
import { ConfigError, ReplicationConfig, type Settings } from "./ReplicationConfig.ts"

/** The configuration that a graph of layers was built with first. */
class BuiltWith extends Context.Service<BuiltWith, Settings>()("file-replication/BuiltWith") {}

const builtWith = Layer.effect(BuiltWith, ReplicationConfig)

/**
 * Effect builds a layer once in a graph, whatever is provided to it: of two nodes the second would silently be the first.
 * This layer fails with {@link ConfigError} where the graph has another configuration already.
 */
export const oneConfig = <A, E, R>(
  layer: Layer.Layer<A, E, R | ReplicationConfig>
): Layer.Layer<A, E | ConfigError, R | ReplicationConfig> =>
  // Not memoized itself, so that it is asked each time.
  Layer.fromBuild((memoMap, scope) =>
    Effect.gen(function*() {
      const first = Context.get(yield* Layer.buildWithMemoMap(builtWith, memoMap, scope), BuiltWith)
      if (!Equal.equals(first, yield* ReplicationConfig)) {
        const offence =
          "this graph of layers has a node of another configuration already, and Effect builds a layer once "
          + "in a graph, so that both would be one node: put Layer.fresh around each whole node"
        return yield* new ConfigError({ offences: [offence] })
      }
      return yield* Layer.buildWithMemoMap(layer, memoMap, scope)
    })
  )

/** A layer from the settings. */
export const fromConfig = <A, E, R>(
  make: (settings: Settings) => Effect.Effect<Layer.Layer<A, E, R>, StartError, Scope.Scope>
): Layer.Layer<A, E | StartError, R | ReplicationConfig> =>
  oneConfig(Layer.unwrap(Effect.flatMap(ReplicationConfig, make)))
