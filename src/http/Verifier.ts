/** Runs the verification that somebody asked for over HTTP, one at a time, and knows how it goes. */
import { Cause, Clock, Context, Effect, FiberHandle, Layer, Option } from "effect"
import { Scrub, type ScrubReport } from "../replication/Scrub.ts"
import { verifyLock } from "../sqlite/FolderLock.ts"
import type { Verification } from "./answers.ts"

type Verification = typeof Verification.Type

export class Verifier extends Context.Service<Verifier, {
  /** Begins a verification unless one runs, and gives how it stands. Reads at most so much, 0: as fast as it goes. */
  readonly begin: (bytesPerSecond: number) => Effect.Effect<Verification>
  /** The one that runs, or ran last since the start of this process. */
  readonly latest: Effect.Effect<Option.Option<Verification>>
}>()("file-replication/http/Verifier") {}

const told = ({ bytes, checked, damaged, missing, started }: ScrubReport) => ({
  started_ms: started,
  checked,
  bytes,
  damaged,
  missing
})

/** `stateFolder`: the node's, where a verify beside it takes its lock too. */
export const layer = (stateFolder: string): Layer.Layer<Verifier, never, Scrub> =>
  Layer.effect(
    Verifier,
    Effect.gen(function*() {
      const scrub = yield* Scrub
      const running = yield* FiberHandle.make()
      let latest = Option.none<Verification>()

      const tell = (report: ScrubReport, running: boolean, error: string | null) => {
        latest = Option.some({ running, ...told(report), error })
      }

      const verify = Effect.fnUntraced(function*(bytesPerSecond: number, started: number) {
        let last: ScrubReport = { started, checked: 0, bytes: 0, damaged: 0, missing: 0 }
        yield* verifyLock(stateFolder).pipe(
          Effect.andThen(scrub.verify({
            bytesPerSecond,
            onProgress: (report) => {
              last = report
              tell(report, true, null)
            }
          })),
          Effect.scoped,
          Effect.matchCauseEffect({
            onSuccess: (report) => Effect.sync(() => tell(report, false, null)),
            onFailure: (cause) =>
              Effect.suspend(() => {
                const error = Cause.squash(cause)
                tell(last, false, error instanceof Error ? error.message : String(error))
                return Effect.logError("the verification ended before its end", cause)
              })
          })
        )
      })

      return {
        begin: Effect.fnUntraced(function*(bytesPerSecond) {
          if (Option.isSome(latest) && latest.value.running) return latest.value
          const started = yield* Clock.currentTimeMillis
          const begun = {
            running: true,
            started_ms: started,
            checked: 0,
            bytes: 0,
            damaged: 0,
            missing: 0,
            error: null
          }
          latest = Option.some(begun)
          yield* FiberHandle.run(running, verify(bytesPerSecond, started))
          return begun
        }),
        latest: Effect.sync(() => latest)
      }
    })
  )
