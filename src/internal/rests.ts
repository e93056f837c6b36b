/** Pure. A rest twice as long as the last one, which is 0 at first; milliseconds. */
export const doubled = (last: number, first: number, longest: number): number =>
  Math.min(longest, Math.max(first, 2 * last))

/**
 * Pure. How long a peer rests that has failed again behind such a rest: a minute at first, an hour at most;
 * milliseconds.
 */
export const peerRest = (last: number): number => doubled(last, 60_000, 3_600_000)
