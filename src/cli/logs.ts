/** What a node logs, on standard error: readable lines on a terminal, one JSON object a line otherwise. */
import { Cause, Layer, Logger, type LogLevel } from "effect"
import { printable } from "./printable.ts"

export type LogFormat = "text" | "json"

const dim = "2"
const colors: Partial<Record<LogLevel.LogLevel, string>> = {
  Fatal: "31;1",
  Error: "31",
  Warn: "33",
  Debug: dim,
  Trace: dim
}

/** Pure: a line for people, in colour or not. Times are of this machine's zone. */
export const line = (
  entry: {
    readonly date: Date
    readonly level: LogLevel.LogLevel
    readonly message: unknown
    readonly cause: Cause.Cause<unknown>
  },
  color: boolean
): string => {
  const paint = (text: string, code: string | undefined) =>
    color && code !== undefined ? `\u001b[${code}m${text}\u001b[0m` : text
  const { date, level } = entry
  const two = (part: number) => String(part).padStart(2, "0")
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
  const parts = Array.isArray(entry.message) ? entry.message : [entry.message]
  const message = printable(parts.map((part) => typeof part === "string" ? part : JSON.stringify(part)).join(" "))
  const cause = entry.cause.reasons.length === 0 ? "" : `\n${Cause.pretty(entry.cause)}`
  return `${paint(time, dim)} ${paint(level.toUpperCase().padEnd(5), colors[level])} ${
    paint(message, colors[level])
  }${cause}`
}

const text = (color: boolean) =>
  Logger.make<unknown, string>(({ cause, date, logLevel, message }) =>
    line({ date, level: logLevel, message, cause }, color)
  )

/** `undefined`: as standard error asks for. `NO_COLOR` is respected. */
export const layer = (format: LogFormat | undefined): Layer.Layer<never> => {
  const terminal = process.stderr.isTTY === true
  const chosen = format ?? (terminal ? "text" : "json")
  const noColor = process.env["NO_COLOR"]
  const color = terminal && (noColor === undefined || noColor === "")
  return Logger.layer([Logger.withConsoleError(chosen === "json" ? Logger.formatJson : text(color))])
}
