/**
 * Publishes files of this node.
 *
 * The order is what makes it safe: the bytes are staged, hashed as they are written and made durable; recorded as
 * pending; registered; and only then visible. A crash at any point leaves either nothing or something that the next
 * start finishes, and two nodes that publish one path never show two contents.
 *
 * Registrations go through one bounded queue into the manifest, many in one request. Closing the scope drains it,
 * within a deadline; what is left stays pending.
 */
import { Clock, Context, Duration, Effect, Exit, Fiber, FiberSet, Layer, Option, Schema, Scope, Stream } from "effect"
import { filesAre } from "../internal/files.ts"
import { agrees, Backend, BackendError, type FileStat, type Held, type Staged } from "../ports/Backend.ts"
import { explain } from "../ports/explain.ts"
import { FileEntry, type Registered } from "../ports/FileEntry.ts"
import { FilePath } from "../ports/FilePath.ts"
import { Inventory, type InventoryError, type Pending } from "../ports/Inventory.ts"
import {
  Conflict,
  Gone,
  Manifest,
  maxReplacement,
  type Refusal,
  TooLarge,
  type Unavailable
} from "../ports/Manifest.ts"
import { Membership } from "../ports/Membership.ts"
import * as Traces from "../telemetry/Traces.ts"
import { Background } from "./Background.ts"
import { describe as describeBy, InvalidEntry, type NewFile } from "./newFile.ts"
import * as PathLock from "./PathLock.ts"
import { Placement } from "./Placement.ts"
import * as Registrations from "./registrations.ts"
import { unavailable } from "./registrations.ts"
import * as Replacing from "./replacing.ts"
import { Room } from "./Room.ts"

export { InvalidEntry, type NewFile }

/** A file to publish, with its bytes: all at once, or as they come. */
export interface NewBytes<E = never, R = never> extends NewFile {
  readonly bytes: Uint8Array | Stream.Stream<Uint8Array, E, R>
}

export type PublishError = InvalidEntry | Refusal | Unavailable | BackendError | InventoryError

export class Registrar extends Context.Service<Registrar, {
  /**
   * Writes a file, registers it and shows it; when it returns, peers can fetch it. The same bytes again are fine.
   * Other bytes under a taken path are a `Conflict`, and what is stored stays as it was. `Unavailable`: the bytes are
   * safe on this disk, and are registered once the manifest answers. `EntryRefused`: they are safe too, and registered
   * once somebody has mended what is in their way. `BackendError` `NoSpace`: the disk has no room
   * beside its reserve, and nothing is kept.
   */
  readonly publish: <E = never, R = never>(
    file: NewFile,
    bytes: Uint8Array | Stream.Stream<Uint8Array, E, R>
  ) => Effect.Effect<Registered, PublishError | E, R>
  /**
   * Registers a file that another program has put into the data folder, whole. Nothing may write to it any more. With
   * `Conflict` the path belongs to other bytes, and the file is set aside in quarantine, because no node may show two
   * contents; with `Gone` it stays where it is, and nobody replicates it. `BackendError` `NotFound`: nothing lies there; `Io`: it is
   * not, or not any more, as it was `seen`.
   */
  readonly adopt: (file: NewFile, seen?: FileStat) => Effect.Effect<Registered, PublishError>
  /**
   * Writes files that take the place of others: nobody ever sees a part of it, on any node, at any time. At most 100
   * paths in all. `Gone`: a file that should be replaced is not in the manifest, or a new path was deleted
   * before; nothing was done. One replacement at a time; what is not finished when the process ends is finished by the
   * next start, before any other. Two nodes must not replace the same files: leave that to one.
   */
  readonly replace: <E = never, R = never>(
    add: ReadonlyArray<NewBytes<E, R>>,
    remove: ReadonlyArray<{ readonly path: string; readonly reason: string }>
  ) => Effect.Effect<Replacing.Replaced, PublishError | TooLarge | E, R>
}>()("file-replication/Registrar") {}

export interface RegistrarOptions {
  /** Registrations that may wait for the manifest; one more fails `Unavailable`. */
  readonly queueSize: number
  /** How long closing waits for the queue to drain, milliseconds. */
  readonly drainMillis: number
  /**
   * Whether this process is the node itself, which finishes what is pending from earlier. A guest beside it leaves
   * what others have pending alone.
   */
  readonly finishesPending: boolean
  /** How often files that could not be registered are tried again, milliseconds; 0: only at a start. */
  readonly reconcileIntervalMillis: number
}

/** The token of a pending file that was never staged: it lies under its own name. */
const inPlace = "in-place"

export const layer = (
  options: RegistrarOptions
): Layer.Layer<Registrar, never, Background | Backend | Inventory | Manifest | Membership | Placement | Room> =>
  Layer.effect(
    Registrar,
    Effect.gen(function*() {
      const backend = yield* Backend
      const inventory = yield* Inventory
      const manifest = yield* Manifest
      const placement = yield* Placement
      const room = yield* Room
      const background = yield* Background
      const { end, register } = yield* Registrations.make(options.queueSize)
      const { self } = yield* Membership
      // One file a path at a time. Not the lock under which files are shown: a manifest that does not answer may hold
      // this one for long, and a pull must not wait for it.
      const { withLock } = yield* PathLock.make
      const replacing = yield* Replacing.make

      // ---------------------------------------------------------------------
      // From sealed bytes to a visible file. Goes on when the caller has gone.
      // ---------------------------------------------------------------------

      const finishing = yield* FiberSet.make()
      yield* Effect.addFinalizer(Effect.fnUntraced(function*() {
        yield* end
        const drained = yield* FiberSet.awaitEmpty(finishing).pipe(
          Effect.timeoutOption(Duration.millis(options.drainMillis))
        )
        if (Option.isSome(drained)) return
        const left = yield* FiberSet.size(finishing)
        yield* Effect.logWarning(`${filesAre(left)} written but not registered; the next start does that`)
      }))

      // The node's tracer, whoever publishes.
      const tracer = yield* Effect.tracer
      const published = (entry: FileEntry) => <E, R>(effect: Effect.Effect<Registered, E, R>) =>
        effect.pipe(
          Traces.sinceRegistration("publish", entry, self.id, ({ revision }: Registered) => ({ revision })),
          Effect.withTracer(tracer)
        )

      /** Registers a pending file and shows it. */
      const finish = Effect.fnUntraced(function*({ entry }: Pending, staged: Staged) {
        const file = yield* register(entry).pipe(
          Effect.tapErrorTag(["Conflict", "Gone"], () => Effect.andThen(inventory.unpend(entry.path), staged.discard))
        )
        const placed = yield* placement.place(file, staged).pipe(
          // Damaged after they were hashed: a peer that has the file is the only hope, and the puller asks.
          Effect.catchTag("DigestMismatch", (error) =>
            Effect.andThen(
              Effect.logError(error.message),
              Effect.as(inventory.unpend(entry.path), "Withdrawn" as const)
            )),
          // It stays pending and is tried again; meanwhile its debt says why, where the manifest has told of it already.
          Effect.tapErrorTag(
            "BackendError",
            ({ message }) =>
              Effect.flatMap(Clock.currentTimeMillis, (now) => inventory.postpone(file, now, message, []))
          )
        )
        if (placed === "Placed") return file
        return yield* new Gone({ path: entry.path, reason: "deleted while it was published" })
      }, (effect, { entry }) => published(entry)(effect))

      /** Registers a pending file that lies under its name already. */
      const finishInPlace = Effect.fnUntraced(function*({ entry }: Pending, held: Held) {
        const { path } = entry
        const setAside = Effect.gen(function*() {
          yield* Effect.logWarning(`${path} belongs to other bytes; what was found there is set aside in quarantine`)
          yield* placement.setAside(path, held)
        })
        const file = yield* register(entry).pipe(
          Effect.tapErrorTag("Conflict", ({ kind }) => kind === "OtherBytes" ? setAside : Effect.void),
          Effect.tapErrorTag(["Conflict", "Gone"], () => inventory.unpend(path))
        )
        const placed = yield* placement.adopt(file, held)
        if (Option.contains(placed, "Placed")) return file
        yield* inventory.unpend(path)
        if (Option.isSome(placed)) return yield* new Gone({ path, reason: "deleted while it was registered" })
        return yield* notAsItWas(path)
      })

      /** Finishes what an earlier process, or an unreachable manifest, has left behind. */
      const resume = Effect.fnUntraced(function*(pending: Pending) {
        const { entry, token } = pending
        const staged = yield* backend.unseal(entry.path, token)
        if (Option.isSome(staged)) return yield* Effect.asVoid(finish(pending, staged.value))
        // It may have become visible just before the crash.
        const held = yield* backend.adopt(entry.path)
        if (Option.isSome(held) && agrees(held.value, entry)) {
          return yield* Effect.asVoid(finishInPlace(pending, held.value))
        }
        yield* Effect.logWarning(`${entry.path} was written but never registered, and its bytes are gone; given up`)
        yield* inventory.unpend(entry.path)
      }, Effect.scoped)

      const describe = (file: NewFile, sha256: string, size: number) => describeBy(file, sha256, size, self.id)

      /** Finishes what is pending under a path, so that it can have another. */
      const clear = Effect.fnUntraced(function*(path: FilePath) {
        if (yield* replacing.holds(path)) {
          return yield* unavailable(`${path} is part of a replacement that is not finished`)
        }
        const [before] = yield* inventory.look([path])
        if (before?.pending === undefined) return
        if (!options.finishesPending) return yield* unavailable(`the node beside has ${path} pending; it finishes it`)
        // Whatever becomes of the older one, this one has its own answer.
        yield* resume(before.pending).pipe(Effect.catchTag(["Conflict", "Gone"], () => Effect.void))
      })

      const seal = Effect.fnUntraced(function*(file: NewFile, staged: Staged) {
        const { sha256, size, token } = yield* staged.seal
        return { entry: yield* describe(file, sha256, size), token }
      })

      /** Drops sealed files, all of them, when the disk could not show one. What the manifest has against it comes first. */
      const checkNames = (files: ReadonlyArray<Replacing.Sealed>, givesWay = (_path: FilePath) => false) =>
        Effect.forEach(
          files,
          ({ pending: { entry } }) =>
            givesWay(entry.path) ? Effect.void : backend.checkName(entry.path).pipe(
              Effect.catchTag("BackendError", (error) =>
                Effect.flatMap(
                  Effect.orElseSucceed(manifest.check([entry]), () => []),
                  ([refusal]) => Effect.fail(refusal ?? error)
                ))
            ),
          { discard: true }
        ).pipe(Effect.tapError(() => Effect.forEach(files, ({ staged }) => staged.discard)))

      const conclude = Effect.fnUntraced(function*(file: NewFile, path: FilePath, staged: Staged) {
        yield* clear(path)
        const pending = yield* seal(file, staged)
        yield* checkNames([{ pending, staged }])
        yield* inventory.pend(pending)
        return yield* finish(pending, staged)
      })

      const write = Effect.fnUntraced(function*<E, R>(path: FilePath, bytes: NewBytes<E, R>["bytes"]) {
        const known = bytes instanceof Uint8Array
        const claim = yield* room.claim(path, known ? bytes.length : 0)
        const staged = yield* backend.stage(path)
        yield* Stream.runForEach(known ? Stream.succeed(bytes) : bytes, room.counting(path, claim, staged).write)
        return staged
      })

      /**
       * Stages as long as the caller waits, and concludes even when it does not any more. The staging goes with it.
       */
      const inTwoSteps = <A, E, R, B, E2>(
        stage: Effect.Effect<A, E, R>,
        conclude: (staged: A) => Effect.Effect<B, E2>
      ): Effect.Effect<B, E | E2, Exclude<R, Scope.Scope>> =>
        Effect.uninterruptibleMask((restore) =>
          Effect.gen(function*() {
            const scope = yield* Scope.make()
            const staged = yield* restore(Scope.provide(stage, scope)).pipe(
              Effect.onError(() => Scope.close(scope, Exit.void))
            )
            return yield* Effect.interruptible(conclude(staged)).pipe(
              Effect.ensuring(Scope.close(scope, Exit.void)),
              FiberSet.run(finishing)
            )
          })
        ).pipe(Effect.flatMap(Fiber.join))

      const publish = Effect.fn("Registrar.publish")(function*<E = never, R = never>(
        file: NewFile,
        bytes: Uint8Array | Stream.Stream<Uint8Array, E, R>
      ): Effect.fn.Return<Registered, PublishError | E, R> {
        // Whatever is wrong with the description is said before a byte is written.
        const { path } = yield* describe(file, "0".repeat(64), 0)
        return yield* inTwoSteps(write(path, bytes), (staged) => withLock(path)(conclude(file, path, staged)))
      })

      const replace = Effect.fn("Registrar.replace")(function*<E = never, R = never>(
        add: ReadonlyArray<NewBytes<E, R>>,
        remove: ReadonlyArray<{ readonly path: string; readonly reason: string }>
      ): Effect.fn.Return<Replacing.Replaced, PublishError | TooLarge | E, R> {
        if (!options.finishesPending) return yield* unavailable("only the node itself replaces files")
        const paths = add.length + remove.length
        if (paths > maxReplacement) return yield* new TooLarge({ paths, limit: maxReplacement })
        const entries = yield* Effect.forEach(add, (file) => describe(file, "0".repeat(64), 0))
        const removed = yield* Effect.forEach(remove, ({ path, reason }) =>
          Schema.decodeEffect(FilePath)(path).pipe(
            Effect.mapBoth({
              onFailure: (error) => new InvalidEntry({ path, detail: explain(error) }),
              onSuccess: (path) => ({ path, reason })
            })
          ))
        const isBelow = (path: FilePath, folder: FilePath) => path.startsWith(`${folder}/`)
        /** A folder whose files are removed may become a file, and the other way round. */
        const givesWay = (to: FilePath) => removed.some(({ path }) => isBelow(path, to) || isBelow(to, path))
        const named = [...entries, ...removed].map(({ path }) => path)
        const twice = entries.find(({ path }) => named.indexOf(path) !== named.lastIndexOf(path))
        if (twice !== undefined) return yield* new InvalidEntry({ path: twice.path, detail: "it is named twice" })
        // Always in one order, so that two callers never wait for each other.
        const locked = entries.map(({ path }) => path).sort().map((path) => withLock(path))
        return yield* inTwoSteps(
          Effect.forEach(add, (file, n) => write(entries[n]?.path ?? FilePath.make(file.path), file.bytes)),
          (staged) =>
            locked.reduce(
              (effect, lock) => lock(effect),
              replacing.run(
                removed,
                Effect.forEach(entries, ({ path }) => clear(path)).pipe(
                  Effect.andThen(
                    Effect.forEach(
                      staged,
                      (each, n) =>
                        Effect.map(seal(add[n] ?? { path: "" }, each), (pending) => ({ pending, staged: each }))
                    )
                  ),
                  Effect.tap((files) => checkNames(files, givesWay))
                )
              )
            )
        )
      })

      const take = Effect.fnUntraced(function*(file: NewFile, path: FilePath, held: Held) {
        yield* clear(path)
        const row = Option.getOrUndefined(yield* inventory.why(path))
        if (row?._tag === "Unlinking") return yield* new Gone({ path, reason: "it is being unlinked here" })
        // At revision 0 only an earlier history of the manifest knew it.
        if (row === undefined || row.file.revision === 0) {
          const pending = { entry: yield* describe(file, held.sha256, held.size), token: inPlace }
          yield* inventory.pend(pending)
          return yield* finishInPlace(pending, held)
        }
        // What a manifest asks for and what lies here: the check of the disk or the next pull settles a difference.
        const standing = row.file.entry
        if (!agrees(held, standing)) return yield* new Conflict({ path, standing, kind: "OtherBytes" })
        yield* placement.adopt(row.file, held)
        return row.file
      })

      const adopt = Effect.fn("Registrar.adopt")(function*(
        file: NewFile,
        seen?: FileStat
      ): Effect.fn.Return<Registered, PublishError> {
        const { path } = yield* describe(file, "0".repeat(64), 0)
        const held = yield* backend.adopt(path)
        if (Option.isNone(held)) {
          const detail = "no such file in the data folder"
          return yield* new BackendError({ operation: "adopt", path, reason: "NotFound", detail })
        }
        const { inode, mtime, size } = held.value
        if (seen !== undefined && (seen.inode !== inode || seen.mtime !== mtime || seen.size !== size)) {
          return yield* new BackendError({
            operation: "adopt",
            path,
            reason: "Io",
            detail: "it is still being changed"
          })
        }
        // From here on it is finished even when the caller does not wait.
        return yield* Effect.flatMap(FiberSet.run(finishing, withLock(path)(take(file, path, held.value))), Fiber.join)
      })

      /** Bytes that were sealed and never recorded, because the process ended in between, are nobody's. */
      const sweep = Effect.gen(function*() {
        const pendings = yield* inventory.pendings
        const tokens = [...pendings.map(({ token }) => token), ...yield* replacing.tokens]
        const dropped = yield* backend.dropSealed(new Set(tokens))
        if (dropped > 0) {
          yield* Effect.logInfo(`${dropped} files that were never registered have been dropped from staging`)
        }
      }).pipe(Effect.catchTag(["BackendError", "InventoryError"], (error) => Effect.logWarning(error.message)))

      const reconcile = Effect.gen(function*() {
        for (const pending of yield* inventory.pendings) {
          yield* Effect.gen(function*() {
            // Somebody who publishes right now has it in hand.
            const [local] = yield* inventory.look([pending.entry.path])
            if (local?.pending?.token !== pending.token || (yield* replacing.holds(pending.entry.path))) return
            yield* resume(pending)
          }).pipe(
            withLock(pending.entry.path),
            Effect.catch((error) =>
              Effect.logWarning(`${pending.entry.path} is not registered or not shown yet: ${error.message}`)
            )
          )
        }
      }).pipe(Effect.catchTag("InventoryError", (error) => Effect.logError(error.message)))

      if (options.finishesPending) {
        // Before anything new can be sealed.
        yield* sweep
        const rest = options.reconcileIntervalMillis === 0
          ? Effect.never
          : Effect.sleep(Duration.millis(options.reconcileIntervalMillis))
        // Apart: a replacement that waits for its manifest keeps no other file from being registered.
        const resume = replacing.resume.pipe(
          Effect.catch((error) => Effect.logWarning(`a replacement is not finished yet: ${error.message}`))
        )
        yield* background.run("the replacements of the registrar", Effect.forever(Effect.andThen(resume, rest)))
        yield* background.run("the reconcile of the registrar", Effect.forever(Effect.andThen(reconcile, rest)))
      }

      return { adopt, publish, replace }
    })
  )

const notAsItWas = (path: FilePath) =>
  new BackendError({
    operation: "adopt",
    path,
    reason: "Io",
    detail: "it was changed or removed while it was registered; if no node has the bytes that were, delete the path"
  })
