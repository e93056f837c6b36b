/** Mutual TLS between nodes: one certificate a node, one authority for all. */
import { Effect, Redacted, Schema } from "effect"
import { createSecureContext } from "node:tls"

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

export const prepare = (identity: TlsIdentity): Effect.Effect<TlsMaterial, TlsInvalid> =>
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
