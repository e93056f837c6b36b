import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Option, Redacted, Result, Runtime } from "effect"
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { environmentName, resolve } from "../../src/config/resolve.ts"
import { settings } from "../../src/config/settings.ts"
import { ConfigError, folders, layer, load, ReplicationConfig } from "../../src/ReplicationConfig.ts"
import { temporaryFolder } from "../support/folder.ts"

const none = { environment: {}, secretFiles: new Map<string, Result.Result<string, string>>() }
const offences = (input: Partial<Parameters<typeof resolve>[0]>): ReadonlyArray<string> =>
  Result.match(resolve({ ...none, ...input }), { onFailure: (all) => all, onSuccess: () => [] })
const accepted = (input: Partial<Parameters<typeof resolve>[0]>) => Result.getOrThrow(resolve({ ...none, ...input }))

describe("ReplicationConfig", () => {
  it("is standalone by default", () => {
    const { settings, warnings } = accepted({})
    assert.isFalse(settings.clusterEnabled)
    assert.isFalse(settings.replicationEnabled)
    assert.strictEqual(settings.coordinatorAddr, ":9100")
    assert.deepStrictEqual(warnings, [])
  })

  it("refuses to replicate without a shared secret, and with an empty one", () => {
    const enabled = "[cluster]\nenabled = true\nreplication_enabled = true\n"
    for (const file of [enabled, `${enabled}shared_secret = ""\n`]) {
      assert.include(offences({ file }).join("\n"), "cluster.shared_secret is empty")
    }
    assert.deepStrictEqual(offences({ file: `${enabled}shared_secret = "s"\n` }), [])
  })

  it("reads a secret from a file, and refuses to be told twice", () => {
    const file = `[cluster]\nshared_secret_file = "/run/secret"\n`
    const secretFiles = new Map([["/run/secret", Result.succeed("from a file\n")]])
    const { settings } = accepted({ file, secretFiles })
    assert.deepStrictEqual(Option.map(settings.sharedSecret, Redacted.value), Option.some("from a file"))
    const twice = offences({ file, secretFiles, environment: { ARC_CLUSTER_SHARED_SECRET: "x" } })
    assert.match(twice.join(), /shared_secret and cluster.shared_secret_file are both set/)
  })

  it("names every offence at once, with its key, where it came from and what would be right", () => {
    const all = offences({
      file:
        "[cluster]\nreplication_pull_workers = 0\nnode_id = \"a b\"\nrole = \"king\"\n[storage]\nfsync = \"maybe\"\n",
      environment: { ARC_CLUSTER_REPLICATION_QUEUE_SIZE: "many", ARC_CLUSTER_COORDINATOR_ADDR: "nowhere" }
    })
    assert.strictEqual(all.length, 6)
    for (
      const part of [
        "cluster.replication_pull_workers (file): Expected an integer from 1 to 256",
        "cluster.node_id (file): Expected 1 to 128 of A-Z a-z 0-9 . _ -",
        `cluster.role (file): Expected "writer" | "reader"`,
        "storage.fsync (file)",
        "cluster.replication_queue_size (ARC_CLUSTER_REPLICATION_QUEUE_SIZE)",
        "cluster.coordinator_addr (ARC_CLUSTER_COORDINATOR_ADDR): an address such as"
      ]
    ) assert.include(all.join("\n"), part)
  })

  it("lets the environment override the file", () => {
    const { settings } = accepted({
      file: "[cluster]\nreplication_pull_workers = 2\npeers = [\"a@h:1\"]\n",
      environment: {
        ARC_CLUSTER_REPLICATION_PULL_WORKERS: "7",
        ARC_STORAGE_FSYNC: "false",
        ARC_CLUSTER_PEERS: "b@h:2, c@h:3"
      }
    })
    assert.strictEqual(settings.pullWorkers, 7)
    assert.isFalse(settings.fsync)
    assert.deepStrictEqual(settings.peers, ["b@h:2", "c@h:3"])
  })

  it("warns of unknown keys with the nearest known one, and goes on", () => {
    const { warnings } = accepted({
      file: "[cluster]\nreplication_pull_worker = 3\n[query]\ntimeout = 1\n",
      environment: { ARC_STORAGE_LOCALPATH: "/x" }
    })
    assert.include(warnings.join("\n"), "did you mean cluster.replication_pull_workers?")
    assert.include(warnings.join("\n"), "[query] is no table of ours")
    assert.include(warnings.join("\n"), "did you mean ARC_STORAGE_LOCAL_PATH?")
  })

  it("says that a file is no TOML", () => {
    assert.match(offences({ file: "[cluster\n" }).join(), /not valid TOML/)
  })

  it("needs every file of an identity when TLS is on", () => {
    const all = offences({ file: "[cluster]\ntls_enabled = true\ntls_cert_file = \"c\"\n" })
    assert.strictEqual(all.length, 2)
    assert.match(all.join(), /tls_key_file is missing.*tls_ca_file is missing/)
  })

  it("decodes every default back to itself, and gives every key one name in the environment", () => {
    const names = new Set(Object.values(settings).map(({ key }) => environmentName(key)))
    assert.strictEqual(names.size, Object.keys(settings).length)
    for (const setting of Object.values(settings)) {
      if (Option.isOption(setting.default)) continue
      const [table, name] = setting.key.split(".")
      assert.deepStrictEqual(offences({ file: `[${table}]\n${name} = ${JSON.stringify(setting.default)}\n` }), [])
    }
  })

  it.live("is read from the file that ARC_CONFIG names, and the option wins over it", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const write = (name: string, workers: number) => {
        const path = join(folder, name)
        const text = `[cluster]\nreplication_pull_workers = ${workers}\n`
        return Effect.as(Effect.promise(() => writeFile(path, text)), path)
      }
      const environment = { ARC_CONFIG: yield* write("a.toml", 5) }
      const other = yield* write("b.toml", 6)
      assert.strictEqual((yield* load({ file: Option.none(), environment })).pullWorkers, 5)
      assert.strictEqual((yield* load({ file: Option.some(other), environment })).pullWorkers, 6)
    }))

  it.live("fails with exit code 2 and one message when a file can't be read", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(load({ file: Option.some("/nowhere/node.toml"), environment: {} }))
      assert.instanceOf(error, ConfigError)
      assert.strictEqual(Runtime.getErrorExitCode(error), 2)
      assert.include(error.message, "/nowhere/node.toml can't be read")
    }))

  it.live("names the key of a secret's file that can't be read or is no text, beside every other offence", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const path = join(folder, "node.toml")
      const binary = join(folder, "binary")
      yield* Effect.promise(() => writeFile(binary, Buffer.from("c3281f", "hex")))
      const text =
        `[cluster]\nenabled = true\nreplication_enabled = true\nshared_secret_file = "${binary}"\n[server]\nport = -1\napi_token_file = "/nowhere/token"\n`
      yield* Effect.promise(() => writeFile(path, text))
      const { offences } = yield* Effect.flip(
        load({
          file: Option.some(path),
          environment: { ARC_CLUSTER_SHARED_SECRET_PREVIOUS_FILE: "5" }
        })
      )
      assert.strictEqual(offences.length, 4)
      for (
        const part of [
          `cluster.shared_secret_file (file): ${binary} is no text: it is not UTF-8`,
          "server.api_token_file (file): /nowhere/token can't be read: ENOENT",
          "cluster.shared_secret_previous_file (ARC_CLUSTER_SHARED_SECRET_PREVIOUS_FILE): Expected the path of a file",
          "server.port (file): "
        ]
      ) assert.include(offences.join("\n"), part)
    }))

  it.effect("keeps secrets out of what it prints", () =>
    Effect.gen(function*() {
      const settings = yield* ReplicationConfig
      assert.notInclude(JSON.stringify(settings), "swordfish")
      assert.notInclude(String(Option.getOrThrow(settings.sharedSecret)), "swordfish")
    }).pipe(Effect.provide(layer({ sharedSecret: Redacted.make("swordfish") }))))

  it.effect("checks what a program gives like what a file says", () =>
    Effect.gen(function*() {
      const right = { sharedSecret: Redacted.make("s") }
      const wrong: ReadonlyArray<readonly [Parameters<typeof layer>[0], RegExp]> = [
        [{ sharedSecret: Redacted.make("") }, /cluster\.shared_secret is empty/],
        [{ ...right, tlsEnabled: true }, /cluster\.tls_cert_file is missing/],
        [{ ...right, coordinatorAddr: "localhost" }, /cluster\.coordinator_addr/],
        [{ ...right, peers: ["nonsense"] }, /cluster\.peers/],
        [{ ...right, pullWorkers: 0 }, /cluster\.replication_pull_workers/]
      ]
      for (const [given, message] of wrong) {
        const error = yield* Effect.flip(Effect.scoped(Layer.build(layer(given))))
        assert.match(error.message, message)
      }
    }))

  it("puts a node's state into its data folder, and the shared manifest beside it", () => {
    const { settings } = accepted({ file: "[storage]\nlocal_path = \"/srv/a/data\"\n" })
    assert.deepStrictEqual(folders(settings), {
      data: "/srv/a/data",
      state: "/srv/a/data/.replication",
      inventory: "/srv/a/data/.replication/inventory.db",
      manifest: "/srv/a/manifest.db"
    })
  })
})
