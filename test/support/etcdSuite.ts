/** One cluster of etcd for all tests of a file. */
import { Effect, Exit, Scope } from "effect"
import { afterAll, beforeAll } from "vitest"
import { type Cluster, type ClusterOptions, startCluster } from "./etcd.ts"

/** Starts before the first test and ends behind the last; give it to tests, which run in between. */
export const suiteCluster = (options: ClusterOptions = {}): () => Cluster => {
  const scope = Effect.runSync(Scope.make())
  let cluster: Cluster | undefined
  beforeAll(() =>
    Effect.runPromise(Effect.map(Scope.provide(startCluster(options), scope), (started) => {
      cluster = started
    }))
  )
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))
  return () => {
    if (cluster === undefined) throw new Error("the cluster has not been started: ask for it within a test")
    return cluster
  }
}
