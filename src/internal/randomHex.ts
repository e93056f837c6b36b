/** Random names and nonces. */
import { randomFillSync } from "node:crypto"

/** Gives so many random bytes in hex at each call. Asking the system for many at once costs what one does. */
export const makeRandomHex = (bytes: number): () => string => {
  const pool = Buffer.alloc(64 * bytes)
  let at = pool.length
  return () => {
    if (at === pool.length) {
      randomFillSync(pool)
      at = 0
    }
    return pool.toString("hex", at, at += bytes)
  }
}
