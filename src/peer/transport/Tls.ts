/** Mutual TLS between nodes: one certificate a node, one authority for all. */
import { Duration, Effect, Redacted, Schema, type Scope } from "effect"
import { isIP, type Socket } from "node:net"
import { createSecureContext, TLSSocket } from "node:tls"

/** What a node shows and whom it trusts, as PEM text. */
export interface TlsIdentity {
  readonly certificate: string
  readonly key: Redacted.Redacted<string>
  /** The authority that signed every node's certificate. */
  readonly authority: string
}

/** The certificate, the key or the authority can't be used. */
export class TlsInvalid extends Schema.TaggedError<TlsInvalid>()("TlsInvalid", { detail: Schema.String }) {
  override get message(): string {
    return `the TLS certificate, key or authority can't be used: ${this.detail}`
  }
}

/** An identity that has been found usable, in the form that `node:tls` takes. */
export interface TlsMaterial {
  readonly cert: string
  readonly key: string
  readonly ca: string
  readonly minVersion: "TLSv1.2"
}

const prepare = (identity: TlsIdentity): Effect.Effect<TlsMaterial, TlsInvalid> =>
  Effect.try({
    try: () => {
      const material: TlsMaterial = {
        cert: identity.certificate,
        key: Redacted.value(identity.key),
        ca: identity.authority,
        minVersion: "TLSv1.2"
      }
      createSecureContext(material)
      return material
    },
    catch: (cause) => new TlsInvalid({ detail: cause instanceof Error ? cause.message : String(cause) })
  })

/** Reads an identity. It is read again and again, because certificates are renewed while a node runs. */
export type ReadIdentity = Effect.Effect<TlsIdentity, TlsInvalid>

/** An identity that is read again from time to time. */
export interface Followed {
  /** The newest that could be used. */
  readonly current: () => TlsMaterial
  /** Told of each newer one, as long as the scope is open in which it was asked for. */
  readonly onRenewed: (listener: (material: TlsMaterial) => void) => void
}

/** Between two looks at the files. */
const lookEvery = Duration.seconds(10)

/**
 * Reads an identity now, which must be usable, and again from time to time. One that can't be used, half of it replaced
 * for example, is told once and the older one stays.
 */
export const follow = Effect.fnUntraced(function*(
  read: ReadIdentity
): Effect.fn.Return<Followed, TlsInvalid, Scope.Scope> {
  const load = Effect.flatMap(read, prepare)
  const listeners: Array<(material: TlsMaterial) => void> = []
  let current = yield* load
  let told = ""

  const look = load.pipe(
    Effect.flatMap((material) => {
      told = ""
      if (material.cert === current.cert && material.key === current.key && material.ca === current.ca) {
        return Effect.void
      }
      current = material
      for (const listener of listeners) listener(material)
      return Effect.logInfo("the TLS certificate was renewed; new connections use it")
    }),
    Effect.catchTag("TlsInvalid", (error) => {
      if (told === error.message) return Effect.void
      told = error.message
      return Effect.logWarning(`${error.message}; the older one stays in use`)
    })
  )
  yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep(lookEvery), look)))
  return {
    current: () => current,
    onRenewed: (listener) => void listeners.push(listener)
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// The name in a certificate
// ---------------------------------------------------------------------------------------------------------------------

/** What a certificate names its node by, among its alternative names. */
export const nodeUri = (id: string): string => `urn:file-replication:node:${id}`

const namedNode = /(?:^|, )URI:urn:file-replication:node:([A-Za-z0-9._-]{1,128})(?=,|$)/

/** Whether a host is an address in numbers: a certificate holds those apart from names. */
export const isNumeric = (host: string): boolean => isIP(host) !== 0

/**
 * The node that the other side's certificate was made for; `undefined` without TLS, and for a certificate that names
 * addresses only.
 */
export const certifiedNode = (socket: Socket): string | undefined =>
  socket instanceof TLSSocket ? namedNode.exec(socket.getPeerCertificate().subjectaltname ?? "")?.[1] : undefined
