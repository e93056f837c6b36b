/**
 * An authority of one's own and the certificates of its nodes, as PEM text. Keys are ECDSA on P-256.
 *
 * The library that makes them is loaded when it is first needed: no node pays for it.
 */
import { DateTime, Effect, Schema } from "effect"
import { randomBytes, webcrypto } from "node:crypto"
import { isNumeric, nodeUri } from "../peer/transport/Tls.ts"

/** A certificate could not be made, or what was given is none. */
export class CertificateFailed extends Schema.TaggedError<CertificateFailed>()("CertificateFailed", {
  detail: Schema.String
}) {
  override get message(): string {
    return this.detail
  }
}

/** A certificate and its private key, PEM. */
export interface Issued {
  readonly certificate: string
  readonly key: string
}

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" }

const library = Effect.promise(async () => {
  await import("reflect-metadata")
  return await import("@peculiar/x509")
})

const attempt = <A>(what: string, run: () => Promise<A>): Effect.Effect<A, CertificateFailed> =>
  Effect.tryPromise({
    try: run,
    catch: (cause) =>
      new CertificateFailed({ detail: `${what}: ${cause instanceof Error ? cause.message : String(cause)}` })
  })

const validity = (days: number) =>
  Effect.map(DateTime.now, (now) => ({
    // Clocks of nodes differ a little.
    notBefore: DateTime.toDateUtc(DateTime.subtract(now, { hours: 1 })),
    notAfter: DateTime.toDateUtc(DateTime.add(now, { days }))
  }))

/** Positive, for the highest bit is 0. */
const serialNumber = (): string => {
  const bytes = randomBytes(16)
  bytes[0] = (bytes[0] ?? 0) & 0x7f | 1
  return bytes.toString("hex")
}

const makeKeys = attempt("no key was made", () => webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]))

const toPem = (der: ArrayBuffer): string =>
  `-----BEGIN PRIVATE KEY-----\n${
    Buffer.from(der).toString("base64").replace(/(.{64})(?=.)/g, "$1\n")
  }\n-----END PRIVATE KEY-----\n`

const pemOf = Effect.fnUntraced(function*(key: webcrypto.CryptoKey) {
  return toPem(yield* attempt("the key can't be written", () => webcrypto.subtle.exportKey("pkcs8", key)))
})

/** Makes an authority. */
export const makeAuthority = Effect.fn("makeAuthority")(function*(name: string, days: number) {
  const x509 = yield* library
  const keys = yield* makeKeys
  const span = yield* validity(days)
  const certificate = yield* attempt(
    "the authority was not made",
    async () =>
      x509.X509CertificateGenerator.createSelfSigned({
        ...span,
        serialNumber: serialNumber(),
        name: [{ CN: [name] }],
        keys,
        signingAlgorithm: algorithm,
        extensions: [
          new x509.BasicConstraintsExtension(true, 0, true),
          new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
          await x509.SubjectKeyIdentifierExtension.create(keys.publicKey)
        ]
      })
  )
  return { certificate: `${certificate.toString("pem")}\n`, key: yield* pemOf(keys.privateKey) } satisfies Issued
})

/** Makes a node's certificate: good for this node, as a server at these names and addresses, and as a client. */
export const issue = Effect.fn("issue")(function*(options: {
  readonly authority: Issued
  readonly node: string
  readonly hosts: ReadonlyArray<string>
  readonly days: number
}) {
  const x509 = yield* library
  const keys = yield* makeKeys
  const span = yield* validity(options.days)
  const certificate = yield* attempt(`the certificate of ${options.node} was not made`, async () => {
    const issuer = new x509.X509Certificate(options.authority.certificate)
    const der = x509.PemConverter.decodeFirst(options.authority.key)
    const signingKey = await webcrypto.subtle.importKey("pkcs8", der, algorithm, false, ["sign"])
    return await x509.X509CertificateGenerator.create({
      ...span,
      serialNumber: serialNumber(),
      subject: [{ CN: [options.node] }],
      issuer: issuer.subjectName,
      publicKey: keys.publicKey,
      signingKey,
      signingAlgorithm: algorithm,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
        new x509.SubjectAlternativeNameExtension([
          ...options.hosts.map((host) => ({ type: isNumeric(host) ? "ip" : "dns", value: host } as const)),
          { type: "url", value: nodeUri(options.node) }
        ]),
        await x509.AuthorityKeyIdentifierExtension.create(issuer)
      ]
    })
  })
  return { certificate: `${certificate.toString("pem")}\n`, key: yield* pemOf(keys.privateKey) } satisfies Issued
})
