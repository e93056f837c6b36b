import { assert, describe, it } from "@effect/vitest"
import { Effect, Option, Redacted, Result } from "effect"
import { resolve } from "../../src/config/resolve.ts"
import { type Settings } from "../../src/config/settings.ts"
import { advertised, ownAddresses } from "../../src/fromSettings.ts"

const settle = (lines: ReadonlyArray<string>) =>
  resolve({
    file: ["[cluster]", ...lines].join("\n"),
    environment: {},
    secretFiles: new Map([["/run/password", Result.succeed("from a file\n")]])
  })
const offences = (...lines: ReadonlyArray<string>): ReadonlyArray<string> =>
  Result.match(settle(lines), { onFailure: (all) => all, onSuccess: () => [] })
const settings = (...lines: ReadonlyArray<string>): Settings => Result.getOrThrow(settle(lines)).settings

const etcd = [`manifest = "etcd"`, `etcd_endpoints = ["https://10.0.0.1:2379", "https://[::1]:2379"]`]

describe("the settings of etcd", () => {
  it("are a manifest and its endpoints; the rest may be left out", () => {
    const { etcdEndpoints, etcdNamespace, manifest } = settings(...etcd)
    assert.deepStrictEqual([manifest, etcdEndpoints.length, Option.isNone(etcdNamespace)], ["etcd", 2, true])
  })

  it("take the password from a file", () => {
    const { etcdPassword } = settings(...etcd, `etcd_user = "node"`, `etcd_password_file = "/run/password"`)
    assert.deepStrictEqual(Option.map(etcdPassword, Redacted.value), Option.some("from a file"))
  })

  it("say what is missing, and what does not fit together", () => {
    assert.include(offences(`manifest = "etcd"`).join(), `cluster.etcd_endpoints is missing: cluster.manifest = "etcd"`)
    assert.include(offences(`membership = "etcd"`).join(), `cluster.membership = "etcd" needs it`)
    assert.include(offences(...etcd, `etcd_key_file = "key.pem"`).join(), "belong together")
    assert.include(offences(...etcd, `etcd_user = "node"`).join(), "cluster.etcd_password belong together")
    const mixed = offences(`etcd_endpoints = ["https://10.0.0.1:2379", "10.0.0.2:2379"]`)
    assert.include(mixed.join(), "begin with https://")
    for (const endpoint of ["10.0.0.1", ":2379", "https://", "ftp://10.0.0.1:2379", "10.0.0.1:0"]) {
      assert.include(offences(`etcd_endpoints = ["${endpoint}"]`).join(), "an endpoint such as", endpoint)
    }
    for (const namespace of ["", "/a", "a/", "a//b", "a b"]) {
      assert.include(offences(`etcd_namespace = "${namespace}"`).join(), "cluster.etcd_namespace", namespace)
    }
  })
})

const address = (address: string, family: "IPv4" | "IPv6" = "IPv4", internal = false) =>
  family === "IPv4"
    ? { address, family, internal, netmask: "", mac: "", cidr: null }
    : { address, family, internal, netmask: "", mac: "", cidr: null, scopeid: 0 }

describe("where peers reach a node", () => {
  it("is what is configured, else the address it listens on, on either engine", () => {
    for (const engine of [[], etcd]) {
      const told = advertised(settings(...engine, `advertise_addr = "node-1:9100"`), 1)
      assert.deepStrictEqual(Effect.runSync(told), { host: "node-1", port: 9100 })
      const listens = advertised(settings(...engine, `coordinator_addr = "10.0.0.7:0"`), 1234)
      assert.deepStrictEqual(Effect.runSync(listens), { host: "10.0.0.7", port: 1234 })
    }
  })

  it("is this machine only with a manifest that no other machine shares", () => {
    assert.deepStrictEqual(Effect.runSync(advertised(settings(), 1234)), { host: "127.0.0.1", port: 1234 })
    const answer = Effect.runSync(Effect.result(advertised(settings(...etcd), 1234)))
    if (Result.isFailure(answer)) assert.include(answer.failure.message, "cluster.advertise_addr is missing")
    else assert.notInclude(["127.0.0.1", "::1", ""], answer.success.host)
  })

  it("is an address that others can dial: of version 4 where there is one, never of this machine or this link", () => {
    assert.deepStrictEqual(
      ownAddresses({
        lo: [address("127.0.0.1", "IPv4", true), address("::1", "IPv6", true)],
        eth0: [address("10.0.0.7"), address("fe80::1", "IPv6"), address("2001:db8::7", "IPv6")],
        eth1: [address("169.254.1.1")]
      }),
      ["10.0.0.7"]
    )
    assert.deepStrictEqual(ownAddresses({ eth0: [address("fe80::1", "IPv6"), address("2001:db8::7", "IPv6")] }), [
      "2001:db8::7"
    ])
    assert.deepStrictEqual(ownAddresses({ lo: [address("127.0.0.1", "IPv4", true)] }), [])
  })
})
