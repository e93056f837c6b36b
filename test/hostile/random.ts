/** Numbers from a seed: the same seed, the same inputs. */

export interface Random {
  /** An integer from 0 up to, and without, `below`. */
  readonly int: (below: number) => number
  readonly pick: <A>(from: ReadonlyArray<A>) => A
}

export const makeRandom = (seed: number): Random => {
  let state = seed >>> 0
  // Mulberry32.
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  const int = (below: number) => Math.floor(next() * below)
  return {
    int,
    pick: (from) => {
      const picked = from[int(from.length)]
      if (picked === undefined) throw new Error("nothing to pick from")
      return picked
    }
  }
}
