import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as EtcdClient from "../../src/etcd/EtcdClient.ts"
import * as ManifestEtcd from "../../src/manifest/ManifestEtcd.ts"
import { suite } from "../../src/testing/manifest/suite.ts"
import { hasEtcd, missing } from "../support/etcd.ts"
import { suiteCluster } from "../support/etcdSuite.ts"

if (!hasEtcd) it("runs on real etcd", () => assert.fail(missing("the manifest on etcd")))
else {
  const theCluster = suiteCluster()

  let namespaces = 0
  /** A manifest of its own for each build. */
  const fresh = Layer.unwrap(Effect.sync(() =>
    ManifestEtcd.layer({ namespace: `test-${namespaces++}` }).pipe(
      Layer.provide(EtcdClient.layer({ endpoints: theCluster().endpoints }))
    )
  )).pipe(Layer.orDie)

  suite("etcd", fresh)
}
