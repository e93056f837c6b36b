import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Option, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Revision } from "../../src/ports/FileEntry.ts"
import { type CursorLost, type EventBatch, Manifest, type Unavailable } from "../../src/ports/Manifest.ts"
import { Background } from "../../src/replication/Background.ts"
import { gapBehind, nextGap } from "../../src/replication/Contact.ts"
import { Readiness } from "../../src/replication/Readiness.ts"
import { clusterLayer, fileOf, untilReady, untilStatus } from "./node.ts"

const register = (path: string) => Effect.flatMap(Manifest, (manifest) => manifest.register(fileOf(path).entry))

describe("the gap behind the manifest", () => {
  const cursor = (revision: number, epoch = "e") => ({ epoch, revision: Revision.make(revision), mark: `${revision}` })
  const at = (revision: number) => Option.some(cursor(revision))

  it("is as old as the position that is waited for, however far the manifest goes on", () => {
    const gap = nextGap(Option.none(), cursor(3), at(2), 1000)
    assert.deepStrictEqual(gap, Option.some({ at: cursor(3), since: 1000 }))
    assert.deepStrictEqual(nextGap(gap, cursor(9), at(2), 2000), gap)
    assert.deepStrictEqual(gapBehind(gap, at(3)), Option.none())
    assert.deepStrictEqual(nextGap(gap, cursor(9), at(2), 500), Option.some({ at: cursor(3), since: 500 }))
    // Whoever keeps up with a manifest that goes on all the time is never far behind.
    assert.deepStrictEqual(nextGap(gap, cursor(9), at(3), 2000), Option.some({ at: cursor(9), since: 2000 }))
    assert.deepStrictEqual(nextGap(gap, cursor(9), at(9), 2000), Option.none())
  })

  it("begins anew with another history", () => {
    const gap = Option.some({ at: cursor(3), since: 1000 })
    const other = cursor(1, "f")
    assert.deepStrictEqual(nextGap(gap, other, at(2), 2000), Option.some({ at: other, since: 2000 }))
    // Of a backup that was put back, which has the same name and never told of that position.
    const restored = cursor(2)
    assert.deepStrictEqual(nextGap(gap, restored, at(1), 2000), Option.some({ at: restored, since: 2000 }))
    assert.deepStrictEqual(nextGap(gap, restored, at(2), 2000), Option.none())
  })

  /** A manifest whose stream of events does something else from the moment on that `broken` says. */
  const breaking = (
    how: (
      events: Stream.Stream<EventBatch, CursorLost | Unavailable>
    ) => Stream.Stream<EventBatch, CursorLost | Unavailable>
  ) => {
    let asked = 0
    const state = { broken: false, asked: () => asked }
    const manifest = (inner: Manifest["Service"]): Manifest["Service"] => ({
      ...inner,
      events: (after) =>
        Stream.suspend(() => {
          asked++
          return how(inner.events(after))
        })
    })
    return { state, manifest }
  }

  it.effect("keeps a node from being ready when the manifest tells of more and its events fall silent", () =>
    Effect.suspend(() => {
      const { manifest, state } = breaking(
        Stream.filterEffect(() => state.broken ? Effect.never : Effect.succeed(true))
      )
      return Effect.gen(function*() {
        yield* register("db/a")
        yield* untilReady
        state.broken = true
        yield* register("db/b")
        yield* TestClock.adjust("5 seconds")
        const { cursor, ready } = yield* (yield* Readiness).status
        assert.isTrue(ready, "what comes in moments is no reason")
        assert.strictEqual(Option.getOrThrow(cursor).revision, 1)
        yield* untilStatus(({ ready }) => !ready)
        assert.match(
          (yield* (yield* Readiness).status).reason,
          /^the manifest has told of revision 2, and for \d+ s what was followed is 1$/
        )
      }).pipe(Effect.provide(clusterLayer({ manifest })))
    }))

  it.effect("is closed by following anew where a stream of events ends, once a second", () =>
    Effect.suspend(() => {
      const { manifest, state } = breaking((events) => state.broken ? Stream.empty : Stream.take(events, 1))
      return Effect.gen(function*() {
        yield* register("db/a")
        yield* untilReady
        state.broken = true
        yield* register("db/b")
        const before = state.asked()
        yield* untilStatus(({ ready }) => !ready)
        assert.isAtMost(state.asked() - before, 30)
        assert.include(
          Option.getOrThrow((yield* (yield* Readiness).status).catchUp.lastError),
          "its stream of events has ended"
        )
        state.broken = false
        yield* untilReady
        assert.strictEqual((yield* (yield* Readiness).status).verified.files, 2)
      }).pipe(Effect.provide(clusterLayer({ manifest })))
    }))

  it.effect("is nothing that comes again when the follower has ended by a bug: the node says so", () =>
    Effect.suspend(() => {
      const { manifest, state } = breaking(
        Stream.tap(() => state.broken ? Effect.die(new Error("a bug")) : Effect.void)
      )
      return Effect.gen(function*() {
        yield* register("db/a")
        yield* untilReady
        const failing = yield* Effect.forkChild(Effect.flip((yield* Background).failure))
        state.broken = true
        yield* register("db/b")
        assert.strictEqual((yield* Fiber.join(failing)).what, "the follower of the manifest")
        const { ready, reason } = yield* (yield* Readiness).status
        assert.isFalse(ready)
        assert.strictEqual(
          reason,
          "the follower of the manifest ended: Error: a bug; see the log, and start this node again"
        )
      }).pipe(Effect.provide(clusterLayer({ manifest })))
    }))
})
