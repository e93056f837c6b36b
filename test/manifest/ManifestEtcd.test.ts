import { assert, it } from "@effect/vitest"
import { Effect, Exit, Layer, Scope } from "effect"
import { afterAll, beforeAll } from "vitest"
import * as EtcdClient from "../../src/etcd/EtcdClient.ts"
import * as ManifestEtcd from "../../src/manifest/ManifestEtcd.ts"
import { suite } from "../../src/testing/manifest/suite.ts"
import { type Cluster, hasEtcd, missing, startCluster } from "../support/etcd.ts"

if (!hasEtcd) it("runs on real etcd", () => assert.fail(missing("the manifest on etcd")))
else {
  const scope = Effect.runSync(Scope.make())
  let cluster: Cluster
  beforeAll(() =>
    Effect.runPromise(Effect.map(Scope.provide(startCluster(), scope), (started) => {
      cluster = started
    }))
  )
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  let namespaces = 0
  /** A manifest of its own for each build. */
  const fresh = Layer.unwrap(Effect.sync(() =>
    ManifestEtcd.layer({ namespace: `test-${namespaces++}` }).pipe(
      Layer.provide(EtcdClient.layer({ endpoints: cluster.endpoints }))
    )
  )).pipe(Layer.orDie)

  suite("etcd", fresh)
}
