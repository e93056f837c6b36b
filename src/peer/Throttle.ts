/**
 * A limit of bytes per second over all connections, as a token bucket.
 *
 * What is taken may be more than there is: the bucket is then in debt and the next one waits until it is paid, so that
 * pieces of any size keep to the limit. At most a tenth of a second's bytes are saved up.
 */
import { Clock, Effect, type Scope } from "effect"
import * as Bell from "../internal/Bell.ts"

/** What waits in `live` goes before what waits in `late`, but for every eighth time: nothing may starve. */
export type Lane = "live" | "late"

export interface Throttle {
  /** Ends once so many bytes may move. Costs nothing while there is no limit. */
  readonly take: (bytes: number, lane: Lane) => Effect.Effect<void>
  /** The limit, 0 when there is none. */
  readonly bytesPerSecond: () => number
  /** Changes it, at once and for those that wait already. 0: no limit. */
  readonly set: (bytesPerSecond: number) => Effect.Effect<void>
}

interface Waiter {
  readonly bytes: number
  readonly go: () => void
}

const savedSeconds = 0.1
const lateEvery = 8

export const make = (bytesPerSecond: number): Effect.Effect<Throttle, never, Scope.Scope> =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const now = () => Number(clock.monotonicTimeNanosUnsafe() / 1000n) / 1_000_000
    const bell = Bell.make()
    const waiting: Record<Lane, Array<Waiter>> = { live: [], late: [] }
    let rate = bytesPerSecond
    /** Bytes that may move now; below 0, what has moved too early. */
    let level = 0
    let at = now()
    let turn = 0

    const refill = (): void => {
      const time = now()
      level = Math.min(rate * savedSeconds, level + (time - at) * rate)
      at = time
    }

    const next = (): Waiter | undefined => {
      const lateFirst = ++turn % lateEvery === 0
      const [first, second] = lateFirst ? [waiting.late, waiting.live] : [waiting.live, waiting.late]
      return first.shift() ?? second.shift()
    }

    /** Lets go whoever may go; gives the milliseconds until the next one may, `undefined` when nobody waits. */
    const release = (): number | undefined => {
      refill()
      while (waiting.live.length + waiting.late.length > 0) {
        if (rate > 0 && level <= 0) return Math.ceil((-level / rate) * 1000) + 1
        const waiter = next()
        if (rate > 0) level -= waiter?.bytes ?? 0
        waiter?.go()
      }
      return undefined
    }

    const wait = (bytes: number, lane: Lane): Effect.Effect<void> =>
      Effect.callback((resume) => {
        const waiter: Waiter = { bytes, go: () => resume(Effect.void) }
        waiting[lane].push(waiter)
        bell.ring()
        return Effect.sync(() => {
          const index = waiting[lane].indexOf(waiter)
          if (index >= 0) waiting[lane].splice(index, 1)
        })
      })

    yield* Effect.gen(function*() {
      const rung = yield* bell.next
      const millis = release()
      yield* millis === undefined ? rung : Effect.raceFirst(Effect.sleep(millis), rung)
    }).pipe(Effect.forever, Effect.forkScoped)

    return {
      take: (bytes, lane) =>
        rate === 0 ? Effect.void : Effect.suspend(() => {
          refill()
          if (level <= 0 || waiting.live.length + waiting.late.length > 0) return wait(bytes, lane)
          level -= bytes
          return Effect.void
        }),
      bytesPerSecond: () => rate,
      set: (bytesPerSecond) =>
        Effect.sync(() => {
          refill()
          // What was saved up was saved at another rate.
          level = bytesPerSecond === 0 ? 0 : Math.min(level, 0)
          rate = bytesPerSecond
          bell.ring()
        })
    }
  })
