/** When to try again. */
import { Duration, Effect, Option, Random, Schedule } from "effect"

/** No wait between two immediate attempts is longer than this, before jitter. */
const immediateCap = Duration.seconds(30)

/** No wait between two rounds of attempts is longer than this, before jitter, in milliseconds. */
export const durableCap = 5 * 60_000

export interface RetryOptions {
  /** How often a file is tried in one round, the first time included. */
  readonly maxAttempts: number
  /** The wait behind the first attempt, in milliseconds; it doubles. */
  readonly initialBackoffMillis: number
}

/** Between the attempts of one round: doubling, capped, jittered by a fifth, bounded. */
export const immediate = (options: RetryOptions) =>
  Schedule.min([
    Schedule.exponential(Duration.millis(options.initialBackoffMillis)),
    Schedule.spaced(immediateCap)
  ]).pipe(
    Schedule.jittered,
    Schedule.upTo({ times: options.maxAttempts - 1 })
  )

/**
 * The attempts of one round: until one succeeds, the last has failed, or another can do no better. `othersWait`: a
 * worker must not be kept from others for that long, so the round ends early behind an attempt or a wait.
 */
export const immediately = <A, E, R>(
  options: RetryOptions,
  attempt: Effect.Effect<A, E, R>,
  othersWait: () => boolean,
  isVain: (error: E) => boolean
): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    let last = Option.none<E>()
    return Effect.suspend(() => Option.isSome(last) && othersWait() ? Effect.fail(last.value) : attempt).pipe(
      Effect.tapError((error) => Effect.sync(() => void (last = Option.some(error)))),
      Effect.retry({ schedule: immediate(options), while: (error) => !isVain(error) && !othersWait() })
    )
  })

/**
 * Between two tries to reach a manifest that refuses a change. Asking again is safe: what was done is answered as done.
 */
export const manifestAgain = Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("2 seconds")]).pipe(
  Schedule.jittered
)

/** How long a file rests behind its nth round without success, in milliseconds, before jitter. */
export const restMillis = (options: RetryOptions, rounds: number): number =>
  Math.min(durableCap, options.initialBackoffMillis * 2 ** Math.min(options.maxAttempts + rounds, 40))

/** {@link restMillis}, jittered by a fifth, so that debts made together are not tried together for ever. */
export const rest = (options: RetryOptions, rounds: number): Effect.Effect<number> =>
  Effect.map(Random.nextBetween(0.8, 1.2), (factor) => Math.round(restMillis(options, rounds) * factor))

/** No peer that sent wrong bytes for a file is left out for longer, milliseconds. */
const longestPause = 24 * 3_600_000

/** How long a peer rests that has sent wrong bytes for one file for the nth time, in milliseconds. */
export const pauseMillis = (options: RetryOptions, times: number): number =>
  Math.min(longestPause, options.initialBackoffMillis * 2 ** Math.min(options.maxAttempts + times - 1, 60))
