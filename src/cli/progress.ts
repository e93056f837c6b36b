/** Long work, shown on standard error: a bar that is redrawn on a terminal, a plain line now and then otherwise. */
import { Clock, Console, Duration, Effect, Fiber } from "effect"
import { size } from "./demo/display.ts"

/** How far the work has come, in bytes. */
export interface Progress {
  readonly done: number
  /** `undefined`: not known. */
  readonly total: number | undefined
}

const cells = 24

/** Pure: one line. The rate is in bytes per second. */
export const progressLine = (
  label: string,
  { done, total }: Progress,
  bytesPerSecond: number,
  bar: boolean
): string => {
  const rate = `${size(bytesPerSecond)}/s`
  if (total === undefined || total === 0) return `${label}  ${size(done)}  ${rate}`
  const share = Math.min(1, done / total)
  const filled = Math.round(share * cells)
  const drawn = bar ? `${"█".repeat(filled)}${"░".repeat(cells - filled)} ` : ""
  const left = bytesPerSecond > 0 ? Duration.seconds(Math.ceil((total - done) / bytesPerSecond)) : undefined
  const end = share === 1 || left === undefined ? "" : `  ${Duration.format(left)} left`
  const percent = `${Math.floor(share * 100)} %`.padStart(5)
  return `${label}  ${drawn}${percent}  ${size(done)} of ${size(total)}  ${rate}${end}`
}

/** Work that ends sooner is not shown. */
const quiet = Duration.seconds(1)
const interval = { terminal: Duration.millis(200), plain: Duration.seconds(5) }

/** Shows `progress` while the work runs. */
export const showing = <A, E, R>(label: string, progress: () => Progress, work: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const terminal = process.stderr.isTTY === true
    const columns = process.stderr.columns ?? 80
    const began = yield* Clock.currentTimeMillis
    const start = progress().done
    let drawn = false
    const draw = Effect.gen(function*() {
      const now = progress()
      const seconds = Math.max(1, (yield* Clock.currentTimeMillis) - began) / 1000
      const line = progressLine(label, now, (now.done - start) / seconds, terminal)
      if (!terminal) return yield* Console.error(line)
      drawn = true
      yield* Effect.sync(() => process.stderr.write(`\r\u001b[2K${line.slice(0, columns - 1)}`))
    })
    const shown = yield* draw.pipe(
      Effect.andThen(Effect.sleep(terminal ? interval.terminal : interval.plain)),
      Effect.forever,
      Effect.delay(quiet),
      Effect.forkChild
    )
    return yield* work.pipe(
      Effect.ensuring(Effect.andThen(
        Fiber.interrupt(shown),
        Effect.sync(() => {
          if (drawn) process.stderr.write("\r\u001b[2K")
        })
      ))
    )
  })
