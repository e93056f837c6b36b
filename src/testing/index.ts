/** What the tests of an application need: `effect-file-replication/testing`. */
export * as Cluster from "./Cluster.ts"
