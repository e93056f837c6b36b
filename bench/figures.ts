/** Numbers of several runs, and how they are shown. */

/** Several measurements of one thing. */
export interface Figure {
  readonly median: number
  readonly min: number
  readonly max: number
}

export const percentile = (values: ReadonlyArray<number>, share: number): number => {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN
}

export const figure = (values: ReadonlyArray<number>): Figure => ({
  median: percentile(values, 0.5),
  min: Math.min(...values),
  max: Math.max(...values)
})

/** The ratios of two contenders run by run: noise that befell both of a pair cancels out. */
export const ratios = (of: ReadonlyArray<number>, to: ReadonlyArray<number>): Figure =>
  figure(of.map((value, n) => value / (to[n] ?? Number.NaN)))

export const seconds = (millis: number): string =>
  millis < 1000 ? `${millis.toFixed(1)} ms` : `${(millis / 1000).toFixed(2)} s`

export const spread = (figure: Figure, show: (value: number) => string): string =>
  `${show(figure.median)} (${show(figure.min)} - ${show(figure.max)})`

export const mebibytes = (bytes: number): string => `${(bytes / 1024 / 1024).toFixed(0)} MiB`

/** Lines of equal columns. */
export const table = (rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? "").length)))
  return rows.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ").trimEnd()).join("\n")
}
