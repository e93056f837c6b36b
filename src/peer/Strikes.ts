/**
 * What goes wrong before a peer has shown the secret, counted by its address: told once and then once a minute with a
 * count, and answered ever more slowly. So neither the log nor the number of guesses grows with what somebody sends.
 */
import { Effect, type Scope } from "effect"

export interface Strikes {
  /** Counts an offence and tells of it, now or with the others of the minute. */
  readonly note: (address: string, what: string) => Effect.Effect<void>
  /**
   * How long an answer to this address waits, milliseconds: a tenth of a second behind its first offence, whatever that
   * was, then twice as long each time, up to two seconds. A minute without one forgets them.
   */
  readonly pause: (address: string) => number
}

interface Offences {
  /** Since the address has last been quiet for a minute. */
  times: number
  /** Those of them that nobody has been told of. */
  untold: number
  last: string
}

const firstPauseMillis = 100
const longestPauseMillis = 2000
/** Addresses that are told apart; all others are one. */
const manyAddresses = 1024
const others = "other addresses"

export const make: Effect.Effect<Strikes, never, Scope.Scope> = Effect.gen(function*() {
  const known = new Map<string, Offences>()

  const tellAll = Effect.suspend(() => {
    const told: Array<Effect.Effect<void>> = []
    for (const [address, offences] of known) {
      if (offences.untold === 0) known.delete(address)
      else {told.push(
          Effect.logWarning(`${offences.untold} more from ${address} within a minute, the last: ${offences.last}`)
        )}
      offences.untold = 0
    }
    return Effect.all(told, { discard: true })
  })
  yield* Effect.sleep("1 minute").pipe(Effect.andThen(tellAll), Effect.forever, Effect.forkScoped)

  const nameOf = (address: string): string => known.has(address) || known.size < manyAddresses ? address : others

  return {
    note: (address, what) =>
      Effect.suspend(() => {
        const name = nameOf(address)
        const offences = known.get(name)
        if (offences === undefined) {
          known.set(name, { times: 1, untold: 0, last: what })
          return Effect.logWarning(what)
        }
        offences.times++
        offences.untold++
        offences.last = what
        return Effect.void
      }),
    pause: (address) => {
      const { times } = known.get(nameOf(address)) ?? { times: 1 }
      return Math.min(longestPauseMillis, firstPauseMillis * 2 ** Math.min(times - 1, 10))
    }
  }
})
