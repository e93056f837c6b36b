/** Reads what a node says of itself in the text format of Prometheus. */
import { Effect } from "effect"

export const scrape = (url: string) =>
  Effect.promise(async () => {
    const response = await fetch(`${url}/metrics`)
    return { code: response.status, type: response.headers.get("content-type"), text: await response.text() }
  })

/** The value of a series, written as Prometheus does: `name{label="value"}`; `undefined`: there is none. */
export const valueOf = (text: string, series: string): number | undefined => {
  const line = text.split("\n").find((line) => line.startsWith(`${series} `))
  return line === undefined ? undefined : Number(line.slice(series.length + 1))
}

/** The names of all series. */
export const namesIn = (text: string): ReadonlySet<string> =>
  new Set(text.split("\n").flatMap((line) => /^([a-z]\w*)[ {]/.exec(line)?.[1] ?? []))
