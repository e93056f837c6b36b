/** Many questions that somebody else answers, each in its own time. */
import { type Cause, Effect, Exit } from "effect"

export interface Asked<Q, A> {
  readonly question: Q
  readonly answer: (exit: Exit.Exit<A>) => void
}

/**
 * Asks some questions and waits until each has its answer; gives them in order, or then fails as the first that failed.
 * A `Deferred` each, and waiting for one after another, would cost several times as much.
 */
export const ask = <Q, A>(
  questions: ReadonlyArray<Q>,
  offer: (asked: ReadonlyArray<Asked<Q, A>>) => void
): Effect.Effect<ReadonlyArray<A>> =>
  questions.length === 0 ? Effect.succeed([]) : Effect.callback((resume) => {
    const answers: Array<A> = []
    let failure: Cause.Cause<never> | undefined
    let left = questions.length
    offer(questions.map((question, n) => ({
      question,
      answer: (exit) => {
        if (Exit.isSuccess(exit)) answers[n] = exit.value
        else failure ??= exit.cause
        if (--left === 0) resume(failure === undefined ? Effect.succeed(answers) : Effect.failCause(failure))
      }
    })))
  })
