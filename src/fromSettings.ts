/** What the parts of a node are made with, from its settings: addresses, certificates, secrets. */
import { Effect, Option, Redacted } from "effect"
import { mkdir, readFile } from "node:fs/promises"
import { networkInterfaces } from "node:os"
import type * as EtcdClient from "./etcd/EtcdClient.ts"
import { type ReadIdentity, type TlsIdentity, TlsInvalid } from "./peer/transport/Tls.ts"
import { type Address, parseAddress } from "./ports/Membership.ts"
import { ConfigError, type Settings } from "./ReplicationConfig.ts"

export const wire = (settings: Settings) => ({
  clusterName: settings.clusterName,
  secret: Option.getOrElse(settings.sharedSecret, () => Redacted.make("")),
  previousSecret: Option.getOrUndefined(settings.sharedSecretPrevious)
})

export const listenAddress = (settings: Settings): { readonly host: string; readonly port: number } =>
  Option.getOrElse(parseAddress(settings.coordinatorAddr), () => ({ host: "", port: 9100 }))

const wildcards: ReadonlySet<string> = new Set(["", "0.0.0.0", "::"])

/** Where peers reach this node: what is configured, else the address it listens on, else this machine. */
export const advertised = (settings: Settings, port: number): Effect.Effect<Address, ConfigError> =>
  Effect.suspend(() => {
    const configured = Option.flatMap(settings.advertiseAddr, parseAddress)
    if (Option.isSome(configured)) return Effect.succeed(configured.value)
    const { host } = listenAddress(settings)
    if (!wildcards.has(host)) return Effect.succeed({ host, port })
    // A SQLite manifest is shared by the nodes of one machine only.
    if (settings.manifest === "sqlite") return Effect.succeed({ host: "127.0.0.1", port })
    const [own, ...others] = ownAddresses(networkInterfaces())
    if (own !== undefined && others.length === 0) return Effect.succeed({ host: own, port })
    const found = own === undefined ? "has none" : `has several: ${[own, ...others].join(", ")}`
    const offence =
      "cluster.advertise_addr is missing: it tells the nodes of other machines where to reach this one, and "
      + `can only be left out when this machine has one address; it ${found}`
    return Effect.fail(new ConfigError({ offences: [offence] }))
  })

/** The addresses by which other machines may reach this one; of version 6 only when there are no others. */
export const ownAddresses = (interfaces: ReturnType<typeof networkInterfaces>): ReadonlyArray<string> => {
  const outer = Object.values(interfaces).flatMap((addresses) => addresses ?? []).filter(({ address, internal }) =>
    !internal && !/^(?:fe80:|169\.254\.)/i.test(address)
  )
  const family = outer.some(({ family }) => family === "IPv4") ? "IPv4" : "IPv6"
  return outer.filter((one) => one.family === family).map(({ address }) => address)
}

/**
 * How this node's identity is read, and read again; `undefined` without TLS. Fails with what a start must say when a file
 * can't be read.
 */
export const tlsIdentity = Effect.fnUntraced(function*(settings: Settings) {
  const { tlsCaFile, tlsCertFile, tlsKeyFile } = settings
  if (!settings.tlsEnabled || Option.isNone(tlsCaFile) || Option.isNone(tlsCertFile) || Option.isNone(tlsKeyFile)) {
    return undefined
  }
  const read = Effect.map(
    Effect.all([
      readText("cluster.tls_cert_file", tlsCertFile.value),
      readText("cluster.tls_key_file", tlsKeyFile.value),
      readText("cluster.tls_ca_file", tlsCaFile.value)
    ]),
    ([certificate, key, authority]): TlsIdentity => ({ certificate, key: Redacted.make(key), authority })
  )
  yield* read
  const again: ReadIdentity = Effect.mapError(read, ({ offences }) => new TlsInvalid({ detail: offences.join("; ") }))
  return again
})

const unusable = (offence: string) => (cause: unknown) =>
  new ConfigError({ offences: [`${offence}: ${cause instanceof Error ? cause.message : String(cause)}`] })

const readText = (key: string, path: string) =>
  Effect.tryPromise({ try: () => readFile(path, "utf8"), catch: unusable(`${key} ${path} can't be read`) })

export const makeFolder = (path: string) =>
  Effect.tryPromise({
    try: () => mkdir(path, { recursive: true }),
    catch: unusable(`the folder ${path} can't be made`)
  })

/** How etcd is reached. */
export const etcdOptions = Effect.fnUntraced(function*(settings: Settings) {
  const { etcdCaFile, etcdCertFile, etcdEndpoints, etcdKeyFile, etcdPassword, etcdUser } = settings
  const tls: EtcdClient.Options["tls"] = {
    ...(Option.isNone(etcdCaFile) ? {} : { authority: yield* readText("cluster.etcd_ca_file", etcdCaFile.value) }),
    ...(Option.isNone(etcdCertFile) || Option.isNone(etcdKeyFile) ? {} : {
      certificate: yield* readText("cluster.etcd_cert_file", etcdCertFile.value),
      key: Redacted.make(yield* readText("cluster.etcd_key_file", etcdKeyFile.value))
    })
  }
  const options: EtcdClient.Options = {
    endpoints: etcdEndpoints,
    ...(Object.keys(tls).length > 0 ? { tls } : {}),
    ...(Option.isNone(etcdUser) || Option.isNone(etcdPassword) ? {} : {
      user: { name: etcdUser.value, password: etcdPassword.value }
    })
  }
  return options
})

/** Under which the keys of this cluster begin. */
export const etcdNamespace = (settings: Settings): string =>
  Option.getOrElse(settings.etcdNamespace, () => settings.clusterName)
