/** The node's side of `Supervision.ts`. */
import { Duration, Effect, FiberSet, Queue, Result, Schedule, Stdio, Stream } from "effect"
import { FetchServer } from "../peer/FetchServer.ts"
import { Manifest } from "../ports/Manifest.ts"
import { Membership } from "../ports/Membership.ts"
import { Puller } from "../replication/Puller.ts"
import { Readiness } from "../replication/Readiness.ts"
import { Registrar } from "../replication/Registrar.ts"
import { exportManifest } from "./manifest.ts"
import { type Command, decodeCommand, encodeReport, type Report } from "./Supervision.ts"
import { fileBytes } from "./userFiles.ts"

/** Between two reports of progress. */
const interval = Duration.millis(200)

export const supervised = Effect.gen(function*() {
  const { stdin, stdout } = yield* Stdio.Stdio
  const manifest = yield* Manifest
  const membership = yield* Membership
  const readiness = yield* Readiness
  const registrar = yield* Registrar
  const puller = yield* Puller
  const server = yield* FetchServer
  const reports = yield* Queue.unbounded<Report>()
  const report = (given: Report) => Queue.offer(reports, given)

  const progress = Effect.gen(function*() {
    const { owed, ready, reason, verified } = yield* readiness.status
    const { attempts, bytes, failed, pulled, skippedSelf } = yield* puller.stats
    yield* report({ _tag: "Progress", ready, reason, verified, owed, pulled, bytes, skippedSelf, failed, attempts })
  })

  const untilReady = readiness.changes.pipe(Stream.filter(({ ready }) => ready), Stream.take(1), Stream.runDrain)

  // A file counts as pulled a moment after it is verified.
  const untilIdle = Effect.repeat(puller.stats, {
    until: ({ inFlight, queueDepth }) => inFlight + queueDepth === 0,
    schedule: Schedule.spaced("10 millis")
  })

  const carryOut = Effect.fnUntraced(function*(command: Command) {
    switch (command._tag) {
      case "Publish":
        yield* registrar.publish({ path: command.as }, fileBytes(command.file))
        return {}
      case "Head":
        return { at: yield* manifest.head }
      case "Await":
        yield* readiness.await(command.at)
        yield* untilReady
        yield* untilIdle
        yield* progress
        return {}
      case "Export":
        yield* exportManifest(command.to)
        return {}
    }
  })

  const answer = (command: Command) =>
    carryOut(command).pipe(
      Effect.flatMap((done) => report({ _tag: "Done", id: command.id, ...done })),
      Effect.catch((error) => report({ _tag: "Failed", id: command.id, message: error.message }))
    )

  const commands = stdin.pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.mapEffect((line) => Effect.result(decodeCommand(line))),
    Stream.runForEach((command) =>
      Result.isSuccess(command)
        ? FiberSet.run(running, answer(command.success))
        : Effect.logError(`a command that is none was ignored: ${command.failure.message}`)
    )
  )

  const running = yield* FiberSet.make()
  yield* report({ _tag: "Started", node: membership.self.id, address: server.address })
  yield* progress.pipe(
    Effect.catchTag("InventoryError", (error) => Effect.logError(error.message)),
    Effect.repeat(Schedule.spaced(interval)),
    Effect.forkScoped
  )
  yield* Stream.fromQueue(reports).pipe(
    Stream.map((each) => `${encodeReport(each)}\n`),
    Stream.run(stdout({ endOnDone: false })),
    Effect.forkScoped
  )
  yield* Effect.ignore(commands)
}).pipe(Effect.scoped)
