/**
 * Protocol buffers, as far as etcd's messages need them: varints, strings, bytes and nested messages. Pure.
 *
 * Revisions and counts become a `number`, and one that would not be exact is an error; identities of clusters, members
 * and leases use all 64 bits and are `bigint`.
 */

/** The bytes are no message, or one that this client can't hold without loss. */
export class Malformed extends Error {}

/** One field, ready to be part of a message; empty for a value that is the default. */
export type Field = Uint8Array

const nothing: Field = new Uint8Array(0)

export const message = (...fields: ReadonlyArray<Field>): Uint8Array => Buffer.concat(fields)

const varint = (value: number | bigint): Array<number> => {
  const bytes: Array<number> = []
  let rest = BigInt.asUintN(64, BigInt(value))
  while (rest > 0x7fn) {
    bytes.push(Number(rest & 0x7fn) | 0x80)
    rest >>= 7n
  }
  bytes.push(Number(rest))
  return bytes
}

/** An integer, an enumeration or an identity. */
export const integer = (field: number, value: number | bigint): Field =>
  value === 0 || value === 0n ? nothing : Uint8Array.from([...varint(field << 3), ...varint(value)])

export const flag = (field: number, value: boolean): Field => integer(field, value ? 1 : 0)

/** Text, bytes or a nested message; written even when empty, because a nested message without fields says something. */
export const nested = (field: number, value: Uint8Array): Field =>
  Buffer.concat([Uint8Array.from([...varint((field << 3) | 2), ...varint(value.length)]), value])

export const data = (field: number, value: Uint8Array | string): Field => {
  const bytes = typeof value === "string" ? Buffer.from(value) : value
  return bytes.length === 0 ? nothing : nested(field, bytes)
}

/** Reads the fields of one message in the order in which they come. */
export class Reader {
  readonly #bytes: Buffer
  #at = 0
  #type = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  /** The number of the next field, 0 behind the last. */
  next(): number {
    if (this.#at >= this.#bytes.length) return 0
    const tag = this.integer()
    this.#type = tag & 7
    const field = tag >>> 3
    if (field === 0) throw new Malformed("a field has the number 0")
    return field
  }

  integer(): number {
    // Nearly all fit into four bytes; the rest is worth a bigint.
    let value = 0
    for (let i = 0; i < 4; i++) {
      const byte = this.#byte(this.#at + i)
      value |= (byte & 0x7f) << (7 * i)
      if (byte < 0x80) {
        this.#at += i + 1
        return value
      }
    }
    const exact = Number(BigInt.asIntN(64, this.identity()))
    if (!Number.isSafeInteger(exact)) throw new Malformed("an integer is too large to be exact")
    return exact
  }

  identity(): bigint {
    let value = 0n
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.#byte(this.#at++)
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return BigInt.asUintN(64, value)
    }
    throw new Malformed("an integer is longer than 64 bits")
  }

  bytes(): Buffer {
    const length = this.integer()
    const end = this.#at + length
    if (length < 0 || end > this.#bytes.length) throw new Malformed("a field ends behind its message")
    const bytes = this.#bytes.subarray(this.#at, end)
    this.#at = end
    return bytes
  }

  text(): string {
    return this.bytes().toString("utf8")
  }

  flag(): boolean {
    return this.integer() !== 0
  }

  /** Passes over a field that this version doesn't know. */
  skip(): void {
    if (this.#type === 0) this.identity()
    else if (this.#type === 1) this.#at += 8
    else if (this.#type === 2) this.bytes()
    else if (this.#type === 5) this.#at += 4
    else throw new Malformed(`a field has the unknown type ${this.#type}`)
    if (this.#at > this.#bytes.length) throw new Malformed("a field ends behind its message")
  }

  #byte(at: number): number {
    const byte = this.#bytes[at]
    if (byte === undefined) throw new Malformed("a message ends within an integer")
    return byte
  }
}
