/** How the demo shows what happens: lines redrawn in place on a terminal, plain lines otherwise. */
import { Clock, Console, Effect, Stdio, SubscriptionRef } from "effect"
import type { Progress } from "../Supervision.ts"
import type { Node } from "./nodes.ts"

const units = ["B", "KiB", "MiB", "GiB", "TiB"]

/** `bytes` as a person reads it: `1.5 MiB`. */
export const size = (bytes: number): string => {
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10))
  const value = bytes / 1024 ** power
  return `${value.toFixed(power === 0 || value >= 100 ? 0 : 1)} ${units[power]}`
}

/** A table with a head, columns as wide as their widest cell; all but the first flush right. */
export const table = (rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  const line = (row: ReadonlyArray<string>) =>
    row.map((cell, column) => column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0))
      .join("   ").trimEnd()
  const [head = [], ...body] = rows.map(line)
  return [head, "-".repeat(widths.reduce((sum, width) => sum + width + 3, -3)), ...body].join("\n")
}

/** One node's line: files, bytes, rate, what is left. */
export const progressLine = (
  { name, role }: Pick<Node, "name" | "role">,
  progress: Progress,
  bytesPerSecond: number,
  total: number
): string => {
  const { owed, ready, verified } = progress
  const upToDate = verified.files === total ? "complete" : "up to date"
  const left = owed.files > 0 ? `${owed.files} left (${size(owed.bytes)})` : ready ? upToDate : progress.reason
  return `${name.padEnd(10)} ${role.padEnd(7)} ${`${verified.files}/${total}`.padStart(9)} files ${
    size(verified.bytes).padStart(9)
  } ${`${size(bytesPerSecond)}/s`.padStart(11)}   ${left}`
}

/** What came over the wire, or for a writer what it wrote. */
const movedBytes = ({ bytes, verified }: Progress): number => (bytes > 0 ? bytes : verified.bytes)

const interval = { terminal: 250, plain: 1000 }

/** Shows the nodes, which will hold `total` files each, until it is interrupted; the last state stays on the screen. */
export const showProgress = Effect.fn("showProgress")(function*(
  nodes: ReadonlyArray<Node>,
  total: number,
  toStderr: boolean
) {
  const { stdoutIsTerminal } = yield* Stdio.Stdio
  const terminal = toStderr ? process.stderr.isTTY : yield* stdoutIsTerminal
  const stream = toStderr ? process.stderr : process.stdout
  const say = toStderr ? Console.error : Console.log
  const before = new Map<string, { readonly moved: number; readonly at: number; readonly line: string }>()
  let drawn = false

  const draw = Effect.gen(function*() {
    const at = yield* Clock.currentTimeMillis
    const lines: Array<string> = []
    for (const { name, progress, role } of nodes) {
      const now = yield* SubscriptionRef.get(progress)
      const last = before.get(name)
      const moved = movedBytes(now)
      const rate = last === undefined || at === last.at ? 0 : (moved - last.moved) * 1000 / (at - last.at)
      const line = progressLine({ name, role }, now, rate, total)
      before.set(name, { moved, at, line })
      if (terminal || line !== last?.line) lines.push(line)
    }
    if (terminal) {
      const up = drawn ? `\x1b[${nodes.length}A` : ""
      yield* Effect.sync(() => stream.write(`${up}${lines.map((line) => `\x1b[2K${line}\n`).join("")}`))
      drawn = true
    } else yield* Effect.forEach(lines, (line) => say(line), { discard: true })
  })
  return yield* draw.pipe(
    Effect.andThen(Effect.sleep(terminal ? interval.terminal : interval.plain)),
    Effect.forever,
    Effect.ensuring(draw)
  )
})
