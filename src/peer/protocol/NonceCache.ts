/**
 * Remembers the nonces of authenticated requests for as long as their timestamps could be accepted again.
 *
 * A nonce is kept as 16 bytes of its SHA-256, in a bucket for its timestamp's minute; a bucket is dropped whole once its
 * last timestamp is too old. A bucket is made of many small open-addressing tables over typed arrays, so that the cost
 * is about 20 bytes a nonce and no single growth is long enough to be felt. The number of nonces is bounded; a full
 * cache refuses, because forgetting would let a replay pass.
 */
import { hash } from "node:crypto"

/**
 * `fresh`: never seen, and remembered from now on. `seen`: seen before, or of a time whose nonces were already dropped
 * (the clock was set back). `full`: not remembered, so it must be refused.
 */
export type NonceAnswer = "fresh" | "seen" | "full"

export interface NonceCache {
  /** `timestamp` and `now` in seconds since 1970; the caller has found `timestamp` within the window around `now`. */
  readonly remember: (nonce: string, timestamp: number, now: number) => NonceAnswer
  /** How many nonces are held. */
  readonly size: () => number
  /** Memory that the tables take, bytes. */
  readonly bytes: () => number
}

const bucketSeconds = 60
const tablesPerBucket = 256
const digestWords = 4
const firstSlots = 8
const maxLoad = 0.9
const growth = 1.25

export const make = (options: {
  /** How far a timestamp may lie in the past, seconds. */
  readonly windowSeconds: number
  /** The most nonces that are held. */
  readonly limit: number
}): NonceCache => {
  const buckets = new Map<number, Bucket>()
  let held = 0
  /** Timestamps below this one belong to buckets that may have been dropped. */
  let forgottenBefore = Number.NEGATIVE_INFINITY

  const dropOld = (now: number): void => {
    const oldest = now - options.windowSeconds
    for (const [index, bucket] of buckets) {
      const end = (index + 1) * bucketSeconds
      if (end > oldest) continue
      buckets.delete(index)
      held -= bucket.size()
      forgottenBefore = Math.max(forgottenBefore, end)
    }
  }

  return {
    remember: (nonce, timestamp, now) => {
      dropOld(now)
      if (timestamp < forgottenBefore) return "seen"
      const digest = digestOf(nonce)
      for (const bucket of buckets.values()) if (bucket.has(digest)) return "seen"
      if (held >= options.limit) return "full"
      const index = Math.floor(timestamp / bucketSeconds)
      let bucket = buckets.get(index)
      if (bucket === undefined) {
        bucket = makeBucket()
        buckets.set(index, bucket)
      }
      bucket.add(digest)
      held++
      return "fresh"
    },
    size: () => held,
    bytes: () => buckets.values().reduce((sum, bucket) => sum + bucket.bytes(), 0)
  }
}

// A digest whose first word is 0 would look like an empty slot.
const digestOf = (nonce: string): Uint32Array => {
  const bytes = hash("sha256", nonce, "buffer")
  const digest = new Uint32Array(digestWords)
  for (let word = 0; word < digestWords; word++) digest[word] = bytes.readUInt32LE(word * 4)
  if (digest[0] === 0) digest[0] = 1
  return digest
}

interface Bucket {
  readonly has: (digest: Uint32Array) => boolean
  /** Adds a digest that is not there. */
  readonly add: (digest: Uint32Array) => void
  readonly size: () => number
  readonly bytes: () => number
}

const makeBucket = (): Bucket => {
  const tables = Array.from({ length: tablesPerBucket }, () => new Uint32Array(firstSlots * digestWords))
  const counts = new Uint32Array(tablesPerBucket)

  const tableOf = (digest: Uint32Array): number => (digest[3] ?? 0) % tablesPerBucket

  return {
    has: (digest) => {
      const table = tables[tableOf(digest)]
      return table !== undefined && table[slotOf(table, digest)] !== 0
    },
    add: (digest) => {
      const index = tableOf(digest)
      const count = (counts[index] ?? 0) + 1
      let table = tables[index] ?? new Uint32Array(firstSlots * digestWords)
      if (count > (table.length / digestWords) * maxLoad) {
        table = grown(table)
        tables[index] = table
      }
      table.set(digest, slotOf(table, digest))
      counts[index] = count
    },
    size: () => counts.reduce((sum, count) => sum + count, 0),
    bytes: () => tables.reduce((sum, table) => sum + table.byteLength, 0)
  }
}

// Where a digest stands in a table, or the empty slot where it would. There is always an empty one.
const slotOf = (table: Uint32Array, digest: Uint32Array): number => {
  let at = ((digest[1] ?? 0) % (table.length / digestWords)) * digestWords
  while (
    table[at] !== 0
    && !(table[at] === digest[0] && table[at + 1] === digest[1] && table[at + 2] === digest[2]
      && table[at + 3] === digest[3])
  ) {
    at += digestWords
    if (at === table.length) at = 0
  }
  return at
}

const grown = (table: Uint32Array): Uint32Array<ArrayBuffer> => {
  const larger = new Uint32Array(Math.ceil((table.length / digestWords) * growth) * digestWords)
  for (let at = 0; at < table.length; at += digestWords) {
    if (table[at] === 0) continue
    const digest = table.subarray(at, at + digestWords)
    larger.set(digest, slotOf(larger, digest))
  }
  return larger
}
