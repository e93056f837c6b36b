/**
 * Reading a file into a sink through a few reused buffers: while the sink has one, the next ones are being filled.
 */
import { Effect } from "effect"
import type { ByteSink } from "../ports/ByteSink.ts"
import { readAll, Refused, refused } from "./systemCalls.ts"

const large = 1024 * 1024
const small = 64 * 1024
const ahead = 3

/** Buffers between their uses, so that neither many small reads nor one long one allocate again and again. */
export interface Buffers {
  readonly take: (size: typeof small | typeof large) => Uint8Array
  readonly give: (buffer: Uint8Array) => void
}

export const makeBuffers = (): Buffers => {
  const smalls: Array<Uint8Array> = []
  const larges: Array<Uint8Array> = []
  return {
    take: (size) => (size === small ? smalls : larges).pop() ?? Buffer.allocUnsafeSlow(size),
    give: (buffer) => {
      if (buffer.length === small && smalls.length < 64) smalls.push(buffer)
      if (buffer.length === large && larges.length < 4 * ahead) larges.push(buffer)
    }
  }
}

interface Slot {
  readonly buffer: Uint8Array
  state: "idle" | "reading" | Uint8Array | Refused
  wake: (() => void) | undefined
}

/** Feeds `length` bytes from `offset` into a sink. Fails when the file ends before. */
export const feed = <E>(
  buffers: Buffers,
  fd: number,
  offset: number,
  length: number,
  sink: ByteSink<E>
): Effect.Effect<void, Refused | E> =>
  length === 0 ? Effect.void : Effect.acquireUseRelease(
    Effect.sync(() => begin(buffers, fd, offset, length)),
    Effect.fnUntraced(function*(reader) {
      for (let chunk = yield* reader.next; chunk !== undefined; chunk = yield* reader.next) {
        yield* sink.write(chunk)
      }
    }),
    (reader) => reader.end
  )

const begin = (buffers: Buffers, fd: number, offset: number, length: number) => {
  const size = length <= small ? small : large
  const slots = Array.from({ length: Math.min(ahead, Math.ceil(length / size)) }, (): Slot => ({
    buffer: buffers.take(size),
    state: "idle",
    wake: undefined
  }))
  const end = offset + length
  let position = offset
  let given = 0

  const fill = (slot: Slot): void => {
    slot.state = "idle"
    if (position === end) return
    const part = slot.buffer.subarray(0, Math.min(size, end - position))
    slot.state = "reading"
    readAll(fd, part, position, (result) => {
      slot.state = result instanceof Refused
        ? result
        : result === part.length
        ? part
        : refused("the file is shorter than it was")
      slot.wake?.()
    })
    position += part.length
  }
  for (const slot of slots) fill(slot)

  /** Waits until a slot is no longer being read into. */
  const settled = (slot: Slot): Effect.Effect<void> =>
    Effect.callback((resume) => {
      if (slot.state !== "reading") return resume(Effect.void)
      slot.wake = () => resume(Effect.void)
    })

  // The slot whose chunk the sink has just finished with.
  let used: Slot | undefined
  const take = (slot: Slot): Effect.Effect<Uint8Array, Refused> =>
    Effect.suspend(() => {
      if (slot.state instanceof Refused) return Effect.fail(slot.state)
      if (typeof slot.state === "string") return Effect.die(new Error(`a buffer was taken while it was ${slot.state}`))
      given += slot.state.length
      used = slot
      return Effect.succeed(slot.state)
    })

  return {
    next: Effect.suspend((): Effect.Effect<Uint8Array | undefined, Refused> => {
      if (used !== undefined) fill(used)
      used = undefined
      const slot = slots[Math.floor(given / size) % slots.length]
      if (given === length || slot === undefined) return Effect.undefined
      return Effect.andThen(settled(slot), take(slot))
    }),
    /** Waits for what is still being read, because its memory is not ours before. */
    end: Effect.forEach(slots, settled, { discard: true }).pipe(
      Effect.andThen(Effect.sync(() => {
        for (const slot of slots) buffers.give(slot.buffer)
      }))
    )
  }
}
