/**
 * The fibers that live as long as their layer. One that ends, by a defect or at all, is a failure of the node: it is
 * never left running without it.
 */
import { Cause, Context, Deferred, Effect, Layer, Option, Schema, type Scope } from "effect"

/** Something that must run as long as the node has ended. */
export class BackgroundFailed extends Schema.TaggedError<BackgroundFailed>()("BackgroundFailed", {
  what: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.what} ended: ${this.detail}`
  }
  /** The same in one line, without a trace. */
  get summary(): string {
    return this.message.split("\n", 1)[0] ?? ""
  }
}

export class Background extends Context.Service<Background, {
  /** Forks an effect into the scope of whoever asks; its end, unless by that scope, is everybody's failure. */
  readonly run: <A, R>(what: string, effect: Effect.Effect<A, never, R>) => Effect.Effect<void, never, R | Scope.Scope>
  /** Fails with the first failure; for a `main` to wait on. The node is not ready from then on. */
  readonly failure: Effect.Effect<never, BackgroundFailed>
  /** The first failure, if there was one. */
  readonly failed: Effect.Effect<Option.Option<BackgroundFailed>>
}>()("file-replication/Background") {}

export const layer: Layer.Layer<Background> = Layer.effect(
  Background,
  Effect.gen(function*() {
    const failed = yield* Deferred.make<never, BackgroundFailed>()
    return {
      run: Effect.fnUntraced(function*(what, effect) {
        let closing = false
        yield* effect.pipe(
          Effect.onExit((exit) => {
            if (closing && exit._tag === "Failure" && Cause.hasInterruptsOnly(exit.cause)) return Effect.void
            const detail = exit._tag === "Failure" ? Cause.pretty(exit.cause) : "without a reason"
            const error = new BackgroundFailed({ what, detail })
            return Effect.andThen(Effect.logError(error.message), Deferred.fail(failed, error))
          }),
          Effect.forkScoped
        )
        // Finalizers run last in, first out: this is known before the fiber is interrupted.
        yield* Effect.addFinalizer(() => Effect.sync(() => (closing = true)))
      }),
      failure: Deferred.await(failed),
      failed: Effect.flatMap(
        Deferred.poll(failed),
        Option.match({ onNone: () => Effect.succeedNone, onSome: (end) => Effect.asSome(Effect.flip(end)) })
      )
    }
  })
)
