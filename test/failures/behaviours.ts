/** What a test tells a peer that misbehaves, and what it says of itself: data, because it is a process of its own. */
import { createHash } from "node:crypto"

/** A file as a peer serves it: the bytes are those of a seed, whatever the manifest says. */
export interface Served {
  readonly seed: number
  readonly size: number
  /** What it claims their digest to be. */
  readonly sha256: string
}

/** What a peer does with one request. */
export type Behaviour =
  | { readonly what: "hang up" }
  /** Refuses with a code, or as peers do that know none: with a sentence. */
  | { readonly what: "refuse"; readonly fields: { readonly code?: string; readonly error?: string } }
  /** Says that it has the file, and sends bytes from the offset on, `count` at most; then it ends, or never does. */
  | {
    readonly what: "send"
    /** By their paths; it has no others. */
    readonly files: Readonly<Record<string, Served>>
    readonly count?: number
    readonly afterwards?: "end" | "stall"
  }

export interface Asked {
  readonly path: string
  readonly offset: number
}

export type Told = Asked | { readonly port: number } | { readonly requests: ReadonlyArray<Asked> }

/** Bytes that no other seed gives. */
export const bytesOf = (seed: number, size: number): Buffer =>
  Buffer.alloc(size, createHash("sha512").update(String(seed)).digest())
