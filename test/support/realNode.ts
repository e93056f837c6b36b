/** Nodes with everything real, in this process: folders, SQLite, sockets. */
import { Context, Effect, Exit, Layer, Option, Redacted, Scope } from "effect"
import { join } from "node:path"
import { NodeId } from "../../src/ports/FileEntry.ts"
import { Manifest } from "../../src/ports/Manifest.ts"
import * as Replication from "../../src/Replication.ts"
import { Readiness } from "../../src/replication/Readiness.ts"
import { Registrar } from "../../src/replication/Registrar.ts"
import * as ReplicationConfig from "../../src/ReplicationConfig.ts"

export const dataOf = (folder: string, name: string): string => join(folder, name, "data")
export const stateOf = (folder: string, name: string): string => join(folder, name, "state")

const configure = (folder: string, name: string, given: Partial<ReplicationConfig.Settings>) =>
  ReplicationConfig.layer({
    nodeId: Option.some(NodeId.make(name)),
    localPath: dataOf(folder, name),
    statePath: Option.some(stateOf(folder, name)),
    manifestPath: Option.some(join(folder, "manifest.db")),
    coordinatorAddr: "127.0.0.1:0",
    fsync: false,
    minFreeBytes: 0,
    ...given,
    sharedSecret: Option.getOrElse(
      given.sharedSecret ?? Option.none(),
      () => Redacted.make("a secret of the tests")
    )
  })

/** Starts a node in the scope around it. */
export const start = (folder: string, name: string, given: Partial<ReplicationConfig.Settings> = {}) =>
  Layer.build(Replication.layerNode.pipe(Layer.provide(configure(folder, name, given))))

export type Node = Effect.Success<ReturnType<typeof start>>

/** Runs something with a node that starts before and has ended behind it: one life of a process. */
export const living = <A, E, R>(
  folder: string,
  name: string,
  body: (node: Node) => Effect.Effect<A, E, R>,
  given: Partial<ReplicationConfig.Settings> = {}
) =>
  Effect.acquireUseRelease(
    Scope.make(),
    (scope) => Effect.flatMap(Scope.provide(start(folder, name, given), scope), body),
    (scope) => Scope.close(scope, Exit.void)
  )

/** Waits until a node holds everything that the manifest has now. */
export const untilComplete = (node: Node) =>
  Effect.flatMap(Context.get(node, Manifest).head, Context.get(node, Readiness).await)

export const publish = (node: Node, path: string, content: Uint8Array | string) =>
  Context.get(node, Registrar).publish(
    { path },
    typeof content === "string" ? new TextEncoder().encode(content) : content
  )
