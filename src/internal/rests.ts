/** Pure. A rest twice as long as the last one, which is 0 at first; milliseconds. */
export const doubled = (last: number, first: number, longest: number): number =>
  Math.min(longest, Math.max(first, 2 * last))
