/** How fast bytes come, from a counter that is read now and then. Pure. */

/** What a counter said at a time, in milliseconds. */
export interface Sample {
  readonly at: number
  readonly bytes: number
}

/** How far back the rate looks, milliseconds: long enough to be smooth, short enough to show a peer that stopped. */
const windowMillis = 10_000

/** The samples that still count, with a new one behind them. One just outside of the window stays: its border. */
export const observe = (samples: ReadonlyArray<Sample>, sample: Sample): ReadonlyArray<Sample> => {
  const from = samples.findLastIndex(({ at }) => at <= sample.at - windowMillis)
  return [...samples.slice(Math.max(from, 0)), sample]
}

/** Bytes per second between the first sample and the last; 0 when they tell nothing. */
export const bytesPerSecond = (samples: ReadonlyArray<Sample>): number => {
  const first = samples[0]
  const last = samples.at(-1)
  if (first === undefined || last === undefined || last.at <= first.at) return 0
  return Math.max(0, Math.round(((last.bytes - first.bytes) * 1000) / (last.at - first.at)))
}

/** How long this many bytes take, milliseconds; `undefined` when nothing comes although something must. */
export const etaMillis = (bytesLeft: number, bytesPerSecond: number): number | undefined => {
  if (bytesLeft === 0) return 0
  return bytesPerSecond === 0 ? undefined : Math.ceil((bytesLeft / bytesPerSecond) * 1000)
}
